"""200 kills and 50 terminations of workers over one job of each source; the quick version is tests/worker/kills.

`make soak` runs it and prints the seed and the reckoning; `SEED=n make soak` draws the same deaths again.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.worker.jobs.demo_server import DemoServer, demo_server
from tests.worker.kills.mortals import LEASE_SECONDS, Deaths, Nursery, antenna_run, manifest_run, nursery, register

pytestmark = pytest.mark.soak

DEATHS = Deaths(
    kills=200,
    terminations=50,
    seed=int(os.environ.get("SEED", random.randrange(10**6))),
    longest_life_seconds=0.7,
)
#: More than so many workers can do; the last one does what is left.
IMAGES = 4000


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoServer]:
    folder = tmp_path_factory.mktemp("jobserver")
    with demo_server(
        folder, lease_seconds=LEASE_SECONDS, collect_seconds=0.0, save_delay_seconds=0.0, empty_poll_seconds=0.05
    ) as running:
        register(running, folder)
        yield running


@pytest.fixture
def workers() -> Iterator[Nursery]:
    with nursery() as opened:
        yield opened


@pytest.mark.timeout(3000)
def test_an_antenna_job_survives_its_workers(demo: DemoServer, workers: Nursery, tmp_path: Path) -> None:
    print(DEATHS)
    print(antenna_run(workers, demo, tmp_path / "antenna", IMAGES, DEATHS))


@pytest.mark.timeout(3000)
def test_a_manifest_survives_its_workers(demo: DemoServer, workers: Nursery, tmp_path: Path) -> None:
    print(DEATHS)
    print(manifest_run(workers, demo, tmp_path / "manifest", IMAGES, DEATHS))
