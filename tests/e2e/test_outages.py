"""What goes away while a run is on, and comes back: the run goes on, and nothing is lost."""

from __future__ import annotations

import time

import pytest
from tests.e2e.running_stack import LEASE_SECONDS, Case, Stack

pytestmark = pytest.mark.e2e
LEAK = "tidegate_demo_leak"
SLOW = "tidegate_demo_slow"


def test_prometheus_away_for_a_minute_trips_nothing_and_the_trip_comes_after_it(stack: Stack) -> None:
    begun = stack.begin(Case(LEAK, images=72, params={"first_limit_mib": 768}))
    stack.wait_until_working(begun)
    stack.kill("prometheus")
    time.sleep(60)
    assert stack.store.trips(begun.run_id) == []
    stack.heal()
    outcome = stack.finish(begun)
    outcome.assert_whole()
    assert outcome.summary["trips"] >= 1
    assert outcome.summary["oom_kills"] == 0
    outcome.assert_redone_at_most(len(outcome.attempts) - 1)


def test_a_triggerer_killed_during_a_drain_is_replaced_by_one_that_goes_on_with_it(stack: Stack) -> None:
    begun = stack.begin(Case(LEAK, images=72, params={"first_limit_mib": 768, "remedies": ["relaunch"]}))
    stack.wait(begun, lambda: stack.phase(begun) == "open_draining")
    stack.kill("airflow-triggerer")
    stack.heal()
    outcome = stack.finish(begun)
    outcome.assert_whole()
    assert outcome.summary["relaunches"] >= 1
    outcome.assert_redone_at_most(len(outcome.attempts) - 1)


def test_a_scheduler_killed_in_the_middle_of_a_run_leaves_pods_and_books_alone(stack: Stack) -> None:
    begun = stack.begin(Case(SLOW, images=60))
    stack.wait_until_working(begun)
    stack.kill("airflow-scheduler")
    stack.heal()
    outcome = stack.finish(begun)
    outcome.assert_whole()
    assert len(outcome.attempts) == 1
    outcome.assert_redone_at_most(0)


def test_an_upstream_that_falls_silent_and_comes_back_costs_time_alone(stack: Stack) -> None:
    begun = stack.begin(Case(SLOW, images=60))
    stack.wait_until_working(begun)
    stack.jobs.add_fault("unavailable", job=begun.job)
    time.sleep(45)
    stack.jobs.clear_faults()
    outcome = stack.finish(begun)
    outcome.assert_whole()
    assert len(outcome.attempts) == 1
    outcome.assert_redone_at_most(0)


@pytest.mark.needs("own pod API")
def test_a_pod_api_killed_while_pods_run_comes_back_and_finds_them(stack: Stack) -> None:
    begun = stack.begin(Case(SLOW, images=60))
    stack.wait_until_working(begun)
    stack.kill("podapi")
    stack.heal()
    outcome = stack.finish(begun)
    outcome.assert_whole()
    # Whether its pods outlive a node agent is the agent's business; what they held is done again at most.
    outcome.assert_redone_at_most(sum(len(each.report.in_flight) for each in outcome.attempts if each.report))


def test_a_resize_that_the_node_has_no_room_for_becomes_a_drain_and_a_relaunch(stack: Stack) -> None:
    begun = stack.begin(Case(LEAK, images=72, params={"first_limit_mib": 768}))
    stack.wait_until_working(begun)
    with stack.crowded_node(free_mib=100):
        stack.wait(begun, lambda: stack.phase(begun) in ("open_draining", "open_waiting", "open_starting"))
    outcome = stack.finish(begun)
    outcome.assert_whole()
    assert [stored.remedy for stored in outcome.trips[:1]] == ["relaunch_larger"]
    assert "deferred" in outcome.trips[0].remedy_reason
    assert outcome.attempts[0].end == "drained"
    assert outcome.summary["oom_kills"] == 0
    outcome.assert_redone_at_most(len(outcome.attempts) - 1)


def test_a_larger_pod_that_no_node_can_take_falls_back_to_the_limit_that_ran(stack: Stack) -> None:
    begun = stack.begin(Case(LEAK, images=72, params={"first_limit_mib": 768, "remedies": ["relaunch"]}))
    stack.wait_until_working(begun)
    with stack.crowded_node(free_mib=100):
        stack.wait(begun, lambda: stack.phase(begun) == "open_starting")
        stack.wait(begun, lambda: (slot := stack.slot(begun)) and slot.one_at_a_time, seconds=400)
        outcome = stack.finish(begun)
    outcome.assert_whole()
    (slot,) = outcome.slots
    assert slot.ceiling_bytes == slot.limit_bytes == outcome.attempts[0].limit_bytes
    assert outcome.summary["oom_kills"] == 0
    outcome.assert_redone_at_most(int(LEASE_SECONDS))
