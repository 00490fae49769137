"""Airflow is imported here: first its home."""

import tests.airflow_home  # noqa: F401
