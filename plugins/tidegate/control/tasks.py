"""The DAG's small tasks, each a call over one run: resolve, plan, verify, report.

A task may run again at any time, by retry or by Clear: each finds what it did before and does only what is missing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tidegate.adapters.configuration import configuration
from tidegate.adapters.run_store import Run, RunState, RunStore
from tidegate.adapters.sources import JobCount, JobStanding, count
from tidegate.control import closing, opening, planning
from tidegate.control.runs import Request, open_store, planned
from tidegate.core.contract import GIB, MIB
from tidegate.core.errors import FixConfig, NeedsHuman, RetryLater
from tidegate.core.slot import Phase

log = logging.getLogger(__name__)

VERIFY_RETRIES: Final = closing.VERIFY_RETRIES


def request_of(params: Mapping[str, Any]) -> Request:
    """What the form or the schedule asked for, in bytes and with its empty fields left out."""
    return Request(
        remedies=tuple(params["remedies"]),
        sensitivity=params["sensitivity"],
        limit_bytes=params["first_limit_mib"] * MIB if params["first_limit_mib"] else None,
        cap_bytes=params["cap_gib"] * GIB,
        on_volume_anomaly=params["on_volume_anomaly"],
        dry_run=params["dry_run"],
        node_selector=dict(params["node_selector"] or {}),
        tolerations=tuple(params["tolerations"] or ()),
        gpu_type=params["gpu_type"],
    )


def resolve(params: Mapping[str, Any], *, dag_id: str, dag_run_id: str) -> str:
    """Store the run and ask whether its input is what it should be; the run's id."""
    settings, now = configuration(), time.time()
    store = open_store(settings)
    run = opening.open_run(
        store,
        run_id=opening.run_id_of(dag_id, dag_run_id),
        dag_run_id=dag_run_id,
        source=opening.source_of(params["source"], settings),
        pipeline=params["pipeline"],
        slots=params["slots"],
        request=request_of(params),
        resume_of=params["resume_of"],
        now=now,
        configuration=settings,
    )
    counted = count(run.source, settings)
    # Before the judgement, which may hold the run: what it was held for is shown with it.
    store.save_offer(run.run_id, counted.total)
    judgement = opening.judge_input(run, counted, store, now)
    log.info("input volume is %s: %s", judgement.verdict, judgement.reason)
    return run.run_id


def plan(run_id: str) -> list[int]:
    """Plan the run; the slots to launch, none in a dry run."""
    settings = configuration()
    store = open_store(settings)
    run = store.run(run_id)
    if run is None:
        raise FixConfig(f"there is no run {run_id}: its task `resolve` must end first")
    made = planning.plan(
        store, run, store.probe_report(run_id), count(run.source, settings).total, time.time(), settings
    )
    log.info("%s", planning.in_words(made))
    return [] if Request.from_json(run.request).dry_run else list(range(run.slots))


def verify(run_id: str) -> str:
    """Prove by the source's own count that the run is complete."""
    settings = configuration()
    store = open_store(settings)
    run, _ = planned(store.run(run_id), run_id)
    if Request.from_json(run.request).dry_run:
        return "a dry run answers nothing"
    words = closing.verify(count(run.source, settings), [slot.state for slot in store.slots(run_id)])
    log.info("%s", words)
    return words


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended, in words; the last task of the DAG fails by it, so that its state is the run's."""

    words: str
    unproven: str | None

    def raise_unless_proven(self) -> None:
        if self.unproven is not None:
            raise NeedsHuman(self.unproven)


def report(run_id: str) -> Outcome:
    """Store and show the run's numbers, however it ended."""
    settings, now = configuration(), time.time()
    store = open_store(settings)
    run = store.run(run_id)
    if run is None:
        raise FixConfig(f"there is no run {run_id}: its task `resolve` did not end")
    try:
        counted = count(run.source, settings)
    except (RetryLater, FixConfig) as error:
        log.warning("the source was not asked: %s", error)
        counted = None
    state = _state(run, store, counted)
    summary = closing.with_judged_peak(closing.summarise(run, store, counted, state, now), run, store)
    closing.close(run, store, summary, store.probe_report(run_id), now)
    words = closing.in_words(summary, store.trips(run_id))
    log.info("%s", words)
    if state in (RunState.DONE, RunState.PLANNED):
        return Outcome(words, None)
    ended = state.value.replace("_", " ")
    return Outcome(words, f"run {run_id} is {ended}: {summary.acked} of {summary.images} answered")


def _state(run: Run, store: RunStore, counted: JobCount | None) -> RunState:
    if Request.from_json(run.request).dry_run and run.plan is not None:
        return RunState.PLANNED
    # Answers decide: a job that is complete needs nobody, whatever became of a slot.
    if counted is not None and counted.standing is JobStanding.COMPLETE:
        return RunState.DONE
    if any(slot.state.phase is Phase.LOCKED_OUT for slot in store.slots(run.run_id)):
        return RunState.LOCKED_OUT
    return RunState.FAILED
