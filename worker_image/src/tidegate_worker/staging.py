"""Image files on disk between download and ack, under a budget of bytes and of images ahead of decoding.

A file is written under a temporary name and renamed when complete, without fsync: the directory is named by the
kernel's boot id, so that only files written under the running kernel, whose page cache is whole, are ever found again
after a restart. Everything here can be fetched again, so everything may be evicted; what is answered goes first.
A full disk is a pause, not an error. Memory-backed volumes are refused: there a staged file is memory that no byte
credit knows of.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from tidegate.core.contract import MIB
from tidegate.core.errors import FixConfig
from tidegate_worker.redact import redact_url

_log = logging.getLogger(__name__)

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_MEMORY_BACKED: Final = {"tmpfs", "ramfs", "hugetlbfs", "devtmpfs"}
#: Left free on the disk for everything else.
_DISK_RESERVE_BYTES: Final = 64 * MIB
_FIRST_GUESS_BYTES: Final = 8 * MIB
_GROWTH_BYTES: Final = 4 * MIB
_LOOK_SECONDS: Final = 0.5


class StagingFull(Exception):
    """There is no room for the rest of this file now; it is gone and may be fetched again when there is."""


@dataclass(frozen=True, slots=True)
class StagedFile:
    key: str
    path: Path
    size_bytes: int
    #: An earlier process wrote it.
    found: bool = False


def file_key(image_id: str, url: str) -> str:
    """The same image under the same address; presigned queries change from delivery to delivery and do not count."""
    return hashlib.sha256(f"{image_id}\0{redact_url(url)}".encode()).hexdigest()[:40]


class Staging:
    def __init__(self, directory: Path, budget_bytes: int, images_ahead: int) -> None:
        _refuse_memory_backed(directory)
        self._directory = directory / _BOOT_ID.read_text().strip()
        self._lock_file = _lock(directory)
        for other in directory.iterdir():
            if other.is_dir() and other != self._directory:
                shutil.rmtree(other, ignore_errors=True)
        self._directory.mkdir(exist_ok=True)
        self.budget_bytes = budget_bytes
        self._images_ahead = images_ahead
        self._changed = threading.Condition()
        #: Reserved bytes of files being written, real ones of files that are there.
        self._used: dict[str, int] = {}
        self._ahead: set[str] = set()
        self._spent: dict[str, Path] = {}
        self._found = self._find()
        #: What a file is expected to need: the largest seen, until then a guess.
        self._expected_bytes = min(_FIRST_GUESS_BYTES, budget_bytes // 8)
        self._largest_bytes = 0
        self._paused = False
        self._check_room()

    @property
    def used_bytes(self) -> int:
        return sum(list(self._used.values()))

    def disk(self) -> tuple[int, int]:
        """Free and total bytes of the disk that it is on."""
        # Not of the folder of this boot, which is gone once this is closed.
        usage = shutil.disk_usage(self._directory.parent)
        return usage.free, usage.total

    def store(self, key: str, write: Callable[[BinaryIO], int], cancelled: Callable[[], bool]) -> StagedFile | None:
        """The file of `key`, found again or written by `write`; None if `cancelled` while waiting for room.

        Raises StagingFull, and whatever `write` raises.
        """
        if not self._reserve(key, cancelled):
            return None
        with self._changed:
            found = self._found.pop(key, None)
        if found is not None:
            return found
        partial = self._directory / f"{key}.part"
        try:
            size_bytes = self._write(key, partial, write)
            path = self._directory / f"{key}-{size_bytes}"
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            self._free(key)
            raise
        with self._changed:
            self._used[key] = size_bytes
            self._largest_bytes = self._expected_bytes = max(self._largest_bytes, size_bytes)
            self._changed.notify_all()
        return StagedFile(key=key, path=path, size_bytes=size_bytes)

    def started(self, file: StagedFile) -> None:
        """Its decoding has begun: it is not ahead any more."""
        with self._changed:
            self._ahead.discard(file.key)
            self._changed.notify_all()

    def spent(self, file: StagedFile) -> None:
        """This process needs it no more; it stays for a successor while there is room."""
        with self._changed:
            self._ahead.discard(file.key)
            self._spent[file.key] = file.path
            self._changed.notify_all()

    def remove(self, file: StagedFile) -> None:
        file.path.unlink(missing_ok=True)
        self._free(file.key)

    def close(self) -> None:
        """Remove all that is left."""
        shutil.rmtree(self._directory, ignore_errors=True)
        self._lock_file.close()

    def _reserve(self, key: str, cancelled: Callable[[], bool]) -> bool:
        with self._changed:
            while not self._fits(key):
                if cancelled():
                    return False
                self._changed.wait(_LOOK_SECONDS)
            self._ahead.add(key)
            found = self._found.get(key)
            self._used[key] = found.size_bytes if found else self._expected_bytes
            self._spent.pop(key, None)
            return True

    def _fits(self, key: str) -> bool:
        if len(self._ahead) >= self._images_ahead:
            return False
        if key in self._used and key not in self._spent:
            # The same image under an earlier lease that is not through yet.
            return False
        if key in self._found:
            return True
        wanted_bytes = self._expected_bytes
        self._evict(wanted_bytes)
        # One file is always let in: a budget smaller than it would never let it in otherwise.
        return self._disk_has(wanted_bytes) and (not self._used or self.used_bytes + wanted_bytes <= self.budget_bytes)

    def _evict(self, wanted_bytes: int) -> None:
        while self._spent and (self.used_bytes + wanted_bytes > self.budget_bytes or not self._disk_has(wanted_bytes)):
            key, path = next(iter(self._spent.items()))
            path.unlink(missing_ok=True)
            self._found.pop(key, None)
            del self._spent[key], self._used[key]

    def _disk_has(self, wanted_bytes: int) -> bool:
        enough = shutil.disk_usage(self._directory).free >= wanted_bytes + _DISK_RESERVE_BYTES
        if enough == self._paused:
            self._paused = not enough
            _log.log(
                logging.INFO if enough else logging.WARNING,
                "downloads go on" if enough else "downloads pause: the staging disk is full",
                extra={"staging_dir": str(self._directory)},
            )
        return enough

    def _write(self, key: str, partial: Path, write: Callable[[BinaryIO], int]) -> int:
        with _Sink(partial, lambda size_bytes: self._grow(key, size_bytes)) as sink:
            try:
                write(sink)
            except Exception as error:
                if sink.full:
                    raise StagingFull(f"no room for {partial.name} after {sink.tell()} bytes") from error
                raise
            return sink.tell()

    def _grow(self, key: str, size_bytes: int) -> bool:
        """Room for a file that turns out larger than was reserved."""
        with self._changed:
            reserved_bytes = self._used[key]
            if size_bytes <= reserved_bytes:
                return True
            wanted_bytes = max(size_bytes - reserved_bytes, _GROWTH_BYTES)
            self._evict(wanted_bytes)
            if len(self._used) > 1 and self.used_bytes + wanted_bytes > self.budget_bytes:
                # The next reservation, this file's among them, asks for what is known now.
                self._expected_bytes = max(self._expected_bytes, min(2 * size_bytes, self.budget_bytes))
                return False
            self._used[key] = reserved_bytes + wanted_bytes
            return True

    def _free(self, key: str) -> None:
        with self._changed:
            self._used.pop(key, None)
            self._spent.pop(key, None)
            self._found.pop(key, None)
            self._ahead.discard(key)
            self._changed.notify_all()

    def _find(self) -> dict[str, StagedFile]:
        """Complete files of an earlier process: their name says their size."""
        found: dict[str, StagedFile] = {}
        for path in self._directory.iterdir():
            key, _, size = path.name.partition("-")
            if size.isdecimal() and int(size) == path.stat().st_size > 0:
                found[key] = StagedFile(key=key, path=path, size_bytes=int(size), found=True)
                self._used[key] = int(size)
                self._spent[key] = path
            else:
                path.unlink(missing_ok=True)
        return found

    def _check_room(self) -> None:
        free_bytes = shutil.disk_usage(self._directory).free + self.used_bytes
        if free_bytes < self.budget_bytes + _DISK_RESERVE_BYTES:
            _log.warning(
                "the staging disk has less room than the plan's budget; downloads will pause when it is full",
                extra={"free_bytes": free_bytes, "budget_bytes": self.budget_bytes},
            )


class _Sink(io.FileIO):
    """A file that asks for room before it grows and remembers why it could not."""

    def __init__(self, path: Path, grow: Callable[[int], bool]) -> None:
        super().__init__(path, "wb")
        self._grow = grow
        self.full = False

    def write(self, data: bytes | bytearray | memoryview, /) -> int:  # type: ignore[override]  # any buffer, but whole
        view = memoryview(data).cast("B")
        # By position: a fetch that starts over seeks back and truncates.
        if not self._grow(self.tell() + len(view)):
            self.full = True
            raise StagingFull
        rest = view
        while rest:
            try:
                done = super().write(rest)
            except OSError as error:
                self.full = error.errno in {errno.ENOSPC, errno.EDQUOT}
                raise
            rest = rest[done:]
        return len(view)


def _refuse_memory_backed(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FixConfig(f"the staging directory {directory} cannot be made ({error.strerror}): name another") from None
    if not os.access(directory, os.W_OK | os.X_OK):
        raise FixConfig(f"the staging directory {directory} cannot be written by user {os.getuid()}: name another")
    kind = filesystem_of(directory)
    if kind in _MEMORY_BACKED:
        raise FixConfig(
            f"the staging directory {directory} is on a memory-backed volume ({kind}): its files would count as this "
            "worker's memory; name a directory on a disk (in Kubernetes an emptyDir without `medium: Memory`)"
        )


def filesystem_of(directory: Path) -> str:
    """The type of the file system that `directory` is on."""
    device = directory.resolve().stat().st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    kind = ""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if before.split(" ")[2] == name:
            kind = after.split(" ")[0]
    return kind


def _lock(directory: Path) -> io.TextIOWrapper:
    """Two workers in one directory would remove each other's files."""
    file = (directory / ".lock").open("w")
    deadline = time.monotonic() + 2.0
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                file.close()
                raise FixConfig(
                    f"the staging directory {directory} is in use by another worker: name another"
                ) from None
            time.sleep(0.1)
        else:
            return file
