"""The command line: what an operator, a pod or a shell asks of a worker, put together from its parts."""
