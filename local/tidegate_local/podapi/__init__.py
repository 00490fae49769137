"""The pod API: the part of the Kubernetes API that Tidegate, Airflow and kubectl use, served from SQLite on loopback.

It holds objects, decides what may be written and tells watchers. What runs the pods is `tidegate_local.node`.
"""
