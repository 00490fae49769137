"""What is measured, in the worker's environment: the seed's loader, and pipelines for the worker to load."""
