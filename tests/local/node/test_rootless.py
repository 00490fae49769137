"""The stack of an ordinary user: user namespaces instead of root, a memory cgroup that was handed over."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes import client, config
from tests.local.node.conftest import Stack

USER = 54321
#: Makes the interpreter reachable for a user who may not enter its owner's home, in a mount namespace of its own.
ENTER = """
set -e
echo $$ > "$1/cgroup.procs"
if [ -n "$2" ]; then
    home=$(dirname "$2") name=$(basename "$2")
    mkdir "$3/interpreter"
    mount --bind "$2" "$3/interpreter"
    mount -t tmpfs -o mode=755 tmpfs "$home"
    mkdir "$home/$name"
    mount --move "$3/interpreter" "$home/$name"
fi
shift 3
exec setpriv --reuid {user} --regid {user} --clear-groups --inh-caps=-all --bounding-set=-all "$@"
"""
PROGRAM = """
import os
mine = [name for name in os.listdir("/tmp") if name.startswith("tidegate-rootless")]
print(os.getuid(), open("/sys/fs/cgroup/memory/memory.limit_in_bytes").read().strip(), mine)
print(*[line.split()[1] for line in open("/proc/self/status") if line.startswith(("CapEff", "CapBnd", "NoNewPrivs"))])
open("/dev/termination-log", "w").write("last words")
held = []
while True:
    held.append(b"x" * 1048576)
"""


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A memory cgroup that belongs to the user."""
    lines = [line.split(":") for line in Path("/proc/self/cgroup").read_text().splitlines()]
    own = next((path for _, controllers, path in lines if controllers == "memory"), None)
    if os.geteuid() != 0 or own is None:
        pytest.skip("handing over a cgroup needs root and cgroup v1; on v2 systemd does it")
    folder = Path("/sys/fs/cgroup/memory") / own.lstrip("/") / f"tidegate-test-{os.getpid()}"
    folder.mkdir()
    for path in (folder, folder / "cgroup.procs", folder / "tasks"):
        os.chown(path, USER, USER)
    yield folder
    give_up = time.monotonic() + 10
    while folder.exists():
        try:
            folder.rmdir()
        except OSError:
            assert time.monotonic() < give_up, f"{folder} is still in use"
            time.sleep(0.05)


def _below_closed(path: Path) -> Path | None:
    """The outermost step of `path` that lies in a folder which others may not enter."""
    steps = [*reversed(path.parents), path]
    pairs = pairwise(steps)
    return next((inner for outer, inner in pairs if not outer.stat().st_mode & 0o001), None)


def test_an_ordinary_user_runs_pods_with_real_limits(cgroup: Path, tmp_path: Path) -> None:
    if _below_closed(Path(sys.prefix)):
        pytest.skip(f"an ordinary user cannot reach {sys.prefix}")
    hidden = _below_closed(Path(sys.base_prefix))
    folder = Path("/tmp") / f"tidegate-rootless-{os.getpid()}"
    folder.mkdir()
    os.chown(folder, USER, USER)
    command = [sys.executable, "-m", "tidegate_local", "podapi", "--workdir", str(folder / "work")]
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", ENTER.format(user=USER), "sh"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*words, str(cgroup), str(hidden or ""), str(tmp_path), *command], stdout=log, stderr=log, cwd="/"
        )
    try:
        give_up = time.monotonic() + 20
        while b"pod API at" not in (tmp_path / "log").read_bytes():
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < give_up
            time.sleep(0.05)
        kubeconfig = folder / "work" / "kubeconfig"
        api: Any = SimpleNamespace(workdir=folder / "work", kubeconfig=kubeconfig)
        stack = Stack(api, client.CoreV1Api(config.new_client_from_config(str(kubeconfig))))
        stack.run("rootless", PROGRAM, securityContext={"runAsUser": 1234})
        ended = stack.ended("rootless").status.container_statuses[0].state.terminated
        assert (ended.exit_code, ended.reason, ended.message) == (137, "OOMKilled", "last words")
        assert stack.log("rootless").splitlines() == [f"1234 {64 * 2**20} []", f"{'0' * 16} {'0' * 16} 1"]
    finally:
        process.terminate()
        process.wait(20)
        subprocess.run(["rm", "-rf", str(folder)], check=True)
    assert not [child for child in cgroup.iterdir() if child.is_dir()]
