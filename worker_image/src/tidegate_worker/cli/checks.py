"""What `doctor` looks at: each check finds one thing out, judges it, and says what to do; none changes anything.

A check that cannot run is a finding too: nothing here raises.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tidegate.core.contract import GIB, MIB
from tidegate.core.errors import FixConfig, TidegateError
from tidegate_worker.environment import temporary_folder
from tidegate_worker.redact import redact, redact_url
from tidegate_worker.settings import Settings

_PACKAGES: Final = ("torch", "torchvision", "timm", "pillow", "numpy")
_INSTALL: Final = "install the worker with its lock file"
_HANDLES_NEEDED: Final = 4096
_HANDLES_WANTED: Final = 65536
_MEMORY_BACKED: Final = frozenset({"tmpfs", "ramfs"})
_NETWORKED: Final = frozenset({"nfs", "nfs4", "cifs", "9p", "fuse.sshfs"})
_LEAST_MEMORY_BYTES: Final = 2 * GIB
_LEAST_DISK_BYTES: Final = 2 * GIB


class Grade(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    subject: str
    grade: Grade
    found: str
    advice: str = ""


def findings(settings: Settings) -> Iterator[Finding]:
    """Everything, cheapest first."""
    checks: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
        _versions,
        _settings,
        _handles,
        _memory,
        _staging,
        _catalogue,
        _cache,
        _antenna,
        _cuda,
    )
    for check in checks:
        try:
            yield from check(settings)
        except (TidegateError, OSError) as error:
            yield Finding(check.__name__.strip("_"), Grade.FAIL, redact(str(error)))


def _versions(_: Settings) -> Iterator[Finding]:
    found = [f"Python {platform.python_version()}"]
    for package in ("tidegate-worker", *_PACKAGES):
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            yield Finding(
                "versions", Grade.FAIL, f"{package} is not installed", "install the worker with its lock file"
            )
    yield Finding("versions", Grade.OK, ", ".join(found))


def _settings(settings: Settings) -> Iterator[Finding]:
    for warning in settings.warnings:
        yield Finding("settings", Grade.WARN, warning, "docs/settings.md lists all names")
    if not settings.warnings:
        yield Finding("settings", Grade.OK, "every name is known")


def _handles(_: Settings) -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{soft} now, raised to {hard} at start"
    advice = "set LimitNOFILE=65536 (systemd), minfds (supervisor) or the container runtime's default-ulimits"
    if hard == resource.RLIM_INFINITY or hard >= _HANDLES_WANTED:
        yield Finding("open files", Grade.OK, found)
    elif hard >= _HANDLES_NEEDED:
        yield Finding("open files", Grade.WARN, found, advice)
    else:
        yield Finding("open files", Grade.FAIL, found, advice)


def _memory(_: Settings) -> Iterator[Finding]:
    from tidegate_worker.cgroup import WholeMachine, cpu_cores, find_memory

    view = find_memory()
    reading = view.read()
    found = (
        f"limit {_size(reading.limit_bytes)}, {_size(reading.nonreclaimable_bytes)} of it in use,"
        f" {cpu_cores():.1f} cores ({type(view).__name__})"
    )
    if reading.limit_bytes < _LEAST_MEMORY_BYTES:
        yield Finding("memory", Grade.WARN, found, "models alone take 1 to 1.5 GiB: give the pod 2 GiB or more")
    elif isinstance(view, WholeMachine):
        yield Finding("memory", Grade.WARN, found, "no memory limit: run in a container or with systemd MemoryMax=")
    else:
        yield Finding("memory", Grade.OK, found)


def _staging(settings: Settings) -> Iterator[Finding]:
    from tidegate_worker.staging import filesystem_of

    for subject, folder in (
        ("staging", settings.storage.image_dir),
        ("answers", settings.storage.answer_dir),
        ("temporary files", temporary_folder()),
    ):
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        kind, free = filesystem_of(existing), shutil.disk_usage(existing).free
        found = f"{folder} on {kind}, {_size(free)} free"
        if not os.access(existing, os.W_OK):
            variable = "TMPDIR" if subject == "temporary files" else "TIDEGATE_STAGING_DIR"
            yield Finding(subject, Grade.FAIL, f"{found}, not writable", f"set {variable} to a folder of its own")
        elif subject == "temporary files":
            continue
        elif kind in _MEMORY_BACKED:
            advice = "a staged file would be memory that nothing counts: set TIDEGATE_STAGING_DIR to a disk"
            yield Finding(subject, Grade.FAIL, found, advice)
        elif free < _LEAST_DISK_BYTES:
            yield Finding(
                subject, Grade.WARN, found, "free some space, or set TIDEGATE_STAGING_BYTES to what it may take"
            )
        elif kind in _NETWORKED:
            yield Finding(subject, Grade.WARN, found, "a local disk stages faster")
        else:
            yield Finding(subject, Grade.OK, found)


def _catalogue(settings: Settings) -> Iterator[Finding]:
    from tidegate_worker.models.catalogue import Catalogue, catalogue_files

    catalogue = Catalogue(catalogue_files(settings.models.catalogue_places), settings.models.weights_base)
    slugs = settings.models.pipelines or catalogue.slugs
    ready = [slug for slug in slugs if all(each.sha256 for each in catalogue.artifacts(slug))]
    unpinned = [slug for slug in slugs if slug not in ready]
    yield Finding(
        "catalogue", Grade.OK, f"{len(catalogue.slugs)} pipelines; files pinned for: {', '.join(ready) or 'none'}"
    )
    if unpinned:
        yield Finding(
            "hashes",
            Grade.WARN,
            f"files without a hash, which are not loaded: {', '.join(unpinned)}",
            "`tidegate-worker weights --pipeline SLUG --write-hashes FILE`, then name FILE in TIDEGATE_CATALOGUE",
        )


def _cache(settings: Settings) -> Iterator[Finding]:
    from tidegate_worker.models.catalogue import Catalogue, catalogue_files

    folder = settings.models.cache_dir
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not os.access(existing, os.W_OK):
        yield Finding(
            "weights", Grade.FAIL, f"{folder} is not writable", "set TIDEGATE_WEIGHTS_DIR to a folder that is"
        )
        return
    catalogue = Catalogue(catalogue_files(settings.models.catalogue_places), settings.models.weights_base)
    slugs = settings.models.pipelines or catalogue.slugs
    wanted = {each.sha256 for slug in slugs for each in catalogue.artifacts(slug) if each.sha256}
    missing = [sha256 for sha256 in wanted if not (folder / sha256).exists()]
    free = _size(shutil.disk_usage(existing).free)
    found = f"{len(wanted) - len(missing)} of {len(wanted)} pinned files in {folder}, {free} free"
    if missing:
        yield Finding("weights", Grade.WARN, found, "`tidegate-worker weights` fetches them ahead of the first run")
    else:
        yield Finding("weights", Grade.OK, found)


def _antenna(settings: Settings) -> Iterator[Finding]:
    url = redact_url(settings.antenna.antenna_url)
    if settings.antenna.token is None:
        yield Finding("Antenna", Grade.WARN, f"{url}, no token", "set TIDEGATE_ANTENNA_TOKEN_FILE for Antenna jobs")
        return
    from tidegate_worker.cli.antenna_access import antenna_api
    from tidegate_worker.jobs.antenna.registry import prove_token

    api = antenna_api(settings, answer_seconds=15.0)
    try:
        if prove_token(api):
            yield Finding("Antenna", Grade.OK, f"{url} lets this token lease tasks")
        else:
            yield Finding(
                "Antenna", Grade.OK, f"{url} answers; it has no finished job yet on which the token could be tried"
            )
    except FixConfig as error:
        yield Finding("Antenna", Grade.FAIL, redact(str(error)))
    except TidegateError as error:
        yield Finding("Antenna", Grade.FAIL, redact(str(error)), "check TIDEGATE_ANTENNA_URL and the way there")
    finally:
        api.close()


def _cuda(settings: Settings) -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding(
            "device", Grade.FAIL, f"torch cannot be imported: {error}", "install the worker with its lock file"
        )
        return
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        yield Finding("device", Grade.OK, f"{torch.cuda.device_count()} x {name}, {_size(free)} of {_size(total)} free")
    elif settings.models.device.startswith("cuda"):
        yield Finding("device", Grade.FAIL, "no CUDA device", "check the driver and the pod's GPU request")
    else:
        yield Finding("device", Grade.OK, f"CPU, {torch.get_num_threads()} threads (no CUDA device)")


def _size(size: float) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.0f} MiB"
