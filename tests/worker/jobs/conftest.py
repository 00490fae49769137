from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.worker.jobs.demo_server import DemoServer, demo_server
from tests.worker.jobs.http_host import Host, running_host
from tests.worker.jobs.postgres_server import postgres_server


@pytest.fixture
def host() -> Iterator[Host]:
    with running_host() as running:
        yield running


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoServer]:
    with demo_server(tmp_path_factory.mktemp("jobserver"), save_delay_seconds=0.0, empty_poll_seconds=0.05) as running:
        yield running


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    # Not below pytest's own directory, which the server's user may not enter.
    with (
        tempfile.TemporaryDirectory(prefix="tidegate-postgres-") as directory,
        postgres_server(Path(directory)) as url,
    ):
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty ledger: tests of one session share the PostgreSQL server, so every job has a name of its own."""
    return f"sqlite:///{tmp_path}/ledger.sqlite" if request.param == "sqlite" else request.getfixturevalue("postgres")


@pytest.fixture
def job_name() -> str:
    return f"night {uuid.uuid4().hex[:8]}"
