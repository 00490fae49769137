"""What a person does to a run: resets it, clears it, deletes its pod; each resumes where the acks end."""

from __future__ import annotations

import pytest
from tests.e2e.running_stack import Case, Stack

pytestmark = pytest.mark.e2e
GIB = 1024**3


def test_a_run_without_progress_at_the_cap_is_locked_out_and_resumes_after_a_reset(stack: Stack) -> None:
    begun = stack.begin(Case("tidegate_demo_huge", images=40, params={"cap_gib": 1}))
    before = stack.finish(begun)
    assert before.state == "failed"
    assert before.slots[0].phase.value == "locked_out"
    assert before.summary["state"] == "locked_out"
    stack.reset(begun, cap_bytes=2 * GIB)
    stack.airflow.clear(begun.dag_run, ["inference.infer", "inference.breaker"])
    outcome = stack.finish(begun)
    outcome.assert_whole()
    outcome.assert_redone_at_most(sum(len(each.report.in_flight) for each in outcome.attempts if each.report))


def test_a_run_cleared_in_the_middle_goes_on_with_the_pod_that_it_has(stack: Stack) -> None:
    begun = stack.begin(Case("tidegate_demo_slow", images=80))
    stack.wait_until_working(begun, images=10)
    before = stack.pod(begun)
    assert before is not None
    stack.airflow.clear(begun.dag_run, ["inference.infer", "inference.breaker"])
    outcome = stack.finish(begun)
    outcome.assert_whole()
    outcome.assert_redone_at_most(sum(len(each.report.in_flight) for each in outcome.attempts if each.report))


def test_a_run_whose_task_is_marked_failed_lets_go_of_its_pod_and_goes_on_after_a_clear(stack: Stack) -> None:
    begun = stack.begin(Case("tidegate_demo_slow", images=80))
    stack.wait_until_working(begun, images=10)
    stack.airflow.mark(begun.dag_run, "inference.infer", "failed", map_index=0)
    before = stack.finish(begun)
    assert before.state == "failed"
    assert stack.pod(begun) is None
    stack.airflow.clear(begun.dag_run, ["inference.infer", "inference.breaker"])
    outcome = stack.finish(begun)
    outcome.assert_whole()
    outcome.assert_redone_at_most(0)


def test_a_pod_deleted_by_hand_is_replaced_without_a_step_of_the_ladder(stack: Stack) -> None:
    begun = stack.begin(Case("tidegate_demo_slow", images=80))
    stack.wait_until_working(begun, images=10)
    pod = stack.pod(begun)
    assert pod is not None
    stack.pods.delete_namespaced_pod(pod.metadata.name, stack.namespace)
    outcome = stack.finish(begun)
    outcome.assert_whole()
    assert outcome.summary["trips"] == 0
    assert {each.limit_bytes for each in outcome.attempts} == {outcome.attempts[0].limit_bytes}
    outcome.assert_redone_at_most(0)


def test_a_pod_that_goes_after_the_last_image_leaves_a_run_that_is_done(stack: Stack) -> None:
    begun = stack.begin(Case("tidegate_demo_slow", images=40, job={"save_delay_seconds": 3.0}))
    stack.wait(begun, lambda: stack.answered(begun) == 40)
    if (pod := stack.pod(begun)) is not None:
        stack.pods.delete_namespaced_pod(pod.metadata.name, stack.namespace)
    outcome = stack.finish(begun)
    outcome.assert_whole()
    outcome.assert_redone_at_most(0)
