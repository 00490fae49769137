"""Airflow sensors: thin faces over control."""
