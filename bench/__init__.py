"""Benchmarks: measured claims that anyone can repeat; nothing here ships."""
