from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.worker.jobs.demo_server import DemoServer, demo_server
from tests.worker.jobs.http_host import Host, running_host


@pytest.fixture
def host() -> Iterator[Host]:
    with running_host() as running:
        yield running


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoServer]:
    with demo_server(tmp_path_factory.mktemp("jobserver"), save_delay_seconds=0.0, empty_poll_seconds=0.05) as running:
        yield running
