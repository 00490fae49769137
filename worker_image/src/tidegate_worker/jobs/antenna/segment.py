"""One file of records, written at its end and read anywhere: framing and damage; what records mean is the log's.

A record is a prefix (magic, CRC, sizes), a head in JSON and a body. The prefix is written last: until it stands, the
record does not.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

log = logging.getLogger(__name__)

_PREFIX: Final = struct.Struct(">4sIIQ")
_MAGIC: Final = b"TGA1"
_COPY_BYTES: Final = 1024 * 1024


class Segment:
    """Not safe to use from several threads at once, but for a reading that has begun."""

    def __init__(self, path: Path, *, fresh: bool) -> None:
        self.path = path
        self.number = int(path.stem.rpartition("-")[2])
        self.size_bytes = 0
        self.answers = 0
        #: Posts that wait for a body in this segment, or whose record lies in it.
        self.waiting = 0
        # Never over a file that is there: it may be another process's by now.
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if fresh else 0), 0o600)

    def append(self, head: dict[str, Any], chunks: Iterable[bytes], at_most_bytes: int) -> tuple[int, int] | None:
        """Offset and size of the body written; None, and nothing written, where it is larger than `at_most_bytes`."""
        packed = json.dumps(head, separators=(",", ":")).encode()
        start = self.size_bytes
        body_at = start + _PREFIX.size + len(packed)
        crc = zlib.crc32(packed)
        size = 0
        try:
            for chunk in chunks:
                if size + len(chunk) > at_most_bytes:
                    os.ftruncate(self._file, start)
                    return None
                self._write(chunk, body_at + size)
                crc = zlib.crc32(chunk, crc)
                size += len(chunk)
            self._write(_PREFIX.pack(_MAGIC, crc, len(packed), size) + packed, start)
        except OSError:
            os.ftruncate(self._file, start)
            raise
        self.size_bytes = body_at + size
        return body_at, size

    def records(self) -> Iterator[tuple[dict[str, Any], int, int]]:
        """Head, and offset and size of the body, of every whole record; the file is cut behind the last one."""
        end = os.fstat(self._file).st_size
        at = 0
        while at + _PREFIX.size <= end:
            magic, crc, head_size, size = _PREFIX.unpack(os.pread(self._file, _PREFIX.size, at))
            body_at = at + _PREFIX.size + head_size
            if magic != _MAGIC or body_at + size > end:
                break
            packed = os.pread(self._file, head_size, at + _PREFIX.size)
            found = zlib.crc32(packed)
            for piece in self.read(body_at, size):
                found = zlib.crc32(piece, found)
            if found != crc:
                break
            at = self.size_bytes = body_at + size
            yield json.loads(packed), body_at, size
        if at < end:
            log.warning("%s: cut a torn record of %d bytes off", self.path, end - at)
            os.ftruncate(self._file, at)

    def read(self, offset: int, size_bytes: int) -> Iterator[bytes]:
        """Bytes piece by piece, also when the segment is deleted or closed meanwhile."""
        return _pieces(os.fdopen(os.dup(self._file), "rb", buffering=0), self.path, offset, size_bytes)

    def sync(self) -> None:
        os.fdatasync(self._file)

    def empty(self) -> None:
        os.ftruncate(self._file, 0)
        self.size_bytes = self.answers = 0

    def close(self) -> None:
        os.close(self._file)

    def _write(self, data: bytes, offset: int) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file, view, offset)
            view, offset = view[written:], offset + written


def _pieces(file: BinaryIO, path: Path, offset: int, size_bytes: int) -> Iterator[bytes]:
    with file:
        end = offset + size_bytes
        while offset < end:
            piece = os.pread(file.fileno(), min(_COPY_BYTES, end - offset), offset)
            if not piece:
                raise OSError(errno.EIO, f"{path} was cut short under us")
            offset += len(piece)
            yield piece
