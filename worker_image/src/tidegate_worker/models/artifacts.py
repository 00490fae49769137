"""Files of models on this machine: fetched once, checked by hash at every use, shared by all pods of a node.

A file is kept under its hash, so that equal files are stored once and a changed catalogue never meets a stale one.
Pods that share the folder take turns by a file lock, which ends with its holder; a broken download is resumed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import urlsplit

from tidegate.core.contract import KIB
from tidegate.core.errors import FixConfig, RetryLater
from tidegate_worker.models.catalogue import Artifact
from tidegate_worker.redact import redact, redact_url

#: Schemes that catalogues may name; all but http(s) are read through fsspec.
_SCHEMES: Final = ("http", "https", "file", "s3", "gs")
#: What a broken connection loses at most.
_CHUNK_BYTES: Final = 64 * KIB
_TIMEOUT_SECONDS: Final = 30.0
_ATTEMPTS: Final = 4


class ArtifactCache:
    """The folder of model files."""

    def __init__(self, folder: Path, sleep: Callable[[float], None] = time.sleep) -> None:
        self._folder = folder
        self._sleep = sleep

    def path(self, artifact: Artifact) -> Path:
        """The file, as its hash demands it; FixConfig names the hash of a file for which none is known."""
        if artifact.sha256 is None:
            found = self.fetch(artifact)
            raise FixConfig(
                f"no hash is known for {artifact.location}; what lies at {redact_url(artifact.uri)} has the one below."
                " If you trust it, put it into a file named by TIDEGATE_CATALOGUE:\n"
                f"sha256:\n  {artifact.location}: {found}"
            )
        kept = self._kept(artifact.sha256)
        if kept.exists() and sha256_of(kept) == artifact.sha256:
            return kept
        found = self.fetch(artifact)
        if found != artifact.sha256:
            raise FixConfig(
                f"{redact_url(artifact.uri)} has sha256 {found}, the catalogue demands {artifact.sha256}: find out who"
                " changed it before you change the catalogue"
            )
        return kept

    def fetch(self, artifact: Artifact) -> str:
        """Bring the file here, if no other pod does at this moment, and say its hash."""
        self._make_folder()
        name = hashlib.sha256(artifact.uri.encode()).hexdigest()[:32]
        partial = self._folder / f"{name}.partial"
        with _locked(self._folder / f"{name}.lock"):
            if artifact.sha256 is not None:
                kept = self._kept(artifact.sha256)
                # Another pod may have brought it while this one waited for the lock.
                if kept.exists() and sha256_of(kept) == artifact.sha256:
                    return artifact.sha256
                kept.unlink(missing_ok=True)
            resumed = partial.exists()
            found = self._download(artifact.uri, partial)
            if resumed and artifact.sha256 is not None and found != artifact.sha256:
                # The other end changed the file between the two halves.
                partial.unlink()
                found = self._download(artifact.uri, partial)
            partial.replace(self._kept(found))
            return found

    def _kept(self, sha256: str) -> Path:
        return self._folder / sha256

    def _make_folder(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FixConfig(f"the weights cache cannot be made: {error}; set TIDEGATE_WEIGHTS_DIR") from None

    def _download(self, uri: str, partial: Path) -> str:
        """Append what is missing of `uri` to `partial`, with a few attempts; the hash of the whole."""
        scheme = urlsplit(uri).scheme
        if scheme not in _SCHEMES:
            raise FixConfig(
                f"{redact_url(uri)}: weights come by {', '.join(_SCHEMES)}, not by {scheme or 'a bare path'}"
            )
        fetch = _append_http if scheme in {"http", "https"} else _append_fsspec
        for attempt in range(_ATTEMPTS):
            try:
                fetch(uri, partial)
                break
            except RetryLater:
                if attempt + 1 == _ATTEMPTS:
                    raise
                self._sleep(2.0**attempt)
            except OSError as error:
                raise FixConfig(
                    f"{redact_url(uri)} cannot be stored in {partial.parent}: {redact(str(error))}"
                ) from None
        return sha256_of(partial)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _append_http(uri: str, partial: Path) -> None:
    import requests

    have = partial.stat().st_size if partial.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with requests.get(uri, headers=headers, stream=True, timeout=_TIMEOUT_SECONDS) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                # All of it is here already.
                return
            if response.status_code in {404, 410, 401, 403}:
                raise FixConfig(
                    f"{redact_url(uri)} answers {response.status_code}: correct its location in the catalogue"
                )
            if not response.ok:
                raise RetryLater(f"{redact_url(uri)} answers {response.status_code}")
            resumes = response.status_code == requests.codes.partial_content
            expected = int(response.headers.get("Content-Length", -1))
            with partial.open("ab" if resumes else "wb") as file:
                got = _store(response.iter_content(_CHUNK_BYTES), file)
            if 0 <= expected != got:
                raise RetryLater(f"{redact_url(uri)} ended after {got} of {expected} bytes")
    except requests.RequestException as error:
        raise RetryLater(f"{redact_url(uri)} cannot be fetched: {type(error).__name__}") from None


def _append_fsspec(uri: str, partial: Path) -> None:
    import fsspec

    try:
        with fsspec.open(uri, "rb") as remote, partial.open("ab") as file:
            remote.seek(file.tell())
            shutil.copyfileobj(remote, file, _CHUNK_BYTES)
            _flush(file)
    except FileNotFoundError:
        raise FixConfig(f"{redact_url(uri)} does not exist: correct its location in the catalogue") from None
    except ImportError as error:
        raise FixConfig(f"{redact_url(uri)} needs a package that is not installed: {error}") from None


def _store(chunks: Iterator[bytes], file: BinaryIO) -> int:
    got = 0
    for chunk in chunks:
        file.write(chunk)
        got += len(chunk)
    _flush(file)
    return got


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
