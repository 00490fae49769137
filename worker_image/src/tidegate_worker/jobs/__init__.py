"""The jobs that a worker can serve: each a source of leases and the place to answer them, behind the Job port."""
