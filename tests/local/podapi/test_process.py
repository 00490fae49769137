"""The pod API as a process: who may read its files, where it listens, what it refuses to start with."""

from __future__ import annotations

import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tidegate.core.errors import FixConfig
from tidegate_local.podapi.command import stack_name
from tidegate_local.podapi.process import PodApiProcess


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PodApiProcess]:
    try:
        running = PodApiProcess.start(tmp_path_factory.mktemp("process") / "work")
    except FixConfig as error:
        if "cgroup" not in str(error):
            raise
        pytest.skip(f"no pod can run here: {error}")
    yield running
    running.stop()


def test_what_opens_the_api_is_readable_by_its_owner_alone(api: PodApiProcess) -> None:
    assert stat.S_IMODE(api.workdir.stat().st_mode) == 0o700
    for name in ("token", "kubeconfig", "server.key"):
        assert stat.S_IMODE((api.workdir / name).stat().st_mode) == 0o600
    assert (api.workdir / "token").read_text() in api.kubeconfig.read_text()
    assert (api.workdir / "token").read_text() not in (api.workdir / "podapi.log").read_text()


def test_it_listens_on_loopback_alone(api: PodApiProcess) -> None:
    listening = [
        each.laddr.ip
        for each in psutil.Process(api.process.pid).net_connections("inet")
        if each.status == psutil.CONN_LISTEN
    ]
    assert listening == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--memory", "lots"], "--memory"),
        (["--images", "/no/such/table.yaml"], "image table"),
        (["--port", "{taken}"], "--port"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_and_ends_with_78(tmp_path: Path, options: list[str], told: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        words = [option.format(taken=port) for option in options]
        command = [sys.executable, "-m", "tidegate_local", "podapi", "--workdir", str(tmp_path / "work"), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 78
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(Path("/sys/fs/cgroup").glob(f"**/{stack_name((tmp_path / 'work').resolve())}"))


def test_an_image_table_with_a_misspelt_field_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "table.yaml"
    table.write_text("images: {x: {pyhton: /usr}}")
    with pytest.raises(FixConfig, match="pyhton"):
        PodApiProcess.start(tmp_path / "work", "--images", str(table))
