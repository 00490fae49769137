"""The values that the run store takes and gives; no SQL."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tidegate.core.contract import Plan, Source, Trip, WorkerReport
from tidegate.core.slot import SlotState


class RunState(StrEnum):
    RUNNING = "running"
    #: A dry run: measured and planned, nothing launched.
    PLANNED = "planned"
    DONE = "done"
    LOCKED_OUT = "locked_out"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one job. `request` holds what the person or the schedule asked for, as JSON."""

    run_id: str
    dag_run_id: str
    source: Source
    pipeline: str
    model_version: str
    slots: int
    request: str
    created_at: float
    resume_of: str | None = None
    state: RunState = RunState.RUNNING
    ended_at: float | None = None
    plan: Plan | None = None
    #: The end report, as JSON.
    summary: str | None = None
    #: What its source had when it began; None where it did not tell.
    images_offered: int | None = None


@dataclass(frozen=True, slots=True)
class StoredSlot:
    """A slot with the revision that a writer must name: two writers of one revision cannot both succeed."""

    state: SlotState
    revision: int
    changed_at: float | None = None
    #: When the breaker last had fresh samples of it, or knew that there was nothing to see.
    seen_at: float | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One pod of one slot, from its creation to its judged end."""

    run_id: str
    slot: int
    generation: int
    pod_name: str
    pod_uid: str
    limit_bytes: int
    created_at: float
    ended_at: float | None = None
    end: str | None = None
    exit_code: int | None = None
    reason: str = ""
    node: str | None = None
    report: WorkerReport | None = None


@dataclass(frozen=True, slots=True)
class StoredTrip:
    """A trip with the remedy that answered it."""

    trip: Trip
    remedy: str
    remedy_reason: str
