"""Sums over the whole run store, for counters that only grow; what is told of a single run is `store`'s."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from tidegate.adapters.run_store import tables
from tidegate.adapters.run_store.readable import readable
from tidegate.core.contract import GIB

#: (pipeline, model version)
Kind = tuple[str, str]
#: The word of `core.verdict` for a kill by the pod's own limit.
OOM: Final = "oom"
_GIB_HOUR: Final = GIB * 3600.0


@dataclass(frozen=True, slots=True)
class Totals:
    #: Each with a last part: the state of runs, the cause of trips.
    runs: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    trips: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    oom_kills: Counter[Kind] = field(default_factory=Counter)
    #: Of runs that have ended; a reopened run keeps the numbers of its last end, so that no sum falls.
    images_redone: Counter[Kind] = field(default_factory=Counter)
    pause_seconds: dict[Kind, float] = field(default_factory=dict)
    allocated_byte_seconds: dict[Kind, float] = field(default_factory=dict)
    used_byte_seconds: dict[Kind, float] = field(default_factory=dict)

    @property
    def kinds(self) -> list[Kind]:
        return sorted({(pipeline, version) for pipeline, version, _ in self.runs})


@dataclass(frozen=True, slots=True)
class _Summed:
    """As much of one summary as is summed up."""

    images_redone: int
    pause_seconds: float
    allocated_byte_seconds: float
    used_byte_seconds: float


def read(connection: sa.Connection) -> Totals:
    """Four passes, each over an index or a small table; thousands of runs take milliseconds."""
    runs, trips, attempts = tables.runs.c, tables.trips.c, tables.attempts.c
    totals = Totals()
    for *kind, state, count in connection.execute(
        sa.select(runs.pipeline, runs.model_version, runs.state, sa.func.count()).group_by(
            runs.pipeline, runs.model_version, runs.state
        )
    ):
        totals.runs[(kind[0], kind[1], state)] = count
    for *kind, cause, count in connection.execute(
        sa.select(runs.pipeline, runs.model_version, trips.cause, sa.func.count())
        .where(trips.run_id == runs.run_id)
        .group_by(runs.pipeline, runs.model_version, trips.cause)
    ):
        totals.trips[(kind[0], kind[1], cause)] = count
    for *kind, count in connection.execute(
        sa.select(runs.pipeline, runs.model_version, sa.func.count())
        .where(attempts.run_id == runs.run_id, attempts.end == OOM)
        .group_by(runs.pipeline, runs.model_version)
    ):
        totals.oom_kills[(kind[0], kind[1])] = count
    ended = connection.execute(
        sa.select(runs.run_id, runs.pipeline, runs.model_version, runs.summary).where(runs.summary.is_not(None))
    )
    for of_kind, summed in readable(ended, _summed, lambda row: f"summary of {row.run_id}"):
        totals.images_redone[of_kind] += summed.images_redone
        for sums, value in (
            (totals.pause_seconds, summed.pause_seconds),
            (totals.allocated_byte_seconds, summed.allocated_byte_seconds),
            (totals.used_byte_seconds, summed.used_byte_seconds),
        ):
            sums[of_kind] = sums.get(of_kind, 0.0) + value
    return totals


def _summed(row: sa.Row[Any]) -> tuple[Kind, _Summed]:
    # What another release left out counts as nothing, and keeps none of the rest from being told.
    summary = json.loads(row.summary)
    allocated = float(summary.get("allocated_gib_hours", 0.0)) * _GIB_HOUR
    return (row.pipeline, row.model_version), _Summed(
        images_redone=int(summary.get("images_redone", 0)),
        pause_seconds=float(summary.get("pause_seconds", 0.0)),
        allocated_byte_seconds=allocated,
        used_byte_seconds=allocated * float(summary.get("maq", 0.0)),
    )
