"""The dashboards after a run on the whole stack; last of all, for others would plan by the past that it makes up."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict

import pytest
import requests
from tests.e2e.running_stack import Case, Outcome, Stack
from tests.monitoring.panels_bed import Viewer, annotations, queries, variables

from tidegate.adapters.run_store import Run, RunState, RunStore
from tidegate.control import closing
from tidegate.control.opening import UNKNOWN_VERSION, baseline_key
from tidegate.core.baseline import DAY_SECONDS, FinishedRun
from tidegate.core.contract import GIB, MIB, StoreMetric

pytestmark = pytest.mark.e2e
#: Two scrapes of the slower kind.
SCRAPED_SECONDS = 40.0


@pytest.fixture(scope="module")
def seen(stack: Stack) -> Iterator[tuple[Outcome, Viewer]]:
    """A run that trips, from its beginning to its end, and a person who looks back on it."""
    since = time.time()
    begun = stack.begin(Case("tidegate_demo_leak", images=72, params={"first_limit_mib": 768}))
    stack.wait(begun, lambda: (run := stack.store.run(begun.run_id)) and run.model_version != UNKNOWN_VERSION)
    run = stack.store.run(begun.run_id)
    assert run is not None
    with_history(stack.store, run)
    outcome = stack.finish(begun)
    time.sleep(SCRAPED_SECONDS)
    with requests.Session() as session:
        session.auth = (stack.doors.prometheus_user, stack.doors.prometheus_password)
        yield outcome, Viewer(stack.doors.prometheus_url, begun.run_id, since, time.time(), session)


def with_history(store: RunStore, like: Run) -> None:
    """Four weeks of nights of the same kind of job: nobody waits for them here."""
    for night in range(28):
        at = like.created_at - (28 - night) * DAY_SECONDS
        job = like.source.model_copy(update={"job": f"past-{night}"})
        past = Run(f"past/{at:.0f}", str(night), job, like.pipeline, like.model_version, 1, "{}", at)
        store.enter_run(past)
        summary = closing.summarise(past, store, None, RunState.DONE, at)
        lesson = FinishedRun(at=at, images=72 + night % 3, peak_bytes=GIB + night * MIB)
        store.end_run(past.run_id, RunState.DONE, at, json.dumps(asdict(summary)), (baseline_key(past), lesson))


def test_every_query_of_every_panel_has_an_answer(seen: tuple[Outcome, Viewer]) -> None:
    outcome, viewer = seen
    assert outcome.state == "success"
    assert outcome.summary["trips"] >= 1
    has_gpu = bool(viewer.sees("tidegate_gpu_memory_bytes", instant=False))
    # A panel about a GPU may be empty where no pod has one, and no other.
    asked = [each for each in queries() if has_gpu or not each.needs_gpu]
    assert [str(each) for each in asked if viewer.is_empty(each)] == []


def test_every_variable_and_every_mark_has_values(seen: tuple[Outcome, Viewer]) -> None:
    outcome, viewer = seen
    for uid in ("tidegate-run", "tidegate-fleet", "tidegate-baseline"):
        offered = {name: viewer.values(*query) for name, query in variables(uid).items()}
        assert all(offered.values()), (uid, offered)
    assert outcome.run.run_id in viewer.values(StoreMetric.RUN_STATE, "run_id")
    marked = viewer.sees(annotations()["Trips"], instant=False)
    assert viewer.since * 1000 <= max(marked) <= viewer.until * 1000
