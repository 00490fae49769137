"""How the worker reaches bytes that others serve: which addresses, how long, how much."""
