"""What a climb of memory comes to: resized, relaunched, recycled; nothing is lost by any of them."""

from __future__ import annotations

import pytest
from tests.e2e.running_stack import Case, Outcome, Stack

from tidegate.adapters.kube_pods import WORKER_CONTAINER

pytestmark = pytest.mark.e2e
LEAK = "tidegate_demo_leak"
MIB = 1024**2


@pytest.mark.smoke
@pytest.mark.needs("resize")
@pytest.mark.begins(Case(LEAK, images=72, params={"first_limit_mib": 768}))
def test_a_leak_is_met_by_a_resize_in_place_and_no_pod_dies(outcome: Outcome) -> None:
    outcome.assert_whole()
    assert outcome.summary["resizes"] >= 1
    assert outcome.summary["oom_kills"] == 0
    assert outcome.attempts[0].report is not None
    assert outcome.attempts[0].report.limit_bytes > 768 * MIB
    outcome.assert_redone_at_most(0)


@pytest.mark.smoke
@pytest.mark.begins(Case(LEAK, images=72, params={"first_limit_mib": 768, "remedies": ["relaunch"]}))
def test_where_resizing_is_not_allowed_the_pod_is_drained_and_launched_with_more(outcome: Outcome) -> None:
    outcome.assert_whole()
    assert outcome.summary["resizes"] == 0
    assert outcome.summary["relaunches"] >= 1
    assert outcome.summary["oom_kills"] == 0
    assert [each.end for each in outcome.attempts[:-1]] == ["drained"] * (len(outcome.attempts) - 1)
    # A drain answers all but the image that waits for a larger limit.
    outcome.assert_redone_at_most(len(outcome.attempts) - 1)


@pytest.mark.begins(Case(LEAK, images=250, params={"first_limit_mib": 1024, "cap_gib": 1}))
def test_a_leak_at_the_cap_is_recycled_until_the_job_is_done(outcome: Outcome) -> None:
    outcome.assert_whole()
    assert outcome.summary["relaunches"] >= 1
    assert outcome.summary["oom_kills"] == 0
    assert {each.limit_bytes for each in outcome.attempts} == {1024 * MIB}
    assert outcome.slots[0].one_at_a_time
    outcome.assert_redone_at_most(0)


@pytest.mark.begins(Case("tidegate_demo", kind="large", images=40, params={"first_limit_mib": 512}))
def test_a_burst_of_large_images_is_held_by_the_gate_and_kills_nothing(outcome: Outcome) -> None:
    outcome.assert_whole()
    assert outcome.summary["oom_kills"] == 0
    assert outcome.summary["peak_bytes"] > 0
    outcome.assert_redone_at_most(0)


@pytest.mark.begins(Case("tidegate_demo_workspace", images=40, params={"first_limit_mib": 512}))
def test_a_pod_that_cannot_admit_an_image_trips_and_gets_the_memory_that_it_wants(outcome: Outcome) -> None:
    outcome.assert_whole()
    assert outcome.summary["trips"] >= 1
    assert outcome.summary["oom_kills"] == 0
    assert "starved" in {str(stored.trip.cause) for stored in outcome.trips}
    outcome.assert_redone_at_most(0)


@pytest.mark.begins(Case(LEAK, images=300, params={"first_limit_mib": 512}))
def test_three_trips_in_one_run_lose_nothing(outcome: Outcome) -> None:
    outcome.assert_whole()
    assert outcome.summary["trips"] >= 3
    assert outcome.summary["oom_kills"] == 0
    outcome.assert_redone_at_most(0)


@pytest.mark.begins(Case(LEAK, images=250, params={"first_limit_mib": 768, "slots": 2}))
def test_two_slots_share_a_job_and_each_has_a_breaker_of_its_own(outcome: Outcome) -> None:
    outcome.assert_whole()
    assert [slot.phase.value for slot in outcome.slots] == ["done", "done"]
    assert {each.slot for each in outcome.attempts} == {0, 1}
    assert outcome.summary["trips"] >= 1
    outcome.assert_redone_at_most(0)


@pytest.mark.needs("resize")
def test_a_run_that_is_not_to_act_trips_alerts_and_leaves_the_pod_alone(stack: Stack) -> None:
    begun = stack.begin(Case(LEAK, images=100, params={"first_limit_mib": 768, "remedies": []}))
    stack.wait(begun, lambda: stack.store.trips(begun.run_id))
    assert [stored.remedy for stored in stack.store.trips(begun.run_id)] == ["hold"]
    before = stack.pod(begun)
    assert before is not None
    # A person sees the alert and lets it have more.
    stack.pods.patch_namespaced_pod_resize(before.metadata.name, stack.namespace, _memory("2Gi"))
    outcome = stack.finish(begun)
    outcome.assert_whole()
    assert len(outcome.attempts) == 1
    outcome.assert_redone_at_most(0)


def _memory(size: str) -> dict[str, object]:
    resources = {"requests": {"memory": size}, "limits": {"memory": size}}
    return {"spec": {"containers": [{"name": WORKER_CONTAINER, "resources": resources}]}}
