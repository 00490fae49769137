"""The one-machine stack: everything a cluster would provide, on one Linux machine with real memory limits."""

__version__ = "0.1.0"
