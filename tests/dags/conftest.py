"""Airflow reads its home when it is first imported: here it gets one that nobody else uses."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest

_HOME = tempfile.TemporaryDirectory(prefix="tidegate-airflow-")
os.environ["AIRFLOW_HOME"] = _HOME.name
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"


@pytest.fixture(scope="session", autouse=True)
def _home() -> Iterator[None]:
    yield
    _HOME.cleanup()
