"""A command inside a memory cgroup of its own, watched until it ends: peak, kills, open files.

Memory is anonymous + shared: what a kill is about. Page cache is reclaimed before anything is killed, and is left out.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tidegate_local.node.cgroups import Group, cgroups, remove

_LOOK_SECONDS: Final = 0.02
_COUNT_SECONDS: Final = 0.5


@dataclass
class Seen:
    """What was seen of one command."""

    wall_seconds: float = 0.0
    exit_code: int | None = None
    stopped: bool = False
    oom_kills: int = 0
    peak_bytes: int = 0
    peak_anonymous_bytes: int = 0
    peak_shared_bytes: int = 0
    cpu_seconds: float = 0.0
    #: Of all its processes together, every half second.
    open_files: list[int] = field(default_factory=list)


@contextmanager
def cage(name: str, limit_bytes: int) -> Iterator[Group]:
    """A memory cgroup that nothing outlives."""
    made = cgroups(f"tidegate-bench-{os.getpid()}")
    group = made.create(name)
    try:
        group.set_limit(limit_bytes)
        yield group
    finally:
        remove(group.folders)
        remove(made.base)


def watched(
    group: Group,
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    each_look: Callable[[], None],
    most_seconds: float,
) -> Seen:
    """Run `command` in the cage to its end, or to `most_seconds`; `each_look` is called all the time meanwhile."""
    join = "".join(f'echo 0 > "{path}"; ' for path in group.join_files)
    started_at = time.monotonic()
    seen = Seen()
    counted_at = 0.0
    with log.open("ab") as out:
        process = subprocess.Popen(
            ["sh", "-c", f'{join}exec "$@"', "sh", *command],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        while process.poll() is None:
            _look(group, seen)
            each_look()
            now = time.monotonic()
            if now - counted_at >= _COUNT_SECONDS:
                seen.open_files.append(_open_files(group))
                counted_at = now
            if now - started_at > most_seconds and not seen.stopped:
                seen.stopped = True
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(_LOOK_SECONDS)
    finally:
        # Also where the benchmark itself is ended: its clients are in sessions of their own.
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    seen.wall_seconds = time.monotonic() - started_at
    seen.exit_code = process.returncode
    usage = group.usage()
    seen.oom_kills, seen.cpu_seconds = usage.oom_kills, usage.cpu_seconds
    return seen


def _look(group: Group, seen: Seen) -> None:
    told = dict(line.split() for line in (group.folders[0] / "memory.stat").read_text().splitlines())
    anonymous = int(told["total_rss"] if "total_rss" in told else told["anon"])
    shared = int(told.get("total_shmem", told.get("shmem", 0)))
    if anonymous + shared > seen.peak_bytes:
        seen.peak_bytes = anonymous + shared
        seen.peak_anonymous_bytes, seen.peak_shared_bytes = anonymous, shared


def _open_files(group: Group) -> int:
    total = 0
    for pid in (group.folders[0] / "cgroup.procs").read_text().split():
        try:
            total += sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
        except OSError:
            continue
    return total
