"""The rows of a manifest, one after the other: CSV, JSON lines or Parquet, plain or gzipped, wherever it lies.

A row is a URI and, where the manifest has a column `id` (or `image_id`), its name. Reading takes constant memory. What
a URI leads to is not looked at here.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Final
from urllib.parse import urlsplit

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from tidegate.core.errors import FixConfig, RejectItem, RetryLater
from tidegate_worker.net.uri_fetcher import filesystem
from tidegate_worker.net.uris import HTTP, UriRules, absolute
from tidegate_worker.ports import Fetcher
from tidegate_worker.redact import redact, redact_url

_MANIFEST_BYTES: Final = 16 * 1024**3
_EDGE_BYTES: Final = 1024 * 1024
#: Room for the row number in the 512 characters that contracts give an image id.
_ID_CHARACTERS: Final = 480
_ID_COLUMNS: Final = ("id", "image_id")


@dataclass(frozen=True, slots=True)
class Row:
    uri: str
    name: str | None


class Manifest:
    """A manifest that may be read any number of times."""

    def __init__(self, uri: str, rules: UriRules, http: Fetcher) -> None:
        self.uri = absolute(uri)
        refusal = rules.refusal(self.uri)
        if refusal is not None:
            raise FixConfig(f"the manifest {redact_url(self.uri)} may not be read: {refusal}")
        self._http = http
        path = urlsplit(self.uri).path.lower()
        self._gzipped = path.endswith(".gz")
        suffix = path.removesuffix(".gz").rpartition(".")[2]
        readers = {"csv": _csv_rows, "jsonl": _json_rows, "ndjson": _json_rows, "parquet": _parquet_rows}
        if suffix not in readers:
            raise FixConfig(f"the manifest {redact_url(self.uri)} is none of .csv, .jsonl, .ndjson, .parquet (or .gz)")
        self._reader = readers[suffix]

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """The bytes as they lie there."""
        shown = redact_url(self.uri)
        try:
            if urlsplit(self.uri).scheme.lower() in HTTP:
                # A copy on disk: Parquet is read from its end, and a slow parse must not hold the host's connection.
                with tempfile.TemporaryFile() as copy:
                    self._http.fetch(self.uri, copy, _MANIFEST_BYTES)
                    copy.seek(0)
                    yield copy
            else:
                with filesystem(urlsplit(self.uri).scheme).open(self.uri, "rb") as file:
                    yield file
        except (FileNotFoundError, IsADirectoryError, RejectItem) as error:
            raise FixConfig(f"the manifest {shown} cannot be read: {redact(str(error))}") from None
        except OSError as error:
            raise RetryLater(f"the manifest {shown} cannot be read now: {redact(str(error))}") from None

    def fingerprint(self) -> str:
        """Tells this manifest from another at the same place, without reading all of it."""
        with self.opened() as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            digest = hashlib.sha256(file.read(_EDGE_BYTES))
            file.seek(max(0, size - _EDGE_BYTES))
            digest.update(file.read(_EDGE_BYTES))
        return f"{size}-{digest.hexdigest()[:32]}"

    def rows(self) -> Iterator[Row]:
        """Every row; FixConfig names the first that cannot be read."""
        with self.opened() as file:
            source: Any = gzip.GzipFile(fileobj=file) if self._gzipped else file
            number = 0
            try:
                for uri, name in self._reader(source):
                    number += 1
                    yield Row(absolute(uri, self.uri), _checked_name(name))
            except (ValueError, csv.Error, EOFError, gzip.BadGzipFile, zlib.error, pa.ArrowException) as error:
                told = redact(str(error))
                raise FixConfig(f"the manifest {redact_url(self.uri)} is broken after row {number}: {told}") from None


def _checked_name(name: object) -> str | None:
    text = "" if name is None else str(name).strip()
    if len(text) > _ID_CHARACTERS or not text.isprintable():
        raise ValueError(f"the id {text[:40]!r} is longer than {_ID_CHARACTERS} characters or not printable")
    return text or None


def _columns(names: list[str]) -> tuple[str, str | None]:
    if "uri" not in names:
        raise ValueError(f"there is no column 'uri' among {names[:20]}")
    return "uri", next((name for name in _ID_COLUMNS if name in names), None)


def _csv_rows(source: Any) -> Iterator[tuple[str, object]]:
    reader = csv.reader(io.TextIOWrapper(source, encoding="utf-8-sig", newline=""), strict=True)
    header = [name.strip() for name in next(reader, [])]
    uri_column, id_column = _columns(header)
    uri_at, id_at = header.index(uri_column), None if id_column is None else header.index(id_column)
    width = len(header)
    for fields in reader:
        if not fields:
            continue
        if len(fields) != width:
            raise ValueError(f"line {reader.line_num} has {len(fields)} fields, the header {width}")
        yield fields[uri_at].strip(), None if id_at is None else fields[id_at]


def _json_rows(source: Any) -> Iterator[tuple[str, object]]:
    for line in source:
        if not line.strip():
            continue
        item = json.loads(line)
        if not isinstance(item, dict) or not isinstance(item.get("uri"), str):
            raise ValueError(f"no object with a text 'uri': {line[:80]!r}")  # noqa: TRY004
        yield item["uri"].strip(), next((item[name] for name in _ID_COLUMNS if name in item), None)


def _parquet_rows(source: Any) -> Iterator[tuple[str, object]]:
    file = pq.ParquetFile(source)
    uri_column, id_column = _columns(file.schema_arrow.names)
    columns = [uri_column] if id_column is None else [uri_column, id_column]
    for batch in file.iter_batches(batch_size=16_384, columns=columns):
        uris = batch.column(uri_column).to_pylist()
        names = [None] * len(uris) if id_column is None else batch.column(id_column).to_pylist()
        for uri, name in zip(uris, names, strict=True):
            yield str(uri or "").strip(), name
