"""What tonight's schedule starts: one run a job, none that runs already, a locked-out one as a resumption.

The upstream fails a job that lands no result for ten minutes, and a job that waits for a slot lands none. So no more
jobs are started than may run side by side; the others are named, for a person to add room or for the next night.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from tidegate.adapters.antenna_jobs import open_jobs
from tidegate.adapters.configuration import Configuration, configuration
from tidegate.adapters.run_store import RunState, RunStore
from tidegate.control.opening import source_of
from tidegate.control.runs import open_store
from tidegate.core.errors import NeedsHuman

log = logging.getLogger(__name__)

#: Asked of the server at once; more open jobs than these are next night's.
LISTED_JOBS: Final = 500


@dataclass(frozen=True, slots=True)
class Candidate:
    source: str
    pipeline: str


@dataclass(frozen=True, slots=True)
class Night:
    """The runs to start, as the form's fields, and the jobs that must wait."""

    starts: list[dict[str, Any]]
    waiting: list[str]


def tonight(manifests: Sequence[str]) -> Night:
    """Tonight's runs, from Antenna's open jobs and from `manifests`, each `PIPELINE=URI` with its date filled in."""
    settings = configuration()
    candidates = [_named(entry) for entry in manifests]
    if settings.antenna_url:
        candidates += [Candidate(each.job, each.pipeline) for each in open_jobs(settings, LISTED_JOBS)]
    night = choose(candidates, open_store(settings), settings)
    log.info("%s runs to start, %s jobs have to wait", len(night.starts), len(night.waiting))
    return night


def choose(candidates: Sequence[Candidate], store: RunStore, settings: Configuration) -> Night:
    starts: list[dict[str, Any]] = []
    waiting: list[str] = []
    busy = sum(run.state is RunState.RUNNING for run in store.runs(at_most=settings.nightly_runs * 4))
    for candidate in candidates:
        last = next(iter(store.runs(source=source_of(candidate.source, settings), at_most=1)), None)
        if last is not None and last.state is RunState.RUNNING:
            log.info("%s runs already, as %s", candidate.source, last.run_id)
            continue
        if busy + len(starts) >= settings.nightly_runs:
            waiting.append(candidate.source)
            continue
        resumed = last.run_id if last is not None and last.state is RunState.LOCKED_OUT else None
        starts.append({"source": candidate.source, "pipeline": candidate.pipeline, "resume_of": resumed})
    return Night(starts, waiting)


def tell_waiting(waiting: Sequence[str]) -> None:
    """Fail where jobs were left over, so that somebody hears of it before they are failed upstream."""
    if waiting:
        raise NeedsHuman(
            f"{len(waiting)} jobs could not be started tonight: {', '.join(waiting[:20])}. Raise TIDEGATE_NIGHTLY_RUNS"
            " and the room of the namespace, or start the schedule earlier"
        )


def _named(entry: str) -> Candidate:
    pipeline, separator, uri = entry.partition("=")
    if not separator:
        raise NeedsHuman(f"TIDEGATE_NIGHTLY_MANIFESTS: {entry!r} is not PIPELINE=URI")
    return Candidate(uri, pipeline)
