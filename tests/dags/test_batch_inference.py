"""What Airflow's scheduler sees of the batch DAG, which is not all that a constructor says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from airflow.serialization.serialized_objects import DagSerialization

from tidegate.triggers.memory_breaker import MemoryBreakerTrigger

FILE = Path(__file__).parents[2] / "dags" / "tidegate_batch_inference.py"


@pytest.fixture(scope="module")
def dag() -> Any:
    spec = importlib.util.spec_from_file_location("tidegate_batch_inference", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.tidegate_batch_inference()


@pytest.mark.parametrize("task", ["probe", "inference.infer", "inference.breaker", "verify"])
def test_the_budgets_of_the_slots_and_not_three_retries_end_a_run(dag: Any, task: str) -> None:
    seen = DagSerialization.from_dict(DagSerialization.to_dict(dag)).get_task(task)
    assert seen.retries > 3
    assert seen.has_retry_policy


def test_each_try_of_a_slot_is_judged_by_its_state(dag: Any) -> None:
    slot = dag.get_task("inference.infer").unmap({"slot": 1})
    assert type(slot.retry_policy).__name__ == "BySlotState"
    assert slot.slot == 1


def test_a_breaker_that_an_older_release_deferred_looks_at_the_slots_of_this_one(dag: Any) -> None:
    path, values = MemoryBreakerTrigger(run_id="dag/night").serialize()
    assert path.endswith(MemoryBreakerTrigger.__name__)
    assert dag.has_task(values["infer_task_id"])


def test_clearing_the_slots_clears_what_follows_them_and_nothing_before(dag: Any) -> None:
    assert dag.get_task("inference.infer").downstream_task_ids == {"verify"}
    assert dag.get_task("inference.infer").upstream_task_ids == {"plan"}
    assert dag.get_task("inference.breaker").upstream_task_ids == {"plan"}
