"""Databases for the run store (a new SQLite file, or one on a PostgreSQL server of this run) and a cluster for pods."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.adapters.pod_bed import Cluster, started
from tests.adapters.postgres import NotHere, Postgres

from tidegate.adapters.run_store import RunStore


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    try:
        server = Postgres.start()
    except NotHere as why:
        pytest.skip(f"no PostgreSQL here: {why}")
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/runs.sqlite"
    server: Postgres = request.getfixturevalue("postgres")
    return server.url(f"runs_{secrets.token_hex(4)}")


@pytest.fixture
def store(url: str) -> Iterator[RunStore]:
    opened = RunStore.open(url)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    yield from started(tmp_path_factory.mktemp("podapi"))
