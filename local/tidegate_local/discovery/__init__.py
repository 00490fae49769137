"""Tells a Prometheus without `kubernetes_sd` where the worker pods are, by its `http_sd` protocol."""
