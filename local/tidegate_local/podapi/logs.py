"""Reading container logs: the node writes lines with times, this serves them as `pods/log` promises."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path
from typing import Final, Protocol

_POLL_SECONDS: Final = 0.1
_CHUNK_LINES: Final = 500


@dataclass(frozen=True, slots=True)
class LogFile:
    """Where one run of a container logs, and whether more can come; an older part that was cut off is `PATH.1`."""

    path: Path
    has_ended: Callable[[], bool]


class LogFiles(Protocol):
    """What the node knows of logs."""

    def log_file(self, pod_uid: str, container: str, *, previous: bool) -> LogFile | None: ...


@dataclass(frozen=True, slots=True)
class LogRequest:
    follow: bool = False
    timestamps: bool = False
    tail_lines: int | None = None
    since: datetime | None = None
    limit_bytes: int | None = None


async def read(log: LogFile, request: LogRequest) -> AsyncIterator[bytes]:
    """Chunks of the log as the request wants them."""
    left = request.limit_bytes
    printer = _Printer(request)
    async for lines in _tailed(log, request):
        chunk = b"".join(printer.shown(line) for line in lines)
        if left is not None:
            chunk = chunk[:left]
            left -= len(chunk)
        if chunk:
            yield chunk
        if left == 0:
            return


async def _tailed(log: LogFile, request: LogRequest) -> AsyncIterator[list[bytes]]:
    """What is written, cut to the tail; then, where it follows, what is being written."""
    reader = _Reader(log.path)
    try:
        kept: deque[bytes] = deque(maxlen=request.tail_lines)
        ended = log.has_ended()
        while lines := await asyncio.to_thread(reader.lines):
            if request.tail_lines is None:
                yield lines
            else:
                kept.extend(line for line in lines if not _too_old(line, request))
        if kept:
            yield list(kept)
        while request.follow and not ended:
            ended = log.has_ended()
            if lines := await asyncio.to_thread(reader.lines):
                ended = False
                yield lines
            elif not ended:
                await asyncio.sleep(_POLL_SECONDS)
    finally:
        reader.close()


class _Reader:
    """Whole lines from the older part, then from the file, and from its successor once it has been cut off."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = _opened(path.with_name(f"{path.name}.1")) or _opened(path)
        self._rest = b""

    def lines(self) -> list[bytes]:
        """The next lines; empty where there is none yet."""
        if self._file is None:
            self._file = _opened(self._path)
            if self._file is None:
                return []
        lines: list[bytes] = []
        while len(lines) < _CHUNK_LINES:
            line = self._file.readline()
            if line.endswith(b"\n"):
                lines.append(self._rest + line)
                self._rest = b""
            elif line:
                self._rest += line
            elif not self._advance():
                break
        return lines

    def _advance(self) -> bool:
        newer = _opened(self._path)
        if newer is None or self._file is None:
            return False
        if _identity(newer) == _identity(self._file):
            newer.close()
            return False
        if self._file.peek(1):
            # Written between the last read and the cut.
            newer.close()
            return True
        self._file.close()
        self._file = newer
        return True

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _identity(file: BufferedReader) -> int:
    return Path(f"/proc/self/fd/{file.fileno()}").stat().st_ino


def _opened(path: Path) -> BufferedReader | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None


def _time(line: bytes) -> datetime:
    # Nanoseconds are more than datetime reads.
    return datetime.strptime(line[:26].decode(), "%Y-%m-%dT%H:%M:%S.%f").replace(tzinfo=UTC)


def _too_old(line: bytes, request: LogRequest) -> bool:
    return request.since is not None and _time(line) < request.since


class _Printer:
    """`TIME STREAM F|P TEXT` as the client wants it; after a P the line goes on, and only its beginning has a time."""

    def __init__(self, request: LogRequest) -> None:
        self._request = request
        self._continues = False

    def shown(self, line: bytes) -> bytes:
        if _too_old(line, self._request):
            return b""
        time, _, ending, text = line.split(b" ", 3)
        with_time = self._request.timestamps and not self._continues
        self._continues = ending == b"P"
        text = text[:-1] if self._continues else text
        return b"%b %b" % (time, text) if with_time else text
