"""Ingest measured: images a second and peak memory of the seed's loader and of the worker, same server, same limits."""
