"""Whether there is room: requests, resizes that wait, ended pods."""

from __future__ import annotations

from typing import Any

import pytest

from tidegate_local.node.scheduling import GPU, granted, lacking, requests, taken, unschedulable

GIB = 2**30


def pod(
    memory: str, *, phase: str = "Running", node: str = "here", held: str | None = None, **more: Any
) -> dict[str, Any]:
    statuses = [{"name": "main", "allocatedResources": {"memory": held}}] if held else []
    return {
        "metadata": {"name": "p"},
        "spec": {"nodeName": node, "containers": [{"name": "main", "resources": {"requests": {"memory": memory}}}]},
        "status": {"phase": phase, "containerStatuses": statuses, **more},
    }


def test_live_pods_of_this_node_take_room() -> None:
    pods = [pod("1Gi"), pod("2Gi"), pod("4Gi", phase="Succeeded"), pod("8Gi", node="elsewhere")]
    assert taken(pods, "here") == {"pods": 2, "memory": 3 * GIB}


@pytest.mark.parametrize(("asked", "held", "reserved"), [("2Gi", "1Gi", 2), ("1Gi", "2Gi", 2)])
def test_a_resize_that_waits_reserves_the_larger_of_asked_and_held(asked: str, held: str, reserved: int) -> None:
    waiting = pod(asked, held=held)
    assert requests(waiting)["memory"] == reserved * GIB
    assert granted(waiting)["memory"] == int(held[0]) * GIB


def test_a_resize_that_can_never_be_reserves_nothing() -> None:
    hopeless = {"type": "PodResizePending", "status": "True", "reason": "Infeasible"}
    assert requests(pod("1Pi", held="1Gi", conditions=[hopeless]))["memory"] == GIB


def test_initial_containers_count_by_the_largest_alone() -> None:
    asks = pod("1Gi")
    asks["spec"]["initContainers"] = [{"resources": {"requests": {"memory": size}}} for size in ("3Gi", "2Gi")]
    assert requests(asks)["memory"] == 3 * GIB


def test_what_is_lacking_is_named() -> None:
    allocatable = {"memory": 4 * GIB, "cpu": 2000, "pods": 10}
    assert lacking({"memory": 4 * GIB, "pods": 1}, {}, allocatable) == []
    assert lacking({"memory": 4 * GIB, "pods": 1}, {"memory": 1}, allocatable) == ["memory"]
    assert lacking({GPU: 1}, {}, allocatable) == [GPU]
    assert unschedulable(["memory"]).startswith("0/1 nodes are available: 1 Insufficient memory.")
