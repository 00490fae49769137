"""This process's own memory and CPU bounds as the kernel enforces them: cgroup v1 or v2, in a container or not.

Found through /proc/self/cgroup and /proc/self/mountinfo. The limit is the smallest over all visible ancestors and is
read anew each time, because a resize changes it under a running process. Non-reclaimable memory is what an OOM kill is
about: anonymous + shared + kernel; page cache is not in it. Without a memory cgroup that bounds it, psutil stands in.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import psutil

from tidegate_worker.policy.gate import Reading

_PROC: Final = Path("/proc/self")


class MemoryView(Protocol):
    def read(self) -> Reading: ...

    def oom_kills(self) -> int: ...


def find_memory(proc: Path = _PROC) -> MemoryView:
    """The view of the memory cgroup that this process is in, if one bounds it.

    One that bounds nothing is the machine's or a login's, and holds whatever else runs there: not ours to plan with.
    """
    own = own_cgroup(proc)
    if own is None or own.read().limit_bytes >= psutil.virtual_memory().total:
        return WholeMachine()
    return own


def own_cgroup(proc: Path = _PROC) -> CgroupV1 | CgroupV2 | None:
    """The memory cgroup that this process is in, bounded or not."""
    for mount in _mounts(proc):
        if mount.version == 1 and "memory" in mount.controllers:
            return CgroupV1(mount.directories(proc))
        if mount.version == 2:
            directories = mount.directories(proc)
            if (directories[0] / "memory.stat").exists():
                return CgroupV2(directories)
    return None


def own_bytes() -> int:
    """What this process alone holds; outside a container its cgroup may hold others."""
    memory = psutil.Process().memory_info()
    return int(memory.rss - memory.shared)


def cpu_cores(proc: Path = _PROC) -> float:
    """Cores that this process may use: affinity, cut by the CPU quota of its cgroups."""
    cores = float(len(os.sched_getaffinity(0)))
    for mount in _mounts(proc):
        if mount.version == 1 and "cpu" not in mount.controllers:
            continue
        read = _quota_v1 if mount.version == 1 else _quota_v2
        cores = min([cores, *(quota for directory in mount.directories(proc) if (quota := read(directory)))])
    return cores


@dataclass(frozen=True, slots=True)
class CgroupV1:
    """Own directory first, then its ancestors."""

    directories: tuple[Path, ...]

    def read(self) -> Reading:
        own = self.directories[0]
        stat = _table(own / "memory.stat")
        # Kernel memory cannot be read everywhere; what it hides is small beside images.
        kernel = _number(own / "memory.kmem.usage_in_bytes") or 0
        limits = [_number(directory / "memory.limit_in_bytes") for directory in self.directories]
        return Reading(
            nonreclaimable_bytes=stat["total_rss"] + stat.get("total_shmem", 0) + kernel,
            # The hierarchical limit also knows ancestors that are not mounted here.
            limit_bytes=_smallest([*limits, stat.get("hierarchical_memory_limit")]),
        )

    def oom_kills(self) -> int:
        return _table(self.directories[0] / "memory.oom_control").get("oom_kill", 0)


@dataclass(frozen=True, slots=True)
class CgroupV2:
    directories: tuple[Path, ...]

    def read(self) -> Reading:
        stat = _table(self.directories[0] / "memory.stat")
        kernel = stat.get("kernel", stat.get("slab", 0) + stat.get("kernel_stack", 0) + stat.get("pagetables", 0))
        return Reading(
            nonreclaimable_bytes=stat["anon"] + stat["shmem"] + max(0, kernel - stat.get("slab_reclaimable", 0)),
            limit_bytes=_smallest([_number(directory / "memory.max") for directory in self.directories]),
        )

    def oom_kills(self) -> int:
        return _table(self.directories[0] / "memory.events").get("oom_kill", 0)


@dataclass(frozen=True, slots=True)
class WholeMachine:
    """No memory limit: this process may grow into what its neighbours on the machine leave."""

    def read(self) -> Reading:
        own = own_bytes()
        return Reading(nonreclaimable_bytes=own, limit_bytes=own + psutil.virtual_memory().available)

    def oom_kills(self) -> int:
        return 0


@dataclass(frozen=True, slots=True)
class _Mount:
    version: int
    controllers: frozenset[str]
    root: str
    point: Path

    def directories(self, proc: Path) -> tuple[Path, ...]:
        """The own cgroup's directory and its ancestors up to the mount point.

        In a container the mount shows only a subtree: its root is then a prefix of the own path, or (inside a cgroup
        namespace) the own path is `/` or leads elsewhere, and the mount point itself is the own cgroup.
        """
        path = self._own_path(proc)
        root = self.root.rstrip("/")
        inside = path[len(root) :] if path == root or path.startswith(root + "/") else ""
        own = self.point / inside.strip("/")
        if ".." in own.parts or not own.is_dir():
            own = self.point
        visible = [own, *own.parents]
        return tuple(visible[: visible.index(self.point) + 1])

    def _own_path(self, proc: Path) -> str:
        for line in (proc / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if (self.version == 2 and not controllers) or self.controllers & set(controllers.split(",")) - {""}:
                return path
        return "/"


def _mounts(proc: Path) -> Iterator[_Mount]:
    try:
        lines = (proc / "mountinfo").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind not in {"cgroup", "cgroup2"}:
            continue
        root, point = (field.replace("\\040", " ") for field in before.split(" ")[3:5])
        yield _Mount(
            version=1 if kind == "cgroup" else 2,
            controllers=frozenset(options.split(" ")[-1].split(",")),
            root=root,
            point=Path(point),
        )


def _table(path: Path) -> dict[str, int]:
    return {key: int(value) for key, value in (line.split() for line in path.read_text().splitlines())}


def _number(path: Path) -> int | None:
    """The number in a file; None where there is no such file, none may read it, or it says `max`."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _smallest(limits: list[int | None]) -> int:
    return min([psutil.virtual_memory().total, *(limit for limit in limits if limit is not None)])


def _quota_v1(directory: Path) -> float | None:
    quota, period = _number(directory / "cpu.cfs_quota_us"), _number(directory / "cpu.cfs_period_us")
    return quota / period if quota is not None and quota > 0 and period else None


def _quota_v2(directory: Path) -> float | None:
    try:
        quota, period = (directory / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)
