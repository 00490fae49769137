"""Phases and statuses from what containers did, as the kubelet draws them."""

from __future__ import annotations

from typing import Any

import pytest

from tidegate_local.node.states import (
    ContainerView,
    Running,
    State,
    Terminated,
    Verdict,
    Waiting,
    ended,
    lost,
    phase,
    status,
)

WAITS, RUNS = Waiting(), Running(1.0)
DONE, FAILED = Terminated(0, "Completed", 2.0, 1.0), Terminated(65, "Error", 2.0, 1.0)
OOM = Terminated(0, "OOMKilled", 2.0, 1.0)
POD: dict[str, Any] = {
    "metadata": {"name": "p", "namespace": "default", "generation": 1},
    "spec": {"restartPolicy": "Never"},
    "status": {"phase": "Running", "podIP": "127.64.0.1"},
}


def views(*states: State, **fields: Any) -> list[ContainerView]:
    return [ContainerView(f"c{number}", "image", state, **fields) for number, state in enumerate(states)]


@pytest.mark.parametrize(
    ("policy", "states", "expected"),
    [
        ("Never", [WAITS], "Pending"),
        ("Never", [WAITS, RUNS], "Running"),
        ("Never", [DONE, RUNS], "Running"),
        ("Never", [FAILED, RUNS], "Running"),
        ("Never", [DONE, DONE], "Succeeded"),
        ("Never", [DONE, FAILED], "Failed"),
        ("Never", [OOM], "Succeeded"),
        ("OnFailure", [FAILED], "Running"),
        ("OnFailure", [DONE], "Succeeded"),
        ("Always", [DONE], "Running"),
    ],
)
def test_the_phase_follows_from_policy_and_containers(policy: str, states: list[State], expected: str) -> None:
    assert phase(policy, views(*states)) == expected


def test_a_container_that_waits_for_its_restart_keeps_the_pod_running() -> None:
    assert phase("Always", views(Waiting("CrashLoopBackOff"), last=FAILED)) == "Running"


def test_initial_containers_hold_the_phase_at_pending_and_fail_it() -> None:
    assert phase("Never", views(WAITS), views(RUNS)) == "Pending"
    assert phase("Never", views(WAITS), views(FAILED)) == "Failed"
    assert phase("OnFailure", views(WAITS), views(FAILED)) == "Pending"


@pytest.mark.parametrize(
    ("exit_code", "kills", "reason"),
    [(0, 0, "Completed"), (65, 0, "Error"), (137, 0, "Error"), (137, 1, "OOMKilled"), (0, 1, "OOMKilled")],
)
def test_a_kill_for_memory_is_the_reason_whatever_the_exit_code(exit_code: int, kills: int, reason: str) -> None:
    assert ended(exit_code, kills, 1.0, 2.0, "").reason == reason


def test_a_verdict_waits_until_every_container_has_stopped() -> None:
    verdict = Verdict("DeadlineExceeded", "too long")
    draining = status(POD, views(RUNS), [], verdict=verdict, is_stopped=False)
    assert (draining["phase"], "reason" in draining) == ("Running", False)
    over = status(POD, views(DONE), [], verdict=verdict, is_stopped=True)
    assert (over["phase"], over["reason"]) == ("Failed", "DeadlineExceeded")
    assert over["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 0


def test_what_the_node_gave_the_pod_stays_in_its_status() -> None:
    assert status(POD, views(RUNS), [], verdict=None, is_stopped=False)["podIP"] == "127.64.0.1"


def test_a_condition_keeps_the_time_of_its_last_change() -> None:
    first = status(POD, views(RUNS), [], verdict=None, is_stopped=False)
    since = "2020-01-01T00:00:00Z"
    for condition in first["conditions"]:
        condition["lastTransitionTime"] = since
    again = status({**POD, "status": first}, views(RUNS), [], verdict=None, is_stopped=False)
    assert all(condition["lastTransitionTime"] == since for condition in again["conditions"])
    over = status({**POD, "status": first}, views(DONE), [], verdict=None, is_stopped=False)
    ready = next(condition for condition in over["conditions"] if condition["type"] == "Ready")
    assert ready["lastTransitionTime"] != since


def test_a_container_nobody_can_account_for_is_of_unknown_status() -> None:
    assert (lost(1.0, 2.0).exit_code, lost(1.0, 2.0).reason) == (137, "ContainerStatusUnknown")
    assert lost(None, 2.0, "in flight").message == "in flight"
