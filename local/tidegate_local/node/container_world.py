"""The specification of a container for the shim: its root, its devices, its view of its own cgroup."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from tidegate_local.node.cgroups import Group
from tidegate_local.node.container_config import Identity
from tidegate_local.node.images import Image
from tidegate_local.node.volumes import Mount, read_only

_SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc")
#: Readable by groups that a pod may name as its own.
_HIDDEN: Final = ("/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/sudoers", "/etc/ssl/private")
_DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_LINKS: Final = {
    "/dev/fd": "/proc/self/fd",
    "/dev/stdin": "/proc/self/fd/0",
    "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
}
#: What CUDA looks at beside its devices.
_GPU_PATHS: Final = ("/sys/bus", "/sys/class", "/sys/devices", "/sys/module")
_SHARED_MEMORY: Final = "mode=1777,size=64m"


def specification(
    *,
    folder: Path,
    hostname: str,
    argv: list[str],
    environment: dict[str, str],
    working_directory: str,
    identity: Identity,
    image: Image,
    volume_mounts: list[Mount],
    termination_log: tuple[Path, str],
    group: Group,
    has_gpu: bool,
    read_only_root: bool,
) -> dict[str, Any]:
    """What the shim is told. `termination_log` is the file here and its path inside; `folder` is the attempt's."""
    mounts: list[Mount] = []
    links = dict(_DEVICE_LINKS)
    for path in _SYSTEM:
        if os.path.islink(path):  # noqa: PTH114 - the shim speaks in plain paths
            links[path] = os.readlink(path)  # noqa: PTH115
        elif Path(path).is_dir():
            mounts.append(read_only(path))
    mounts += [read_only("/dev/null" if Path(path).is_file() else str(folder / "empty"), path) for path in _hidden()]
    mounts += _name_resolution()
    image_mounts = [
        read_only(path) for path in image.paths if not path.startswith(tuple(f"{each}/" for each in _SYSTEM))
    ]
    options = ("ro", "nosuid", "nodev") if read_only_root else ("nosuid", "nodev")
    own = [Mount("bind", "/tmp", str(folder / "tmp"), options=options), *volume_mounts]  # noqa: S108 - the container's own
    # An environment may lie below a folder that the container has of its own: a clone in /tmp. It comes after that one.
    covered = [each for each in image_mounts if each.target.startswith(tuple(f"{mount.target}/" for mount in own))]
    mounts += [each for each in image_mounts if each not in covered]
    mounts.append(Mount("proc", "/proc"))
    mounts += _devices(has_gpu=has_gpu)
    mounts += [read_only(path) for path in (_GPU_PATHS if has_gpu else ("/sys/devices/system",)) if Path(path).exists()]
    mounts += [read_only(outside, inside) for inside, outside in group.view.items()]
    mounts += own
    mounts += covered
    mounts.append(Mount("bind", termination_log[1], str(termination_log[0])))
    return {
        "argv": argv,
        "environment": environment,
        "working_directory": working_directory,
        "uid": identity.uid,
        "gid": identity.gid,
        "groups": list(identity.groups),
        "hostname": hostname[:63],
        "root": str(folder / "root"),
        "mounts": [asdict(mount) for mount in mounts],
        "links": links,
        "cgroup_procs": group.join_files,
        "oom_file": group.oom_file,
        "read_only_root": read_only_root,
        "rootless": os.geteuid() != 0,
    }


def make_folders(folder: Path, image: Image) -> None:
    """The folders of an attempt that the specification names."""
    for name in ("root", "tmp", "empty"):
        (folder / name).mkdir(parents=True)
    for path in image.paths:
        # Nobody could make it in a /tmp that is read-only.
        if path.startswith("/tmp/") and Path(path).is_dir():  # noqa: S108 - the machine's, as the container sees it
            (folder / "tmp" / path.removeprefix("/tmp/")).mkdir(parents=True, exist_ok=True)  # noqa: S108
    # Whoever the container runs as, its /tmp is its own: nobody else sees it.
    (folder / "tmp").chmod(0o1777)


def _hidden() -> Iterator[str]:
    return (path for path in _HIDDEN if Path(path).exists())


def _name_resolution() -> Iterator[Mount]:
    """/etc/resolv.conf may be a link to where the resolver's service keeps it."""
    actual = os.path.realpath("/etc/resolv.conf")
    if actual.startswith("/run/") and Path(actual).is_file():
        yield read_only(actual)


def _devices(*, has_gpu: bool) -> Iterator[Mount]:
    names = [*_DEVICES, *(sorted(path.name for path in Path("/dev").glob("nvidia*")) if has_gpu else ())]
    for name in names:
        if Path("/dev", name).exists():
            yield Mount("bind", f"/dev/{name}", f"/dev/{name}", options=("nosuid", "noexec"))
    yield Mount("tmpfs", "/dev/shm", data=_SHARED_MEMORY)  # noqa: S108 - the container's own
