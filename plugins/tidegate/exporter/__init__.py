"""What the run store knows, as series for Prometheus: read only, and nothing that a worker tells itself."""
