"""What `tidegate exporter` tells of a real run store: states, events with their place, sums that only grow."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
import sqlalchemy as sa
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from tests.adapters.examples import RUN_ID, attempt, moved, planned, run, the_slot, trip
from tests.adapters.metrics_bed import eventually, free_port

from tidegate.adapters.configuration import Configuration
from tidegate.adapters.run_store import Run, RunState, RunStore, StoredTrip, tables
from tidegate.control import closing
from tidegate.core.baseline import DAY_SECONDS, BaselineKey, FinishedRun
from tidegate.core.contract import GIB, MIB, Character, StoreMetric, Trip, TripCause, WorkerReport
from tidegate.core.errors import ContractMismatch
from tidegate.core.slot import Alert, Phase
from tidegate.exporter.reading import KEEP_SECONDS, Reader
from tidegate.exporter.series import StoreCollector

BEGAN_AT = 1_000_000.0
SLOT = {"run_id": RUN_ID, "slot": "0"}
#: As much of a stored summary as is summed up.
NUMBERS = {"acked": 100, "maq": 0.5, "allocated_gib_hours": 1.0, "images_redone": 3, "pause_seconds": 20.0}
MOTHS = {"pipeline": "moths", "model_version": "v1"}


class Scrapes:
    """Scrapes of one store at times that the test sets."""

    def __init__(self, store: RunStore) -> None:
        self.now = BEGAN_AT + 600.0
        settings = Configuration(dashboards_url="http://grafana/", docs_url="http://docs")
        self._registry = CollectorRegistry()
        self._registry.register(StoreCollector(Reader(store), settings, lambda: self.now))

    def all(self) -> list[tuple[str, dict[str, str], float]]:
        text = generate_latest(self._registry).decode()
        return [
            (sample.name, sample.labels, sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]

    def value(self, series: str, **labels: str) -> float | None:
        """The value of the one series with these labels; None where there is none."""
        found = [value for name, others, value in self.all() if name == series and labels.items() <= others.items()]
        assert len(found) <= 1, f"{series} {labels} is there {len(found)} times"
        return found[0] if found else None


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    opened = RunStore.open(f"sqlite:///{tmp_path}/runs.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def scrapes(store: RunStore) -> Scrapes:
    return Scrapes(store)


def step(store: RunStore, *, pod: Any = None, told: StoredTrip | None = None, **changes: Any) -> None:
    before = the_slot(store)
    store.advance(before, moved(before.state, **changes), attempt=pod, trip=told)


def launched(store: RunStore, **changes: Any) -> None:
    """Slot 0 of a planned run with a pod that runs."""
    planned(store, **changes)
    pod = attempt(the_slot(store).state, node="node-1")
    step(store, pod=pod, phase=Phase.CLOSED, pod_uid="uid-1")


def a_trip(store: RunStore, **changes: Any) -> Trip:
    return trip(the_slot(store).state, **changes)


# -- slots -------------------------------------------------------------------------------------------------------------


def test_a_slot_is_told_with_the_facts_of_its_run(store: RunStore, scrapes: Scrapes) -> None:
    launched(store)
    facts = {"generation": "0", "job_id": "7", **MOTHS, "node": "node-1", "worker_namespace": "default"}
    assert scrapes.value(StoreMetric.SLOT_INFO, **SLOT, **facts, worker_pod="pod-0") == 1
    assert scrapes.value(StoreMetric.BREAKER_STATE, **SLOT, state="closed") == 1
    assert scrapes.value(StoreMetric.BREAKER_STATE, **SLOT, state="locked_out") == 0
    assert scrapes.value(StoreMetric.SLOT_LIMIT, **SLOT) == 2 * GIB
    assert scrapes.value(StoreMetric.SLOT_CAP, **SLOT) == 8 * GIB
    assert scrapes.value(StoreMetric.RUN_STATE, run_id=RUN_ID, state="running", job_id="7", **MOTHS) == 1
    assert scrapes.value(StoreMetric.LINKS_INFO, dashboards="http://grafana", docs="http://docs") == 1


def test_no_label_is_one_that_a_scrape_sets(store: RunStore, scrapes: Scrapes) -> None:
    launched(store)
    step(store, told=StoredTrip(a_trip(store), "resize", "it grows"))
    assert not {"job", "instance", "namespace", "pod", "container"} & {
        label for _, labels, _ in scrapes.all() for label in labels
    }


def test_a_trip_names_the_pod_that_it_befell_also_when_the_next_runs_elsewhere(
    store: RunStore, scrapes: Scrapes
) -> None:
    launched(store)
    found = a_trip(store, at=BEGAN_AT + 100, limit_in_seconds=42.0)
    step(store, told=StoredTrip(found, "relaunch_larger", "it grows"), trip=found, generation=1)
    pod = attempt(the_slot(store).state, pod_uid="uid-2", created_at=BEGAN_AT + 200, node="node-2")
    step(store, pod=pod, pod_uid="uid-2")
    where = {**SLOT, "cause": "velocity", "generation": "0", "node": "node-1"}
    assert scrapes.value(StoreMetric.BREAKER_TRIP_AT, **where) == BEGAN_AT + 100
    assert scrapes.value(StoreMetric.BREAKER_LEAD_SECONDS, **SLOT) == 42
    assert scrapes.value(StoreMetric.SLOT_INFO, **SLOT, generation="1", node="node-2") == 1


def test_a_later_trip_of_the_same_cause_replaces_the_earlier(store: RunStore, scrapes: Scrapes) -> None:
    launched(store)
    for generation in (0, 1):
        found = a_trip(store, at=BEGAN_AT + 100 * (1 + generation), character=Character.LEAK)
        step(store, told=StoredTrip(found, "recycle", "it leaks"), generation=generation + 1)
    assert scrapes.value(StoreMetric.BREAKER_TRIP_AT, **SLOT, cause="velocity") == BEGAN_AT + 200
    assert scrapes.value(StoreMetric.TRIPS, **MOTHS, cause="velocity") == 2


def test_a_kill_is_counted_long_after_its_pod_is_deleted(store: RunStore, scrapes: Scrapes) -> None:
    launched(store)
    assert scrapes.value(StoreMetric.SLOT_OOM_KILLS, **SLOT) == 0
    assert scrapes.value(StoreMetric.OOM_KILLS_RECORDED, **MOTHS) == 0
    pod = attempt(the_slot(store).state, node="node-1", ended_at=BEGAN_AT + 300, end="oom", exit_code=137)
    found = a_trip(store, cause=TripCause.OOM, at=BEGAN_AT + 300)
    step(store, pod=pod, told=StoredTrip(found, "relaunch_larger", "killed"), phase=Phase.OPEN_WAITING, pod_uid=None)
    assert scrapes.value(StoreMetric.SLOT_OOM_KILLS, **SLOT) == 1
    assert scrapes.value(StoreMetric.SLOT_OOM_KILL_AT, **SLOT, generation="0", node="node-1") == BEGAN_AT + 300
    assert scrapes.value(StoreMetric.OOM_KILLS_RECORDED, **MOTHS) == 1


def test_a_slot_is_paused_from_the_end_of_its_pod_until_the_next_runs(store: RunStore, scrapes: Scrapes) -> None:
    launched(store)
    assert scrapes.value(StoreMetric.SLOT_PAUSED_SECONDS, **SLOT) == 0
    pod = attempt(the_slot(store).state, ended_at=scrapes.now - 70, end="drained")
    step(store, pod=pod, phase=Phase.OPEN_WAITING, pod_uid=None)
    assert scrapes.value(StoreMetric.SLOT_PAUSED_SECONDS, **SLOT) == 70
    step(store, phase=Phase.OPEN_STARTING, pod_uid="uid-2")
    assert scrapes.value(StoreMetric.SLOT_PAUSED_SECONDS, **SLOT) == 70
    step(store, phase=Phase.HALF_OPEN)
    assert scrapes.value(StoreMetric.SLOT_PAUSED_SECONDS, **SLOT) == 0


def test_a_slot_that_waits_for_its_first_pod_pauses_from_its_plan_on(store: RunStore, scrapes: Scrapes) -> None:
    planned(store)
    changed_at = the_slot(store).changed_at
    assert changed_at is not None
    scrapes.now = changed_at + 90
    assert scrapes.value(StoreMetric.SLOT_PAUSED_SECONDS, **SLOT) == pytest.approx(90)


def test_a_locked_out_slot_waits_for_a_person_and_is_not_paused(store: RunStore, scrapes: Scrapes) -> None:
    launched(store)
    step(store, phase=Phase.LOCKED_OUT, pod_uid=None)
    assert scrapes.value(StoreMetric.SLOT_PAUSED_SECONDS, **SLOT) == 0
    assert scrapes.value(StoreMetric.BREAKER_STATE, **SLOT, state="locked_out") == 1
    assert scrapes.value(StoreMetric.BREAKER_SEEN_AT, **SLOT) is None


def test_a_slot_that_a_person_reset_pauses_from_then_on(store: RunStore, scrapes: Scrapes) -> None:
    launched(store)
    pod = attempt(the_slot(store).state, ended_at=scrapes.now - 8 * 3600, end="oom")
    step(store, pod=pod, phase=Phase.LOCKED_OUT, pod_uid=None)
    step(store, phase=Phase.CLOSED_WAITING, reset_at=scrapes.now - 40)
    assert scrapes.value(StoreMetric.SLOT_PAUSED_SECONDS, **SLOT) == 40
    # A launch that is refused again and again shortens nothing.
    step(store, reason="quota")
    assert scrapes.value(StoreMetric.SLOT_PAUSED_SECONDS, **SLOT) == 40
    step(store, phase=Phase.CLOSED_STARTING, pod_uid="uid-2")
    assert scrapes.value(StoreMetric.SLOT_PAUSED_SECONDS, **SLOT) == 40


def test_there_is_nothing_to_see_of_a_slot_without_a_pod(store: RunStore, scrapes: Scrapes) -> None:
    launched(store)
    store.saw(RUN_ID, {0: BEGAN_AT + 500})
    pod = attempt(the_slot(store).state, ended_at=BEGAN_AT + 510, end="oom")
    step(store, pod=pod, phase=Phase.OPEN_WAITING, pod_uid=None)
    assert scrapes.value(StoreMetric.BREAKER_SEEN_AT, **SLOT) is None


def test_a_run_that_nobody_has_ended_is_no_longer_blind_after_a_day(store: RunStore, scrapes: Scrapes) -> None:
    launched(store)
    store.saw(RUN_ID, {0: BEGAN_AT + 500})
    scrapes.now = BEGAN_AT + 500 + KEEP_SECONDS
    assert scrapes.value(StoreMetric.BREAKER_SEEN_AT, **SLOT) == BEGAN_AT + 500
    scrapes.now += 1
    assert scrapes.value(StoreMetric.BREAKER_SEEN_AT, **SLOT) is None


def test_a_pod_that_no_breaker_has_ever_seen_is_unseen_since_its_creation(store: RunStore, scrapes: Scrapes) -> None:
    launched(store)
    assert scrapes.value(StoreMetric.BREAKER_SEEN_AT, **SLOT) == 1_000_010.0
    store.saw(RUN_ID, {0: BEGAN_AT + 500})
    assert scrapes.value(StoreMetric.BREAKER_SEEN_AT, **SLOT) == BEGAN_AT + 500


def test_a_trouble_is_told_while_it_stands(store: RunStore, scrapes: Scrapes) -> None:
    launched(store)
    step(store, alert=Alert(name="TidegateHeld", generation=0, summary="no remedy is allowed"))
    assert scrapes.value(StoreMetric.SLOT_TROUBLE, **SLOT, trouble="TidegateHeld") == 1
    step(store, alert=None)
    assert scrapes.value(StoreMetric.SLOT_TROUBLE, **SLOT) is None


# -- runs --------------------------------------------------------------------------------------------------------------


def finished(store: RunStore, state: RunState = RunState.DONE, at: float = BEGAN_AT + 300) -> Run:
    """The run, ended as its last task ends it."""
    report = WorkerReport(
        run_id=RUN_ID, slot=0, generation=0, phase="finished", acked=98, quarantined=2, peak_bytes=GIB,
        limit_bytes=2 * GIB,
    )  # fmt: skip
    pod = attempt(the_slot(store).state, ended_at=1_000_010.0 + 3600, end="finished", report=report, node="node-1")
    step(store, pod=pod, phase=Phase.DONE, pod_uid=None)
    known = store.run(RUN_ID)
    assert known is not None
    closing.close(known, store, closing.summarise(known, store, None, state, at), None, at)
    return known


def test_an_ended_run_is_told_by_its_summary_for_a_day_and_in_the_sums_for_ever(
    store: RunStore, scrapes: Scrapes
) -> None:
    launched(store)
    finished(store)
    assert scrapes.value(StoreMetric.RUN_STATE, run_id=RUN_ID, state="done") == 1
    assert scrapes.value(StoreMetric.RUN_MAQ, run_id=RUN_ID) == 0.5
    assert scrapes.value(StoreMetric.RUN_QUARANTINED, run_id=RUN_ID) == 2
    assert scrapes.value(StoreMetric.RUN_PEAK, run_id=RUN_ID) == GIB
    scrapes.now += KEEP_SECONDS
    assert scrapes.value(StoreMetric.RUN_STATE, run_id=RUN_ID) is None
    assert scrapes.value(StoreMetric.SLOT_INFO, run_id=RUN_ID) is None
    assert scrapes.value(StoreMetric.RUNS, **MOTHS, state="done") == 1
    assert scrapes.value(StoreMetric.MEMORY_ALLOCATED, **MOTHS) == pytest.approx(2 * GIB * 3600)
    assert scrapes.value(StoreMetric.MEMORY_USED, **MOTHS) == pytest.approx(GIB * 3600)


def test_no_sum_falls_when_a_run_is_reopened(store: RunStore, scrapes: Scrapes) -> None:
    launched(store)
    finished(store, RunState.FAILED)
    before = {(name, *labels.items()): value for name, labels, value in scrapes.all() if name.endswith("_total")}
    known = store.run(RUN_ID)
    assert known is not None
    store.enter_run(known)
    assert scrapes.value(StoreMetric.RUN_STATE, run_id=RUN_ID, state="running") == 1
    after = {(name, *labels.items()): value for name, labels, value in scrapes.all() if name.endswith("_total")}
    assert all(after[key] >= value for key, value in before.items())


def test_a_run_that_was_resumed_leaves_the_word_to_its_successor(store: RunStore, scrapes: Scrapes) -> None:
    launched(store)
    step(store, phase=Phase.LOCKED_OUT, pod_uid=None)
    finished(store, RunState.LOCKED_OUT)
    successor = run("tidegate_batch_inference/manual__2", resume_of=RUN_ID, created_at=BEGAN_AT + 400)
    store.enter_run(successor)
    assert scrapes.value(StoreMetric.SLOT_INFO, run_id=RUN_ID) is None
    assert scrapes.value(StoreMetric.RUN_STATE, run_id=successor.run_id, state="running") == 1


def test_one_record_that_cannot_be_read_blinds_nobody_to_the_others(
    store: RunStore, scrapes: Scrapes, tmp_path: Path
) -> None:
    launched(store)
    other = "tidegate_batch_inference/manual__3"
    store.enter_run(replace(run(other), source=run().source.model_copy(update={"job": "8"})))
    with sa.create_engine(f"sqlite:///{tmp_path}/runs.sqlite").begin() as connection:
        connection.execute(sa.update(tables.slots).values(state=json.dumps({"schema_version": 99})))
    assert scrapes.value(StoreMetric.RUN_STATE, run_id=other) == 1
    assert scrapes.value(StoreMetric.RUN_STATE, run_id=RUN_ID) is None


def test_a_plan_a_baseline_or_a_summary_that_cannot_be_read_fails_no_scrape(
    store: RunStore, scrapes: Scrapes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    taught(store)
    launched(store)
    other = "tidegate_batch_inference/manual__3"
    store.enter_run(replace(run(other), source=run().source.model_copy(update={"job": "8"})))
    newer = json.dumps({"schema_version": 99})
    with sa.create_engine(f"sqlite:///{tmp_path}/runs.sqlite").begin() as connection:
        connection.execute(sa.update(tables.runs).filter_by(run_id=RUN_ID).values(plan=newer))
        connection.execute(sa.update(tables.runs).filter_by(run_id="tidegate_nightly/1").values(summary="{"))
        connection.execute(sa.update(tables.runs).filter_by(run_id="tidegate_nightly/2").values(summary="[]"))
        connection.execute(sa.update(tables.baselines).values(baseline=newer))
    assert scrapes.value(StoreMetric.RUN_STATE, run_id=other) == 1
    for name in (
        f"run {RUN_ID}",
        "summary of tidegate_nightly/1",
        "summary of tidegate_nightly/2",
        "baseline of moths",
    ):
        assert sum(message.startswith(name) for message in caplog.messages) == 1, name
    # Of the eight nights six are left.
    assert scrapes.value(StoreMetric.IMAGES_REDONE, **MOTHS) == 18
    assert scrapes.value(StoreMetric.RUN_STATE, run_id=RUN_ID) is None
    assert scrapes.value(StoreMetric.HEALTHY_RUNS, **MOTHS) is None
    with pytest.raises(ContractMismatch):
        store.run(RUN_ID)


# -- against history ---------------------------------------------------------------------------------------------------


def taught(store: RunStore, nights: int = 8) -> None:
    """Nights of 100 images that needed 1 GiB."""
    key = BaselineKey(pipeline="moths", model_version="v1", job_kind="antenna")
    for night in range(1, nights + 1):
        name, at = f"tidegate_nightly/{night}", BEGAN_AT - night * DAY_SECONDS
        store.enter_run(run(name, created_at=at, model_version="v1"))
        lesson = FinishedRun(at=at, images=100 + night % 3, peak_bytes=GIB + (night % 3) * MIB)
        store.end_run(name, RunState.DONE, at, json.dumps(NUMBERS), (key, lesson))


def test_volume_and_peak_are_compared_with_earlier_runs(store: RunStore, scrapes: Scrapes) -> None:
    taught(store)
    launched(store, baseline_velocity_bytes_per_second=1e6)
    store.save_offer(RUN_ID, 1000)
    assert scrapes.value(StoreMetric.VOLUME_UNUSUAL, run_id=RUN_ID) == 1
    assert scrapes.value(StoreMetric.VOLUME_RATIO, run_id=RUN_ID) == pytest.approx(10, rel=0.05)
    assert scrapes.value(StoreMetric.BASELINE_PEAK, run_id=RUN_ID) == pytest.approx(GIB, rel=0.01)
    assert (scrapes.value(StoreMetric.BASELINE_PEAK_SPREAD, run_id=RUN_ID) or 0) > 0
    assert scrapes.value(StoreMetric.BASELINE_VELOCITY, run_id=RUN_ID) == 1e6
    assert scrapes.value(StoreMetric.HEALTHY_RUNS, **MOTHS, job_kind="antenna") == 8
    assert scrapes.value(StoreMetric.IMAGES_REDONE, **MOTHS) == 24
    assert scrapes.value(StoreMetric.PAUSE_SECONDS, **MOTHS) == 160
    store.save_offer(RUN_ID, 101)
    assert scrapes.value(StoreMetric.VOLUME_UNUSUAL, run_id=RUN_ID) == 0


def test_without_history_nothing_is_called_usual(store: RunStore, scrapes: Scrapes) -> None:
    launched(store)
    store.save_offer(RUN_ID, 1000)
    for series in (StoreMetric.VOLUME_UNUSUAL, StoreMetric.BASELINE_PEAK, StoreMetric.BASELINE_VELOCITY):
        assert scrapes.value(series, run_id=RUN_ID) is None


# -- the process -------------------------------------------------------------------------------------------------------


def test_the_command_serves_until_it_is_told_to_end(tmp_path: Path) -> None:
    url, port = f"sqlite:///{tmp_path}/runs.sqlite", free_port()
    opened = RunStore.open(url)
    launched(opened)
    command = [sys.executable, "-m", "tidegate", "exporter", "--port", str(port)]
    process = subprocess.Popen(command, env={**os.environ, "TIDEGATE_RUN_STORE_URL": url})
    try:

        def scraped() -> str:
            try:
                return requests.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text
            except requests.ConnectionError:
                return ""

        # On a busy machine the imports alone take a while.
        told = eventually(scraped, bool, patience_seconds=200)
        promised = {value for name, value in vars(StoreMetric).items() if name.isupper()}
        # A family without a sample is announced all the same: names can be looked up before anything happens.
        announced = {line.split()[2] for line in told.splitlines() if line.startswith("# TYPE")}
        assert promised == announced
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        opened.close()
