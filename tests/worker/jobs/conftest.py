from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.worker.jobs.http_host import Host, running_host


@pytest.fixture
def host() -> Iterator[Host]:
    with running_host() as running:
        yield running
