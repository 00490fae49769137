"""Memory cgroups of containers behind one small interface, for cgroup v1 and v2; what to limit is decided elsewhere.

Every group lies below the cgroup of this process, so that whatever limits the whole stack holds for its pods too. Paths
are recorded by the caller: a later process, in another cgroup, finds the groups of an earlier one by them.

| needs       | cgroup v1                         | cgroup v2                                                |
|-------------|-----------------------------------|----------------------------------------------------------|
| who         | root, or a chown'ed memory cgroup | root, or an ordinary user in a delegated scope           |
| the process | anywhere                          | alone in its cgroup (no inner node may hold processes)   |
| a low limit | refused by the kernel (EBUSY)     | refused here: the kernel would reclaim, then kill        |
"""

from __future__ import annotations

import errno
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from tidegate.core.errors import FixConfig

_REMOVE_SECONDS: Final = 5.0
_UNLIMITED_V1: Final = 2**62


class LimitBelowUsage(Exception):
    """The limit was not lowered: more is in use."""


@dataclass(frozen=True, slots=True)
class Usage:
    limit_bytes: int
    usage_bytes: int
    #: usage without inactive page cache, as the kubelet counts it.
    working_set_bytes: int
    rss_bytes: int
    cache_bytes: int
    cpu_seconds: float
    oom_kills: int


class Group(Protocol):
    """One cgroup; a pod's holds its containers'."""

    @property
    def folders(self) -> list[Path]:
        """All its directories, one a hierarchy; enough to find it again."""

    @property
    def join_files(self) -> list[str]:
        """Where a process writes 0 to join."""

    @property
    def oom_file(self) -> str: ...

    @property
    def view(self) -> dict[str, str]:
        """Where a container finds what: path inside -> directory outside."""

    def set_limit(self, limit_bytes: int | None) -> None: ...

    def usage(self) -> Usage: ...


class Cgroups(Protocol):
    def create(self, name: str) -> Group:
        """A group `name` (a/b for one inside another) below the stack's own; one that was begun before is taken."""

    def existing(self, folders: list[Path]) -> Group: ...

    @property
    def base(self) -> list[Path]: ...


def cgroups(stack: str) -> Cgroups:
    """The cgroups that this process may make for `stack`, or FixConfig that says what to do."""
    mounts = _mounts()
    own = _own_paths()
    if "memory" in mounts and "memory" in own:
        return CgroupsV1(stack, mounts, own)
    if "" in mounts and "" in own:
        return CgroupsV2(stack, _below(mounts[""], own[""]))
    raise FixConfig("this machine has no memory cgroup: boot with the memory controller on (cgroup_enable=memory)")


def scope_command() -> list[str]:
    """What to put before a command so that it may make cgroups: empty where it may already, as on cgroup v1."""
    if "memory" in _mounts():
        return []
    user = [] if os.geteuid() == 0 else ["--user"]
    return ["systemd-run", *user, "--scope", "--quiet", "--property=Delegate=yes", "--"]


def remove(folders: list[Path], timeout_seconds: float = _REMOVE_SECONDS) -> None:
    """Kill what is left in a group and remove it; a group that is gone is fine."""
    give_up = time.monotonic() + timeout_seconds
    for folder in folders:
        while folder.exists():
            try:
                folder.rmdir()
            except OSError as error:
                if time.monotonic() > give_up:
                    raise
                if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                    raise
                for pid in _processes(folder):
                    _kill(pid)
                time.sleep(0.01)


def _processes(folder: Path) -> list[int]:
    try:
        return [int(line) for line in (folder / "cgroup.procs").read_text().split()]
    except FileNotFoundError:
        return []


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _mounts() -> dict[str, tuple[Path, str]]:
    """Controller ("" for v2) -> (mount point, the mount's root within the hierarchy)."""
    found: dict[str, tuple[Path, str]] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        fields, (kind, _, options) = left.split(), right.split(" ", 2)
        place = Path(fields[4]), fields[3]
        if kind == "cgroup2":
            found.setdefault("", place)
        elif kind == "cgroup":
            for controller in ("memory", "cpuacct"):
                if controller in options.split(","):
                    found.setdefault(controller, place)
    return found


def _own_paths() -> dict[str, str]:
    """Controller ("" for v2) -> the path of this process's cgroup."""
    found: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        found.update(dict.fromkeys(controllers.split(","), path))
    return found


def _below(mount: tuple[Path, str], path: str) -> Path:
    point, root = mount
    relative = os.path.relpath(path, root) if root != "/" else path.lstrip("/")
    return point if relative in (".", "") else point / relative


