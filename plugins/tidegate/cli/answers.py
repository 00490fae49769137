"""What each command finds or does, as values that JSON can hold; how they look as text is `text`."""

from __future__ import annotations

import json
import statistics
import time
from collections import defaultdict
from typing import Any, Final

from tidegate.adapters.configuration import Configuration
from tidegate.adapters.run_store import Attempt, Run, RunStore, StoredTrip
from tidegate.control.runs import planned, policy
from tidegate.control.steps import Control
from tidegate.core.baseline import Baseline
from tidegate.core.errors import FixConfig
from tidegate.core.slot import Phase, ResetByHuman, SlotState
from tidegate.core.volume import weekday

SHARES: Final = (0.50, 0.90, 0.99)
_LOCKED: Final = frozenset({Phase.LOCKED_OUT, Phase.LOCKING_DRAINING, Phase.LOCKING_DELETING})


def runs(store: RunStore, pipeline: str | None, at_most: int) -> list[dict[str, Any]]:
    return [_run(run) for run in store.runs(pipeline=pipeline, at_most=at_most)]


def show(store: RunStore, run_id: str) -> dict[str, Any]:
    run = found(store, run_id)
    return {
        "run": _run(run),
        "plan": run.plan.model_dump(mode="json") if run.plan else None,
        "slots": [_slot(each.state) for each in store.slots(run.run_id)],
        "attempts": [_attempt(each) for each in store.attempts(run.run_id)],
        "trips": [_trip(each) for each in store.trips(run.run_id)],
        "summary": json.loads(run.summary) if run.summary else None,
    }


def history(store: RunStore, pipeline: str) -> dict[str, Any]:
    baselines = store.baselines(pipeline)
    if not baselines:
        raise FixConfig(f"no run of pipeline {pipeline} has ended well yet; `tidegate runs` lists what there is")
    return {"pipeline": pipeline, "baselines": [_baseline(each) for each in baselines]}


def reset(
    store: RunStore,
    settings: Configuration,
    run_id: str,
    *,
    slot: int | None,
    cap: int | None,
    limit: int | None,
    by: str,
) -> dict[str, Any]:
    """Record a person's decision to go on; safe to repeat."""
    if cap is not None and cap > settings.cap_bytes:
        raise FixConfig(
            f"a cap of {cap} bytes is above the administrator's {settings.cap_bytes}: raise TIDEGATE_CAP_BYTES first"
        )
    run, plan = planned(found(store, run_id), run_id)
    states = [each.state for each in store.slots(run.run_id)]
    chosen = [state for state in states if state.slot == slot or (slot is None and state.phase in _LOCKED)]
    if not chosen:
        phases = ", ".join(f"slot {state.slot} is {state.phase}" for state in states)
        raise FixConfig(f"nothing to reset in {run.run_id}: {phases}. A finished slot is started again with --slot")
    for state in chosen:
        if state.phase not in _LOCKED | {Phase.DONE}:
            raise FixConfig(f"slot {state.slot} of {run.run_id} is {state.phase}: it goes on by itself")
        if limit is not None and limit > (cap or state.cap_bytes):
            raise FixConfig(
                f"a limit of {limit} bytes is above the cap of slot {state.slot}: raise the cap with the limit"
            )
    # Refused where another run has taken the job in the meantime.
    store.enter_run(run)
    control = Control(store, policy(run, plan, settings))
    after = []
    for state in chosen:
        event = ResetByHuman(generation=state.generation, at=time.time(), by=by, limit_bytes=limit, cap_bytes=cap)
        after.append(control.happened(run.run_id, state.slot, event)[0])
    return {"run": _run(run), "slots": [_slot(state) for state in after]}


def upgraded(store: RunStore) -> dict[str, Any]:
    # Opening it has brought it up to date.
    return {"address": store.address, "schema": store.schema}


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


def _run(run: Run) -> dict[str, Any]:
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


def _slot(state: SlotState) -> dict[str, Any]:
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
