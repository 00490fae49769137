"""The output of a manifest job: a part file for each chunk, and an index that says which parts stand.

A part is written whole before the ledger declares it: a kill leaves a file that the index does not name, never an index
that names half a file. `_index.json` is the truth for readers; once it says `complete`, stray parts are removed too, so
that reading all of `parts/` gives the same rows.
"""

from __future__ import annotations

import json
import logging
import os
import posixpath
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, get_args
from urllib.parse import quote, urlsplit

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from tidegate.core.errors import FixConfig, RetryLater
from tidegate_worker.jobs.manifest.ledger import Part
from tidegate_worker.net.uri_fetcher import filesystem
from tidegate_worker.net.uris import absolute, refusal_of_form
from tidegate_worker.redact import redact, redact_url

log = logging.getLogger(__name__)

PartFormat = Literal["jsonl", "parquet"]
INDEX: Final = "_index.json"
_PARTS: Final = "parts"

_SCORE = [("label", pa.string()), ("score", pa.float32())]
_CLASSIFICATION = pa.struct(
    [("algorithm", pa.string()), *_SCORE, ("terminal", pa.bool_()), ("top", pa.list_(pa.struct(_SCORE)))]
)
_DETECTION = pa.struct(
    [
        ("box", pa.list_(pa.int32(), 4)),
        ("score", pa.float32()),
        ("algorithm", pa.string()),
        ("classifications", pa.list_(_CLASSIFICATION)),
    ]
)
SCHEMA: Final = pa.schema(
    [
        ("row", pa.int64()),
        ("id", pa.string()),
        ("uri", pa.string()),
        ("error", pa.string()),
        ("quarantined", pa.bool_()),
        ("pipeline", pa.string()),
        ("model_version", pa.string()),
        ("infer_seconds", pa.float32()),
        ("detections", pa.list_(_DETECTION)),
    ]
)


class Output:
    """Parts and index of one job below `uri`, a directory of any file system that fsspec knows."""

    def __init__(self, uri: str, job: str, part_format: PartFormat = "jsonl") -> None:
        told = absolute(uri)
        problem = refusal_of_form(told)
        if problem is not None or part_format not in get_args(PartFormat):
            raise FixConfig(
                f"no results can be written to {redact_url(uri)!r} as {part_format!r}: {problem or 'format'}"
            )
        # A directory of its own, for stray parts are removed at the end. No name climbs out of it.
        name = quote(job, safe="").replace(".", "%2E") if set(job) <= {"."} else quote(job, safe="")
        self.uri = f"{told.rstrip('/')}/{name}"
        self._format = part_format
        scheme = urlsplit(told).scheme
        self._files = filesystem(scheme)
        path = self.uri.removeprefix("file://localhost").removeprefix("file://")
        self._local = Path(path) if scheme == "file" else None

    def write_part(self, number: int, fence: int, bodies: Sequence[bytes]) -> str:
        """Write a chunk's answers; the part's name, unlike that of any earlier attempt at the chunk."""
        name = f"part-{number:07d}-{fence:04d}.{self._format}"
        self._write(f"{_PARTS}/{name}", _jsonl(bodies) if self._format == "jsonl" else _parquet(bodies))
        return name

    def remove_part(self, name: str) -> None:
        self._remove([f"{self.uri}/{_PARTS}/{name}"])

    def write_index(self, job: str, parts: Sequence[Part], complete: bool, facts: Mapping[str, Any]) -> None:
        """Say which parts stand; with the last word, nothing else is left beside them."""
        index = {
            "schema_version": 1,
            "job": job,
            "complete": complete,
            "rows": sum(part.rows for part in parts),
            "failed": sum(part.failed for part in parts),
            **facts,
            "parts": [
                {
                    "name": f"{_PARTS}/{part.name}",
                    "chunk": part.chunk,
                    "first_row": part.first_row,
                    "rows": part.rows,
                    "failed": part.failed,
                }
                for part in parts
            ],
        }
        self._write(INDEX, json.dumps(index, separators=(",", ":")).encode())
        if complete:
            self._remove_strays({part.name for part in parts})

    def _remove_strays(self, standing: set[str]) -> None:
        try:
            there = self._files.ls(f"{self.uri}/{_PARTS}", detail=False)
        except FileNotFoundError:
            return
        names = {posixpath.basename(str(path).rstrip("/")) for path in there} - standing
        self._remove([f"{self.uri}/{_PARTS}/{name}" for name in sorted(names)])

    def _remove(self, uris: Sequence[str]) -> None:
        for uri in uris:
            try:
                self._files.rm_file(self._files._strip_protocol(uri))
            except OSError as error:
                # The index does not name it, so it misleads nobody who reads the index.
                log.warning("a stray part stays at %s: %s", redact_url(uri), redact(str(error)))

    def _write(self, name: str, data: bytes) -> None:
        try:
            if self._local is not None:
                _write_durably(self._local / name, data)
            else:
                # Object stores show a whole object or none.
                with self._files.open(f"{self.uri}/{name}", "wb") as file:
                    file.write(data)
        except Exception as error:  # noqa: BLE001
            # Every store raises in its own tongue; none of it loses what the ledger holds.
            told = redact(f"{type(error).__name__}: {error}")
            raise RetryLater(f"{redact_url(self.uri)}/{name} cannot be written now: {told}") from None


def _write_durably(path: Path, data: bytes) -> None:
    """All of it or nothing, also through a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Hidden, and of a kind that no reader globs for.
    spare = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with spare.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        spare.replace(path)
    except BaseException:
        spare.unlink(missing_ok=True)
        raise
    place = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)


def _jsonl(bodies: Sequence[bytes]) -> bytes:
    return b"".join(body + b"\n" for body in bodies)


def _parquet(bodies: Sequence[bytes]) -> bytes:
    table = pa.Table.from_pylist([json.loads(body) for body in bodies], schema=SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())
