"""An engine, a base, the images built on it, and a job server on loopback; everything made here is removed again.

IMAGE names a worker image to test instead of one built here, BASE_IMAGE a base instead of a Debian made here.
TIDEGATE_IMAGE_STORE names a folder that keeps podman's storage, and with it the layers, for the next run.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.image.engine import Engine, found, small_debian

from tidegate_local.jobserver.control import JobServerProcess

BUILD_SECONDS = 3600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and item.get_closest_marker("image"):
            # The first one builds.
            item.add_marker(pytest.mark.timeout(BUILD_SECONDS))


@pytest.fixture(scope="session")
def store() -> Iterator[Path]:
    kept = os.environ.get("TIDEGATE_IMAGE_STORE")
    folder = Path(kept) if kept else Path(tempfile.mkdtemp(prefix="tidegate-images-"))
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    if not kept:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def engine(store: Path) -> Iterator[Engine]:
    engine = found(store)
    yield engine
    if engine.environment and not os.environ.get("TIDEGATE_IMAGE_STORE"):
        engine("rmi", "--all", "--force")


@pytest.fixture(scope="session")
def base(engine: Engine, store: Path) -> str:
    if named := os.environ.get("BASE_IMAGE"):
        return named
    name = "localhost/tidegate-test-base:latest"
    if engine("image", "inspect", name, check=False).returncode:
        small_debian(engine, name, store)
    return name


@pytest.fixture(scope="session")
def worker_image(engine: Engine, request: pytest.FixtureRequest) -> str:
    if named := os.environ.get("IMAGE"):
        return named
    name = "localhost/tidegate-worker:test"
    engine.build("worker", name, request.getfixturevalue("base"))
    return name


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServerProcess]:
    with JobServerProcess(tmp_path_factory.mktemp("jobserver")) as server:
        yield server
