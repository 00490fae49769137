"""What a remedy interrupts, on the one-machine stack: a leak that is resized in place, and one that is relaunched.

Decision: from the first sample that satisfies the detector, found by replaying the stored samples, to the saved trip.
Pause: the longest time without a new answer around the remedy; for a resize, from the saved trip until the breaker has
seen the new limit in force. Redone: images that a pod left in the middle, and those that were answered again.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import requests

from tidegate.adapters.pod_spec import pod_prefix
from tidegate.adapters.prometheus import readings
from tidegate.adapters.run_store import RunStore, StoredTrip
from tidegate.control.runs import foreseen
from tidegate.core.contract import Metric
from tidegate.core.detector import Detector
from tidegate.core.errors import NeedsHuman
from tidegate.core.slot import Phase
from tidegate_local.demo.airflow import DAG, OVER, Airflow
from tidegate_local.demo.registration import register
from tidegate_local.jobserver.control import JobServer
from tidegate_local.stack import metrics_config
from tidegate_local.stack.layout import LOOPBACK
from tidegate_local.stack.session import Session, say

PIPELINE: Final = "tidegate_demo_leak"
IMAGES: Final = 160
LONGEST_SECONDS: Final = 600.0
LOOK_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class Measured:
    decide_seconds: float
    pause_seconds: float
    images_redone: int


def measure(home: Path) -> dict[str, Measured]:
    """Both remedies on a stack of their own."""
    session = Session.started(home)
    try:
        return {
            "resize": _one(session, ["resize", "relaunch"]),
            "relaunch": _one(session, ["relaunch"]),
        }
    finally:
        session.supervisor.down()


def _one(session: Session, remedies: list[str]) -> Measured:
    doors = session.doors()
    jobs, airflow, store = doors.jobs, Airflow(doors), RunStore.open(doors.store_url)
    register(jobs, PIPELINE)
    job = jobs.create_job("typical", IMAGES, PIPELINE)
    dag_run = airflow.trigger(
        {"source": str(job), "pipeline": PIPELINE, "cap_gib": 4, "first_limit_mib": 768, "remedies": remedies}
    )
    say(f"remedies {remedies}: {airflow.url(dag_run)}")
    seen = _watch(airflow, jobs, store, dag_run, job)
    run = store.run(f"{DAG}/{dag_run}")
    trips = store.trips(f"{DAG}/{dag_run}")
    if run is None or run.plan is None or not trips:
        raise NeedsHuman("the run did not trip: nothing was measured; is the machine busy?")
    first = trips[0]
    samples = _samples(session, f"{DAG}/{dag_run}", first.trip.at)
    detector = Detector(foreseen=foreseen(run.plan))
    satisfied = math.nan
    for sample in samples:
        detector.observe(sample)
        if detector.assess(sample.t_seconds).trip is not None:
            satisfied = sample.t_seconds
            break
    twice = sum(image.answers - 1 - image.repeated for image in jobs.truth(job).images if image.answers)
    return Measured(
        decide_seconds=first.trip.at - satisfied,
        pause_seconds=seen.resizing(first) if first.remedy == "resize" else seen.longest_gap(first.trip.at),
        images_redone=twice + json.loads(run.summary or "{}")["images_redone"],
    )


@dataclass(slots=True)
class _Seen:
    """What a run looked like from outside, as often as it changed."""

    #: (time, images answered)
    answered: list[tuple[float, int]] = field(default_factory=list)
    #: (time, phase of the slot)
    phases: list[tuple[float, str]] = field(default_factory=list)

    def longest_gap(self, tripped_at: float) -> float:
        times = [at for at, _ in self.answered]
        return max(later - at for at, later in pairwise(times) if later > tripped_at)

    def resizing(self, trip: StoredTrip) -> float:
        over = (at for at, phase in self.phases if at >= trip.trip.at and phase == Phase.HALF_OPEN)
        return next(over, math.nan) - trip.trip.at


def _watch(airflow: Airflow, jobs: JobServer, store: RunStore, dag_run: str, job: int) -> _Seen:
    seen = _Seen()
    began = time.monotonic()
    while airflow.state(dag_run) not in OVER:
        for _ in range(10):
            slot = store.slot(f"{DAG}/{dag_run}", 0)
            _note(seen.phases, slot.state.phase.value if slot else "")
            _note(seen.answered, jobs.truth(job).totals["answered"])
            time.sleep(LOOK_SECONDS)
        if time.monotonic() - began > LONGEST_SECONDS:
            raise NeedsHuman(f"{dag_run} has not ended after {LONGEST_SECONDS:.0f} s")
    return seen


def _note(course: list[tuple[float, Any]], value: Any) -> None:
    if not course or course[-1][1] != value:
        course.append((time.time(), value))


def _query(session: Session, query: str, at: float) -> list[dict[str, Any]]:
    url = f"http://{LOOPBACK}:{session.ports['prometheus']}/api/v1/query"
    auth = (metrics_config.USER, session.layout.secret("metrics-password"))
    answer = requests.get(url, params={"query": query, "time": str(at)}, auth=auth, timeout=10)
    answer.raise_for_status()
    result: list[dict[str, Any]] = answer.json()["data"]["result"]
    return result


def _samples(session: Session, run_id: str, until: float) -> Any:
    names = "|".join(
        (
            Metric.MEMORY_NONRECLAIMABLE, Metric.MEMORY_LIMIT, Metric.GATE_CLOSED_SECONDS, Metric.MEMORY_WANTED,
            Metric.IMAGES_ACKED, Metric.MEMORY_IN_FLIGHT,
        )
    )  # fmt: skip
    selector = f'{{__name__=~"{names}",pod=~"{pod_prefix(run_id)}run-.*"}}[15m]'
    (reading,) = readings(_query(session, selector, until)).values()
    return reading.samples
