"""Airflow tasks that are pods: thin faces over control and adapters."""
