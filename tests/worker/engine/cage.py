"""A real memory cgroup for a subprocess: a child of this process's own, removed at the end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tidegate_worker.cgroup import CgroupV1, own_cgroup


@dataclass
class Cage:
    directory: Path

    def limit(self, limit_bytes: int) -> None:
        (self.directory / "memory.limit_in_bytes").write_text(str(limit_bytes))

    def usage_bytes(self) -> int:
        return int((self.directory / "memory.usage_in_bytes").read_text())

    def start(self, program: str, arguments: Sequence[str] = ()) -> subprocess.Popen[str]:
        """A Python program, in the cage before its first line runs."""
        join = 'echo $$ > "$0" && exec "$@"'
        procs = str(self.directory / "cgroup.procs")
        return subprocess.Popen(
            ["sh", "-c", join, procs, sys.executable, "-c", program, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"},
        )


@contextmanager
def caged(limit_bytes: int) -> Iterator[Cage]:
    """Skips the test where no memory cgroup (v1) of our own can be made."""
    own = own_cgroup()
    if not isinstance(own, CgroupV1):
        pytest.skip("no cgroup v1 memory controller here")
    directory = own.directories[0] / f"tidegate-test-{os.getpid()}-{time.monotonic_ns()}"
    try:
        directory.mkdir()
    except OSError as error:
        pytest.skip(f"the memory cgroup is not writable: {error.strerror}")
    cage = Cage(directory)
    try:
        cage.limit(limit_bytes)
        yield cage
    finally:
        for pid in (directory / "cgroup.procs").read_text().split():
            os.kill(int(pid), 9)
        for _ in range(100):
            try:
                directory.rmdir()
                break
            except OSError:
                time.sleep(0.05)
