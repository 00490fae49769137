"""Tidegate keeps batch inference inside its memory; a worker pod shares `tidegate.core` alone."""

__version__ = "0.1.0"
