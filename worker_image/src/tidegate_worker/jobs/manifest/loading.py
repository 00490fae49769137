"""Fill a job's chunks from its manifest: by one worker at a time, in constant memory, from where a kill left it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice
from typing import Final

from tidegate.core.errors import FixConfig, RetryLater
from tidegate_worker.jobs.manifest.ledger import Ledger, ManifestState, NewChunk
from tidegate_worker.jobs.manifest.rows import Manifest, Row
from tidegate_worker.redact import redact_url

log = logging.getLogger(__name__)

#: Rows in one transaction: some tens of milliseconds of work, a few megabytes.
_STEP_ROWS: Final = 16_384
#: Longer than it takes to skip what a killed predecessor had read of the largest manifest.
_LOADER_SECONDS: Final = 120.0
_ASK_AGAIN_SECONDS: Final = 2.0


def load(ledger: Ledger, job: str, manifest: Manifest, output: str, chunk_rows: int, owner: str) -> ManifestState:
    """The job's entry with every chunk in it; RetryLater while another worker is filling it."""
    known = ledger.state(job)
    if known is None or not known.loaded:
        known = ledger.enter(job, manifest.uri, manifest.fingerprint(), output, chunk_rows)
    _check_same(known, job, manifest, output)
    if known.loaded:
        return known
    if not ledger.claim_loading(job, owner, _LOADER_SECONDS):
        again = ledger.state(job)
        if again is not None and again.loaded:
            return again
        done = again.rows if again else 0
        raise RetryLater(f"another worker is reading the manifest, {done} rows so far", _ASK_AGAIN_SECONDS)
    if not known.loaded and known.rows:
        log.info("the manifest of %s is read on from row %d", job, known.rows)
    for step in _steps(manifest, known):
        if not ledger.add_chunks(job, owner, step, _LOADER_SECONDS):
            raise RetryLater("another worker has taken over reading the manifest", _ASK_AGAIN_SECONDS)
    if not ledger.finish_loading(job, owner):
        raise RetryLater("another worker has taken over reading the manifest", _ASK_AGAIN_SECONDS)
    loaded = ledger.state(job)
    assert loaded is not None, "loaded above"
    log.info("the manifest of %s has %d rows", job, loaded.rows)
    return loaded


def _steps(manifest: Manifest, known: ManifestState) -> Iterator[list[NewChunk]]:
    rows = islice(manifest.rows(), known.rows, None)
    first_row, number = known.rows, known.rows // known.chunk_rows
    step: list[NewChunk] = []
    while taken := tuple[Row, ...](islice(rows, known.chunk_rows)):
        step.append(NewChunk(number, first_row, taken))
        number, first_row = number + 1, first_row + len(taken)
        if len(step) * known.chunk_rows >= _STEP_ROWS:
            yield step
            step = []
    if step:
        yield step


def _check_same(known: ManifestState, job: str, manifest: Manifest, output: str) -> None:
    """A job's name stands for one manifest and one output: answers of two must never mix."""
    if known.uri != manifest.uri:
        raise FixConfig(
            f"job {job!r} was begun with the manifest {redact_url(known.uri)}: give another manifest another job name"
        )
    if known.output != output:
        raise FixConfig(f"job {job!r} writes to {known.output}: keep that output, or give it another job name")
    if not known.loaded and known.fingerprint != manifest.fingerprint():
        raise FixConfig(
            f"the manifest {redact_url(manifest.uri)} has changed since job {job!r} began: give it another job name"
        )
