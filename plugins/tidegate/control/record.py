"""What the run store tells of runs and baselines, as values that JSON can hold; how they look is `cli` and `web`."""

from __future__ import annotations

import json
import statistics
import time
from collections import defaultdict
from typing import Any, Final

from tidegate.adapters.run_store import Attempt, Run, RunStore, StoredTrip
from tidegate.core.baseline import Baseline
from tidegate.core.errors import FixConfig
from tidegate.core.slot import SlotState
from tidegate.core.volume import weekday

SHARES: Final = (0.50, 0.90, 0.99)


def runs(store: RunStore, pipeline: str | None, at_most: int) -> list[dict[str, Any]]:
    return [of_run(run) for run in store.runs(pipeline=pipeline, at_most=at_most)]


def show(store: RunStore, named: str) -> dict[str, Any]:
    run = found(store, named)
    return {
        "run": of_run(run),
        "plan": run.plan.model_dump(mode="json") if run.plan else None,
        "slots": [of_slot(each.state) for each in store.slots(run.run_id)],
        "attempts": [_attempt(each) for each in store.attempts(run.run_id)],
        "trips": [_trip(each) for each in store.trips(run.run_id)],
        "summary": json.loads(run.summary) if run.summary else None,
    }


def history(store: RunStore, pipeline: str) -> dict[str, Any]:
    baselines = store.baselines(pipeline)
    if not baselines:
        raise FixConfig(f"no run of pipeline {pipeline} has ended well yet; `tidegate runs` lists what there is")
    return {"pipeline": pipeline, "baselines": [_baseline(each) for each in baselines]}


def found(store: RunStore, named: str) -> Run:
    """The run with this id, or the only one whose DAG run in Airflow has it."""
    if (run := store.run(named)) is not None:
        return run
    same = store.runs(dag_run_id=named)
    if not same:
        raise FixConfig(f"there is no run {named}; `tidegate runs` lists them")
    if len(same) > 1:
        raise FixConfig(f"{named} is a run of several DAGs; name one of: {', '.join(each.run_id for each in same)}")
    return same[0]


def of_run(run: Run) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "state": run.state.value,
        "pipeline": run.pipeline,
        "model_version": run.model_version,
        "source": run.source.model_dump(mode="json", exclude_none=True),
        "slots": run.slots,
        "created_at": run.created_at,
        "ended_at": run.ended_at,
        "resume_of": run.resume_of,
        "limit_bytes": run.plan.limit_bytes if run.plan else None,
    }


def of_slot(state: SlotState) -> dict[str, Any]:
    return state.model_dump(
        mode="json",
        include={
            "slot", "phase", "generation", "limit_bytes", "cap_bytes", "ceiling_bytes", "one_at_a_time", "memory_ends",
            "crash_ends", "infrastructure_ends", "reason",
        },
    ) | {"acked": state.acked, "alert": state.alert.summary if state.alert else None}  # fmt: skip


def _attempt(attempt: Attempt) -> dict[str, Any]:
    report = attempt.report
    return {
        "slot": attempt.slot,
        "generation": attempt.generation,
        "pod": attempt.pod_name,
        "node": attempt.node,
        "limit_bytes": attempt.limit_bytes,
        "peak_bytes": report.peak_bytes if report else None,
        "acked": report.acked if report else None,
        "created_at": attempt.created_at,
        "ended_at": attempt.ended_at,
        "end": attempt.end,
        "exit_code": attempt.exit_code,
        "reason": attempt.reason,
    }


def _trip(stored: StoredTrip) -> dict[str, Any]:
    return {
        **stored.trip.model_dump(mode="json", exclude={"schema_version", "run_id"}),
        "remedy": stored.remedy,
        "remedy_reason": stored.remedy_reason,
    }


def _baseline(baseline: Baseline) -> dict[str, Any]:
    return {
        "model_version": baseline.key.model_version,
        "job_kind": baseline.key.job_kind,
        "healthy_runs": baseline.healthy_runs,
        "unhealthy_runs": baseline.unhealthy_runs,
        "last_healthy": baseline.last_healthy,
        "settled": baseline.settled(time.time()),
        "quantities": {
            quantity: {f"p{share * 100:.0f}": histogram.percentile(share) for share in SHARES}
            for quantity, histogram in sorted(baseline.quantities.items())
        },
        "peaks_by_weekday": _peaks_by_weekday(baseline),
    }


def _peaks_by_weekday(baseline: Baseline) -> dict[str, dict[str, int]]:
    """By day, Monday as 0: a night that is heavier every week is no anomaly."""
    peaks: dict[int, list[int]] = defaultdict(list)
    for sample in baseline.recent:
        if sample.peak_bytes is not None:
            peaks[weekday(sample.at)].append(sample.peak_bytes)
    return {
        str(day): {"runs": len(of), "median": int(statistics.median(of)), "max": max(of), "last": of[-1]}
        for day, of in sorted(peaks.items())
    }
