"""Memory: the limit a container sees, what happens beyond it, and how it is changed while the container runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from kubernetes import client
from kubernetes.utils.quantity import parse_quantity

if TYPE_CHECKING:
    from tests.conformance.conftest import Cluster

MIB = 1024 * 1024

#: Prints its own limit whenever that changes.
SHOWS_LIMIT = """
    import os, time
    def limit():
        for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
            if os.path.exists(path):
                return open(path).read().strip()
    last = None
    for _ in range(3000):
        if limit() != last:
            last = limit()
            print("limit", last)
        time.sleep(0.05)
"""
GROWS = """
    held = []
    while True:
        held.append(b"x" * 1024 * 1024)
"""
LAST_WORDS = """
    with open("/dev/termination-log", "w") as file:
        file.write("first words, longer than the last")
    with open("/dev/termination-log", "w") as file:
        file.write("image 17 in flight")
"""
CHILD_GROWS = """
    import os, time
    child = os.fork()
    if child == 0:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
        held = []
        while True:
            held.append(b"x" * 1024 * 1024)
    _, status = os.waitpid(child, 0)
    time.sleep(0.2)
    print("child ended with", status)
"""
HOLDS = """
    import mmap, time
    held = mmap.mmap(-1, 100 * 1024 * 1024)
    for at in range(0, len(held), 4096):
        held[at] = 1
    print("holding")
    time.sleep(300)