def _statistics(path: Path) -> dict[str, int]:
    pairs = (line.split() for line in path.read_text().splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


# -- v1


class CgroupsV1:
    def __init__(self, stack: str, mounts: dict[str, tuple[Path, str]], own: dict[str, str]) -> None:
        self._bases: list[Path] = []
        for controller in ("memory", "cpuacct"):
            if controller not in mounts or controller not in own:
                continue
            base = _below(mounts[controller], own[controller]) / stack
            try:
                base.mkdir(exist_ok=True)
            except OSError as error:
                if controller == "memory":
                    why = f"no cgroup can be made in {base.parent} ({error.strerror})"
                    raise FixConfig(f"{why}: run as root, or let root `chown` that folder to you") from None
                continue
            self._bases.append(base)

    @property
    def base(self) -> list[Path]:
        return list(self._bases)

    def create(self, name: str) -> Group:
        folders = [base / name for base in self._bases]
        for folder in folders:
            folder.mkdir(exist_ok=True)
        # Swap would turn a kill into a crawl.
        (folders[0] / "memory.swappiness").write_text("0")
        return GroupV1(folders)

    def existing(self, folders: list[Path]) -> Group:
        return GroupV1(folders)


class GroupV1:
    """The first folder is in the memory hierarchy, the second, where there is one, in cpuacct."""

    def __init__(self, folders: list[Path]) -> None:
        self._folders = folders
        self._memory = folders[0]

    @property
    def folders(self) -> list[Path]:
        return list(self._folders)

    @property
    def join_files(self) -> list[str]:
        return [str(folder / "cgroup.procs") for folder in self._folders]

    @property
    def oom_file(self) -> str:
        return str(self._memory / "memory.oom_control")

    @property
    def view(self) -> dict[str, str]:
        return {"/sys/fs/cgroup/memory": str(self._memory)}

    def set_limit(self, limit_bytes: int | None) -> None:
        try:
            (self._memory / "memory.limit_in_bytes").write_text(str(-1 if limit_bytes is None else limit_bytes))
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            raise LimitBelowUsage(f"{self.usage().usage_bytes} bytes are in use") from None

    def usage(self) -> Usage:
        memory = self._memory
        statistics = _statistics(memory / "memory.stat")
        usage = int((memory / "memory.usage_in_bytes").read_text())
        limit = int((memory / "memory.limit_in_bytes").read_text())
        cpu = int((self._folders[1] / "cpuacct.usage").read_text()) if len(self._folders) > 1 else 0
        return Usage(
            limit_bytes=0 if limit > _UNLIMITED_V1 else limit,
            usage_bytes=usage,
            working_set_bytes=max(0, usage - statistics["total_inactive_file"]),
            rss_bytes=statistics["total_rss"],
            cache_bytes=statistics["total_cache"],
            cpu_seconds=cpu / 1e9,
            oom_kills=_statistics(memory / "memory.oom_control").get("oom_kill", 0),
        )


# -- v2


class CgroupsV2:
    """Below the cgroup of this process, which first steps aside into a leaf: inner nodes may hold no processes."""

    def __init__(self, stack: str, own: Path) -> None:
        advice = f"start it in a scope of its own: {' '.join(scope_command())} tidegate-local podapi ..."
        try:
            controllers = (own / "cgroup.controllers").read_text().split()
            strangers = [pid for pid in _processes(own) if pid != os.getpid()]
            if "memory" not in controllers or strangers:
                why = "lacks the memory controller" if not strangers else f"also holds processes {strangers[:5]}"
                raise FixConfig(f"the cgroup {own} {why}: {advice}")
            leaf = own / f"{stack}-agent"
            leaf.mkdir(exist_ok=True)
            (leaf / "cgroup.procs").write_text("0")
            self._base = own / stack
            self._base.mkdir(exist_ok=True)
            for folder in (own, self._base):
                _enable(folder)
        except OSError as error:
            raise FixConfig(f"no cgroup can be made in {own} ({error.strerror}): {advice}") from None

    @property
    def base(self) -> list[Path]:
        return [self._base]

    def create(self, name: str) -> Group:
        folder = self._base / name
        folder.mkdir(exist_ok=True)
        if folder.parent == self._base:
            _enable(folder)
        else:
            # As the kubelet does: where one process of a container is killed, all of them are.
            (folder / "memory.oom.group").write_text("1")
        if (folder / "memory.swap.max").exists():
            (folder / "memory.swap.max").write_text("0")
        return GroupV2(folder)

    def existing(self, folders: list[Path]) -> Group:
        return GroupV2(folders[0])


def _enable(folder: Path) -> None:
    (folder / "cgroup.subtree_control").write_text("+memory")


class GroupV2:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def folders(self) -> list[Path]:
        return [self._folder]

    @property
    def join_files(self) -> list[str]:
        return [str(self._folder / "cgroup.procs")]

    @property
    def oom_file(self) -> str:
        return str(self._folder / "memory.events")

    @property
    def view(self) -> dict[str, str]:
        return {"/sys/fs/cgroup": str(self._folder)}

    def set_limit(self, limit_bytes: int | None) -> None:
        current = int((self._folder / "memory.current").read_text())
        inactive = _statistics(self._folder / "memory.stat")["inactive_file"]
        # The kernel would answer a limit below usage with kills.
        if limit_bytes is not None and limit_bytes < current - inactive:
            raise LimitBelowUsage(f"{current} bytes are in use")
        (self._folder / "memory.max").write_text("max" if limit_bytes is None else str(limit_bytes))

    def usage(self) -> Usage:
        statistics = _statistics(self._folder / "memory.stat")
        usage = int((self._folder / "memory.current").read_text())
        limit = (self._folder / "memory.max").read_text().strip()
        return Usage(
            limit_bytes=0 if limit == "max" else int(limit),
            usage_bytes=usage,
            working_set_bytes=max(0, usage - statistics["inactive_file"]),
            rss_bytes=statistics["anon"],
            cache_bytes=statistics["file"],
            # cpu.stat needs no controller: time is counted in every cgroup.
            cpu_seconds=_statistics(self._folder / "cpu.stat")["usage_usec"] / 1e6,
            oom_kills=_statistics(self._folder / "memory.events").get("oom_kill", 0),
        )
