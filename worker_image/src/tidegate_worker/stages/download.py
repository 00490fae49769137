"""From an address to a staged file with a known header and cost.

| what happens                       | what becomes of the image                                              |
|------------------------------------|------------------------------------------------------------------------|
| bad for good (404, no image, bomb) | answered as failed                                                     |
| may still come                     | tried again with back-off until its lease ends                         |
| still not there at the lease's end | left to the next delivery; answered as failed where none follows       |
| or, where leases do not end, after | answered as failed, if others came meanwhile                           |
| `upstream_silence_seconds`         |                                                                        |
| no room on disk, no file handle    | tried again; not its fault                                             |
| a file found again is damaged      | fetched anew                                                           |
"""

from __future__ import annotations

import errno
import logging
import random
import resource
import time
from typing import BinaryIO, Final

from tidegate.core.errors import RejectItem, RetryLater
from tidegate_worker.pipeline.flow import Flow, Sized
from tidegate_worker.pipeline.lease import Lease
from tidegate_worker.pipeline.settings import DecodeMode, EngineSettings
from tidegate_worker.pipeline.timing import StageName
from tidegate_worker.policy.backoff import delay_seconds
from tidegate_worker.policy.cost import decode_cost, decoded_size, scale_divisor
from tidegate_worker.ports import Failure, Fetcher, Predictor
from tidegate_worker.redact import redact, redact_url
from tidegate_worker.stages.header import BadImage, read_header
from tidegate_worker.staging import StagedFile, StagingFull, file_key

_log = logging.getLogger(__name__)

_FULL_DISK_SECONDS: Final = 1.0
_OUT_OF_FILES_SECONDS: Final = 1.0


class Download:
    def __init__(self, flow: Flow, fetcher: Fetcher, predictor: Predictor, settings: EngineSettings) -> None:
        self._flow = flow
        self._fetcher = fetcher
        self._predictor = predictor
        self._settings = settings
        self._at_most_bytes = min(settings.max_file_bytes, flow.staging.budget_bytes)
        self._fast_edge = settings.fast_edge_pixels if settings.decode_mode is DecodeMode.FAST else None

    def work(self, lease: Lease) -> None:
        if lease.dropped or lease.expired(time.monotonic()):
            self._flow.drop(lease)
            return
        try:
            file = self._store(lease)
        except StagingFull:
            self._flow.fetch(lease, _FULL_DISK_SECONDS)
        except RejectItem as error:
            self._flow.answer(lease, Failure(redact(error.reason)))
        except (RetryLater, OSError) as error:
            self._again(lease, error)
        else:
            if file is not None:
                lease.file = file
                self._size(lease, file)
            elif not self._flow.closing:
                self._flow.drop(lease)

    def _store(self, lease: Lease) -> StagedFile | None:
        def write(sink: BinaryIO) -> int:
            started_at = time.monotonic()
            size_bytes = self._fetcher.fetch(lease.task.url, sink, self._at_most_bytes)
            self._flow.timing.took(StageName.DOWNLOAD, time.monotonic() - started_at)
            self._flow.fetching_fails_since = None
            return size_bytes

        key = file_key(lease.task.image_id, lease.task.url)
        return self._flow.staging.store(key, write, cancelled=lambda: lease.dropped or self._flow.closing)

    def _size(self, lease: Lease, file: StagedFile) -> None:
        started_at = time.monotonic()
        try:
            header = read_header(file.path, self._settings.max_pixels)
        except BadImage as error:
            if file.found:
                self._flow.fetch(lease)
            else:
                self._flow.answer(lease, Failure(f"{redact_url(lease.task.url)}: {error}"))
            return
        lease.header = header
        lease.divisor = scale_divisor(header, self._fast_edge)
        cost = decode_cost(header, lease.divisor)
        workspace_bytes = self._predictor.workspace_bytes(*decoded_size(header, lease.divisor))
        lease.cost_bytes = max(lease.cost_bytes, cost.peak_bytes, cost.held_bytes + workspace_bytes)
        self._flow.timing.took(StageName.HEADER, time.monotonic() - started_at)
        decoded_bytes = header.width * header.height * header.channels * max(1, header.bits // 8)
        self._flow.sizes.append(Sized(decoded_bytes, lease.cost_bytes, file.size_bytes))
        self._flow.staged(lease)

    def _again(self, lease: Lease, error: RetryLater | OSError) -> None:
        if _is_out_of_files(error):
            _log.error(
                "out of file handles: downloads wait; raise the limit of open files (ulimit -n, LimitNOFILE)",
                extra={"limit": resource.getrlimit(resource.RLIMIT_NOFILE)[0]},
            )
            self._flow.fetch(lease, _OUT_OF_FILES_SECONDS)
            return
        now = time.monotonic()
        if not lease.fetch_failures:
            lease.first_failed_at = now
            _log.warning("an image cannot be fetched yet: %s", error, extra={"image_id": lease.task.image_id})
        fails_since = self._flow.fetching_fails_since
        if fails_since is None:
            fails_since = self._flow.fetching_fails_since = now
        lease.fetch_failures += 1
        told_seconds = error.delay_seconds if isinstance(error, RetryLater) else None
        wait_seconds = delay_seconds(lease.fetch_failures, told_seconds, random.random())
        patience_ends = lease.first_failed_at + self._settings.upstream_silence_seconds
        # Where no image comes at all, not this one is to blame: that ends the run (see Leasing), never an image.
        others_come = fails_since > lease.first_failed_at
        if now + wait_seconds < lease.task.expires_at and not (others_come and now > patience_ends):
            self._flow.fetch(lease, wait_seconds)
        elif lease.task.last_delivery or now + wait_seconds < lease.task.expires_at:
            reason = f"could not be fetched in {now - lease.first_failed_at:.0f} s: {redact(str(error))}"
            self._flow.answer(lease, Failure(reason))
            if others_come and not self._flow.nothing_comes():
                # What failed lately was this one: who comes next is not to inherit its silence.
                self._flow.fetching_fails_since = None
        else:
            self._flow.drop(lease)


def _is_out_of_files(error: BaseException | None) -> bool:
    """EMFILE or ENFILE, however deep HTTP libraries have wrapped it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE}:
            return True
        error = error.__cause__ or error.__context__
    return False