"""


@pytest.fixture(scope="module", autouse=True)
def pods(cluster: Cluster) -> Iterator[None]:
    cluster.create("limited", SHOWS_LIMIT)
    cluster.create("grows", GROWS)
    cluster.create("grows-with-words", LAST_WORDS + GROWS)
    cluster.create("child-grows", CHILD_GROWS)
    cluster.create("resized", SHOWS_LIMIT)
    cluster.create("holds", HOLDS, memory="192Mi")
    cluster.create("fixed", "import time; time.sleep(300)")
    policy = [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]
    restarts = {"restartPolicy": "Always", "terminationGracePeriodSeconds": 1}
    cluster.create("restarts", SHOWS_LIMIT, container={"resizePolicy": policy}, **restarts)
    yield
    cluster.core.delete_collection_namespaced_pod(cluster.namespace, grace_period_seconds=0)


def resize(cluster: Cluster, name: str, memory: str | int, **resources: Any) -> Any:
    asked = {"requests": {"memory": str(memory)}, "limits": {"memory": str(memory)}, **resources}
    body = {"spec": {"containers": [{"name": "main", "resources": asked}]}}
    return cluster.core.patch_namespaced_pod_resize(name, cluster.namespace, body)


def limit_in_force(pod: Any) -> int | None:
    resources = pod.status.container_statuses[0].resources
    return int(parse_quantity(resources.limits["memory"])) if resources and resources.limits else None


def condition(pod: Any, kind: str) -> Any:
    return next((each for each in pod.status.conditions or [] if each.type == kind), None)


def test_a_container_finds_its_own_limit_under_sys_fs_cgroup(cluster: Cluster) -> None:
    assert cluster.says("limited", "limit").split()[:2] == ["limit", str(64 * MIB)]


def test_a_container_beyond_its_limit_is_killed_and_the_pod_fails(cluster: Cluster) -> None:
    pod = cluster.ended("grows")
    ended = cluster.terminated("grows")
    assert (pod.status.phase, ended.exit_code, ended.reason) == ("Failed", 137, "OOMKilled")


def test_the_last_words_are_kept_after_a_kill_for_memory(cluster: Cluster) -> None:
    ended = cluster.terminated("grows-with-words")
    assert (ended.reason, ended.message) == ("OOMKilled", "image 17 in flight")


def test_the_reason_tells_of_a_child_killed_for_memory_whatever_the_first_process_makes_of_it(cluster: Cluster) -> None:
    # cgroup v1 kills the child alone and the exit code is 0; on v2 the whole container dies with 137.
    ended = cluster.terminated("child-grows")
    assert (ended.reason, ended.exit_code) in (("OOMKilled", 0), ("OOMKilled", 137))
    assert cluster.ended("child-grows").status.phase == ("Failed" if ended.exit_code else "Succeeded")


def test_a_raised_limit_reaches_the_running_container_without_a_restart(cluster: Cluster) -> None:
    cluster.says("resized", f"limit {64 * MIB}")
    before = cluster.read("resized")
    answer = resize(cluster, "resized", "128Mi")
    assert answer.spec.containers[0].resources.limits["memory"] == "128Mi"
    assert answer.metadata.generation > before.metadata.generation
    pod = cluster.until("resized", lambda pod: limit_in_force(pod) == 128 * MIB)
    cluster.says("resized", f"limit {128 * MIB}")
    assert pod.status.container_statuses[0].restart_count == 0
    assert pod.status.container_statuses[0].allocated_resources["memory"] == "128Mi"
    assert (
        pod.status.container_statuses[0].state.running.started_at
        == before.status.container_statuses[0].state.running.started_at
    )
    settled = cluster.until("resized", lambda pod: not condition(pod, "PodResizeInProgress"))
    assert condition(settled, "PodResizePending") is None


def test_a_resize_is_told_in_events(cluster: Cluster) -> None:
    if cluster.minor_version() < 35:
        pytest.skip("events of resizes came with Kubernetes 1.35")
    cluster.until("resized", lambda pod: limit_in_force(pod) == 128 * MIB)
    for reason in ("ResizeStarted", "ResizeCompleted"):
        assert cluster.told("resized", reason).type == "Normal"


def test_more_memory_than_the_node_has_is_refused_or_infeasible(cluster: Cluster) -> None:
    cluster.running("limited")
    try:
        resize(cluster, "limited", "1Pi")
    except client.ApiException as refusal:
        if refusal.status == 403:
            return
        raise
    pod = cluster.until("limited", lambda pod: condition(pod, "PodResizePending"))
    assert condition(pod, "PodResizePending").reason == "Infeasible"
    assert limit_in_force(pod) == 64 * MIB


def test_more_memory_than_is_free_now_is_deferred_and_the_old_limit_stays(cluster: Cluster) -> None:
    pod = cluster.running("fixed")
    blocker = cluster.manifest("blocker", "import time; time.sleep(300)", nodeName=pod.spec.node_name)
    cluster.core.create_namespaced_pod(cluster.namespace, blocker)
    cluster.running("blocker")
    allocatable = cluster.core.read_node(pod.spec.node_name).status.allocatable["memory"]
    resize(cluster, "fixed", int(parse_quantity(allocatable)) - 32 * MIB)
    pod = cluster.until("fixed", lambda pod: condition(pod, "PodResizePending"))
    assert condition(pod, "PodResizePending").reason == "Deferred"
    assert limit_in_force(pod) == 64 * MIB
    resize(cluster, "fixed", "64Mi")
    cluster.until("fixed", lambda pod: not condition(pod, "PodResizePending"))


def test_a_limit_below_what_is_in_use_does_not_come_into_force(cluster: Cluster) -> None:
    cluster.says("holds", "holding")
    try:
        resize(cluster, "holds", "64Mi")
    except client.ApiException as refusal:
        if refusal.status == 422:
            pytest.skip("this cluster refuses to lower memory limits")
        raise
    pod = cluster.until("holds", lambda pod: getattr(condition(pod, "PodResizeInProgress"), "reason", None) == "Error")
    assert limit_in_force(pod) == 192 * MIB
    assert pod.status.phase == "Running"


def test_a_resize_policy_of_restart_starts_the_container_anew_with_its_new_limit(cluster: Cluster) -> None:
    cluster.says("restarts", f"limit {64 * MIB}")
    resize(cluster, "restarts", "96Mi")
    pod = cluster.until(
        "restarts", lambda pod: limit_in_force(pod) == 96 * MIB and pod.status.container_statuses[0].state.running
    )
    assert pod.status.container_statuses[0].restart_count == 1
    assert cluster.says("restarts", "limit").split()[:2] == ["limit", str(96 * MIB)]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"requests": {"memory": "64Mi", "cpu": "10m"}, "limits": {"memory": "64Mi", "cpu": "10m"}}, "QOS"),
        ({"limits": None}, "limits"),
        ({"requests": {"memory": "65Mi"}}, "less than or equal to memory limit"),
    ],
)
def test_a_resize_may_not_change_what_kind_of_promise_the_pod_has(
    cluster: Cluster, asked: dict[str, Any], told: str
) -> None:
    cluster.running("limited")
    with pytest.raises(client.ApiException) as refusal:
        resize(cluster, "limited", "64Mi", **asked)
    assert refusal.value.status == 422
    assert told.lower() in refusal.value.body.lower()


def test_resources_change_through_the_resize_subresource_alone(cluster: Cluster) -> None:
    with pytest.raises(client.ApiException) as refusal:
        cluster.patch(
            "limited", {"spec": {"containers": [{"name": "main", "resources": {"limits": {"memory": "128Mi"}}}]}}
        )
    assert refusal.value.status == 422
    assert "pod updates may not change fields" in refusal.value.body


def test_restart_on_resize_contradicts_a_pod_that_never_restarts(cluster: Cluster) -> None:
    policy = [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]
    with pytest.raises(client.ApiException) as refusal:
        cluster.create("contradiction", "pass", container={"resizePolicy": policy})
    assert refusal.value.status == 422
