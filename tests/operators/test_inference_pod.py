"""What a try of a slot makes of its run's record before it asks the cluster for anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.adapters.examples import RUN_ID, planned, run

from tidegate.adapters.configuration import configuration
from tidegate.adapters.run_store import JobTaken, RunState, RunStore
from tidegate.operators.inference_pod import InferencePodOperator
from tidegate.operators.worker_pod import WorkerPodOperator

ENDED_AT = 1_000_500.0


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunStore]:
    url = f"sqlite:///{tmp_path}/runs.sqlite"
    monkeypatch.setenv("TIDEGATE_RUN_STORE_URL", url)
    monkeypatch.setenv("TIDEGATE_WORKER_IMAGE", "worker:1")
    configuration.cache_clear()
    opened = RunStore.open(url)
    planned(opened)
    opened.end_run(RUN_ID, RunState.FAILED, ENDED_AT, "{}", None)
    yield opened
    opened.close()
    configuration.cache_clear()


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the pods that were handed to the provider, which is where the cluster begins."""
    names: list[str] = []
    monkeypatch.setattr(WorkerPodOperator, "execute", lambda self, context: names.append(self.name))
    return names


def cleared() -> None:
    context: Any = {}
    InferencePodOperator(task_id="infer", run_id=RUN_ID).execute(context)


def test_a_run_that_was_given_up_and_is_cleared_takes_its_job_again(store: RunStore, launched: list[str]) -> None:
    cleared()
    again = store.run(RUN_ID)
    assert again is not None
    assert (again.state, again.ended_at) == (RunState.RUNNING, None)
    assert len(launched) == 1


def test_a_run_that_was_given_up_is_refused_while_another_has_its_job(store: RunStore, launched: list[str]) -> None:
    store.enter_run(run("tidegate_nightly/2"))
    with pytest.raises(JobTaken, match="tidegate_nightly/2"):
        cleared()
    assert launched == []
