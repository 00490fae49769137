"""The worker: bytes in, results out, inside the memory it was given."""

__version__ = "0.1.0"
