"""Images by the URIs of a manifest: HTTP through its fetcher, files and buckets through fsspec below listed roots."""

from __future__ import annotations

import errno
import os
import stat
from typing import Any, BinaryIO, Final
from urllib.parse import urlsplit

import fsspec

from tidegate.core.errors import FixConfig, RejectItem, RetryLater
from tidegate_worker.net.uris import HTTP, UriRules
from tidegate_worker.ports import Fetcher
from tidegate_worker.redact import redact, redact_url

_READ_BYTES: Final = 1024 * 1024
_EXTRAS: Final = {"s3": "s3", "gs": "gs"}


class UriFetcher:
    """The Fetcher of manifest jobs. Safe to call from any thread."""

    def __init__(self, rules: UriRules, http: Fetcher) -> None:
        self._rules = rules
        self._http = http
        roots = [root.removeprefix("file://localhost").removeprefix("file://") for root in rules.roots]
        self._directories = tuple(os.path.realpath(root) for root in roots if "://" not in root)

    def fetch(self, url: str, into: BinaryIO, at_most_bytes: int) -> int:
        """As the Fetcher port says; a path that leads out of its root is rejected."""
        refusal = self._rules.refusal(url)
        if refusal is not None:
            raise RejectItem(redact_url(url), refusal)
        scheme = urlsplit(url).scheme.lower()
        if scheme in HTTP:
            return self._http.fetch(url, into, at_most_bytes)
        try:
            return (
                self._from_disk(url, into, at_most_bytes)
                if scheme == "file"
                else _copy_remote(url, into, at_most_bytes)
            )
        except FileNotFoundError:
            raise RejectItem(redact_url(url), "it is not there") from None
        except (IsADirectoryError, NotADirectoryError):
            raise RejectItem(redact_url(url), "it is no file") from None

    def _from_disk(self, url: str, into: BinaryIO, at_most_bytes: int) -> int:
        path = url.removeprefix("file://localhost").removeprefix("file://")
        try:
            # Not blocking, for what looks like an image may be a pipe.
            file = os.open(os.path.realpath(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        except ValueError:
            raise RejectItem(redact_url(url), "its path cannot be read") from None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO):
                raise RejectItem(redact_url(url), f"it is no file: {os.strerror(error.errno)}") from None
            if isinstance(error, FileNotFoundError | NotADirectoryError):
                raise
            raise RetryLater(f"{redact_url(url)}: {os.strerror(error.errno or 0)}") from None
        with os.fdopen(file, "rb", buffering=0) as source:
            # What was opened is judged, not what the path said before: a link may have changed in between.
            real = os.path.realpath(f"/proc/self/fd/{file}")
            if not any(os.path.commonpath([real, directory]) == directory for directory in self._directories):
                raise RejectItem(redact_url(url), "it leads out of the roots that are listed for images")
            told = os.fstat(file)
            if not stat.S_ISREG(told.st_mode):
                raise RejectItem(redact_url(url), "it is no file")
            if told.st_size > at_most_bytes:
                raise RejectItem(
                    redact_url(url), f"{told.st_size} bytes are more than the {at_most_bytes} that fit here"
                )
            return _copy(source, into, url, at_most_bytes)


def filesystem(scheme: str) -> Any:
    """The fsspec file system of `scheme`, or a FixConfig that says which extra it needs."""
    try:
        return fsspec.filesystem(scheme)
    except ImportError:
        extra = _EXTRAS.get(scheme, scheme)
        raise FixConfig(f"{scheme}:// needs the extra tidegate-worker[{extra}] in the worker's image") from None


def _copy_remote(url: str, into: BinaryIO, at_most_bytes: int) -> int:
    files = filesystem(urlsplit(url).scheme)
    try:
        with files.open(url, "rb", cache_type="readahead") as source:
            return _copy(source, into, url, at_most_bytes)
    except (RejectItem, RetryLater, FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise
    except Exception as error:  # noqa: BLE001
        # Every store raises in its own tongue, and none of it says that the image is bad.
        raise RetryLater(f"{redact_url(url)}: {redact(f'{type(error).__name__}: {error}')}") from None


def _copy(source: Any, into: BinaryIO, url: str, at_most_bytes: int) -> int:
    received = 0
    while True:
        try:
            chunk = source.read(_READ_BYTES)
        except OSError as error:
            raise RetryLater(f"{redact_url(url)}: reading stopped after {received} bytes: {error.strerror}") from None
        if not chunk:
            break
        received += len(chunk)
        if received > at_most_bytes:
            raise RejectItem(redact_url(url), f"more than the {at_most_bytes} bytes that fit here")
        into.write(chunk)
    if not received:
        raise RejectItem(redact_url(url), "an empty file")
    return received
