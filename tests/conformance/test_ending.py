"""How a pod is ended from outside: deadlines set while it runs, deletion with grace, and what remains to be read."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from kubernetes import client, watch

if TYPE_CHECKING:
    from tests.conformance.conftest import Cluster

DRAINS = """
    import signal, sys, time
    def drain(number, frame):
        print("draining")
        time.sleep(1.0)
        with open("/dev/termination-log", "w") as file:
            file.write("drained after 3 acks")
        sys.exit(75)
    signal.signal(signal.SIGTERM, drain)
    print("ready")
    time.sleep(300)
"""
IGNORES = """
    import signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open("/dev/termination-log", "w") as file:
        file.write("still busy")
    print("ready")
    time.sleep(300)
"""
SLEEPS = "import time; print('ready'); time.sleep(300)"


@pytest.fixture(scope="module", autouse=True)
def pods(cluster: Cluster) -> Iterator[None]:
    cluster.create("drained", DRAINS, terminationGracePeriodSeconds=30)
    cluster.create("overdue", IGNORES, terminationGracePeriodSeconds=1)
    cluster.create("born-with-deadline", DRAINS, activeDeadlineSeconds=2)
    cluster.create("deleted", DRAINS, terminationGracePeriodSeconds=30)
    cluster.create("deleted-late", IGNORES, terminationGracePeriodSeconds=300)
    cluster.create("deleted-now", IGNORES, terminationGracePeriodSeconds=300)
    cluster.create("guarded", SLEEPS)
    cluster.create("other", SLEEPS)
    cluster.create("finished", "open('/dev/termination-log', 'w').write('x' * 5000 + 'the end')")
    cluster.create(
        "told-elsewhere",
        "open('/tmp/words', 'w').write('said in a place of its own')",
        container={"terminationMessagePath": "/tmp/words"},
    )
    cluster.create(
        "told-in-log",
        "print('the log speaks'); raise SystemExit(1)",
        container={"terminationMessagePolicy": "FallbackToLogsOnError"},
    )
    yield
    cluster.core.delete_collection_namespaced_pod(cluster.namespace, grace_period_seconds=0)


def test_a_deadline_set_on_a_running_pod_drains_it_and_keeps_exit_code_and_message(cluster: Cluster) -> None:
    cluster.says("drained", "ready")
    patched = cluster.patch("drained", {"spec": {"activeDeadlineSeconds": 1}})
    asked_at = time.monotonic()
    assert patched.spec.active_deadline_seconds == 1
    cluster.says("drained", "draining")
    # The kubelet looks at deadlines about once a second; a pod younger than its deadline has a second left too.
    assert time.monotonic() - asked_at < 5
    pod = cluster.ended("drained")
    ended = cluster.terminated("drained")
    assert (pod.status.phase, pod.status.reason) == ("Failed", "DeadlineExceeded")
    assert (ended.exit_code, ended.message) == (75, "drained after 3 acks")


def test_a_pod_that_drains_for_its_deadline_is_running_until_it_has_ended(cluster: Cluster) -> None:
    seen = set()
    give_up = time.monotonic() + cluster.patience_seconds
    while time.monotonic() < give_up:
        pod = cluster.read("born-with-deadline")
        statuses = pod.status.container_statuses
        seen.add((pod.status.phase, bool(statuses and statuses[0].state.terminated)))
        if pod.status.phase == "Failed":
            break
        time.sleep(0.05)
    assert ("Failed", True) in seen
    assert ("Failed", False) not in seen
    assert cluster.terminated("born-with-deadline").exit_code == 75


def test_a_grace_that_runs_out_after_a_deadline_kills_and_keeps_the_last_message(cluster: Cluster) -> None:
    cluster.says("overdue", "ready")
    cluster.patch("overdue", {"spec": {"activeDeadlineSeconds": 1}})
    pod = cluster.ended("overdue")
    ended = cluster.terminated("overdue")
    assert (pod.status.reason, ended.exit_code, ended.message) == ("DeadlineExceeded", 137, "still busy")


@pytest.mark.parametrize("later", [600, None])
def test_a_deadline_can_only_come_nearer(cluster: Cluster, later: int | None) -> None:
    cluster.patch("guarded", {"spec": {"activeDeadlineSeconds": 500}})
    with pytest.raises(client.ApiException) as refusal:
        cluster.patch("guarded", {"spec": {"activeDeadlineSeconds": later}})
    assert refusal.value.status == 422
    assert "activeDeadlineSeconds" in refusal.value.body
    assert cluster.read("guarded").spec.active_deadline_seconds == 500


def test_a_deadline_of_zero_is_invalid(cluster: Cluster) -> None:
    with pytest.raises(client.ApiException) as refusal:
        cluster.patch("other", {"spec": {"activeDeadlineSeconds": 0}})
    assert refusal.value.status == 422


def test_the_uid_of_another_pod_in_a_patch_protects_its_successor(cluster: Cluster) -> None:
    stranger = cluster.read("other").metadata.uid
    before = cluster.read("guarded")
    with pytest.raises(client.ApiException) as refusal:
        cluster.patch("guarded", {"metadata": {"uid": stranger}, "spec": {"activeDeadlineSeconds": 1}})
    assert refusal.value.status in (409, 422)
    assert cluster.read("guarded").spec.active_deadline_seconds == before.spec.active_deadline_seconds


def test_the_uid_of_the_pod_itself_in_a_patch_lets_it_pass(cluster: Cluster) -> None:
    uid = cluster.read("other").metadata.uid
    patched = cluster.patch("other", {"metadata": {"uid": uid, "annotations": {"slot": "3"}}})
    assert patched.metadata.annotations["slot"] == "3"


def test_a_deleted_pod_is_asked_to_end_and_goes_when_it_has(cluster: Cluster) -> None:
    cluster.says("deleted", "ready")
    uid = cluster.read("deleted").metadata.uid
    listed = cluster.core.list_namespaced_pod(cluster.namespace, limit=1)
    answer = cluster.delete("deleted")
    assert answer.metadata.deletion_timestamp
    assert answer.metadata.deletion_grace_period_seconds == 30
    stream, seen = watch.Watch(), []
    for event in stream.stream(
        cluster.core.list_namespaced_pod, cluster.namespace, field_selector="metadata.name=deleted",
        resource_version=listed.metadata.resource_version, timeout_seconds=int(cluster.patience_seconds),
    ):  # fmt: skip
        seen.append(event)
        if event["type"] == "DELETED":
            stream.stop()
    assert [event["type"] for event in seen[:-1]] == ["MODIFIED"] * (len(seen) - 1)
    last = seen[-1]["object"]
    assert (seen[-1]["type"], last.metadata.uid) == ("DELETED", uid)
    assert last.status.container_statuses[0].state.terminated.exit_code == 75
    cluster.gone("deleted")
    assert cluster.events("deleted", "Killing")


def test_a_shorter_grace_in_a_deletion_replaces_the_pods_own(cluster: Cluster) -> None:
    cluster.says("deleted-late", "ready")
    began = time.monotonic()
    cluster.delete("deleted-late", grace_period_seconds=1)
    cluster.gone("deleted-late")
    assert time.monotonic() - began < 30


def test_a_deletion_without_grace_removes_the_object_at_once(cluster: Cluster) -> None:
    cluster.says("deleted-now", "ready")
    cluster.delete("deleted-now", grace_period_seconds=0)
    with pytest.raises(client.ApiException) as missing:
        cluster.read("deleted-now")
    assert missing.value.status == 404


def test_a_pod_that_has_ended_is_deleted_at_once_whatever_its_grace(cluster: Cluster) -> None:
    cluster.create("ended", "pass", terminationGracePeriodSeconds=300)
    cluster.ended("ended")
    began = time.monotonic()
    cluster.delete("ended", propagation_policy="Foreground")
    cluster.gone("ended")
    assert time.monotonic() - began < 30


def test_a_deletion_meant_for_another_pod_of_the_name_is_a_conflict(cluster: Cluster) -> None:
    with pytest.raises(client.ApiException) as refusal:
        cluster.delete("other", body=client.V1DeleteOptions(preconditions={"uid": "not-this-one"}))
    assert refusal.value.status == 409
    assert cluster.read("other").metadata.deletion_timestamp is None


def test_deleting_what_is_not_there_is_not_found(cluster: Cluster) -> None:
    with pytest.raises(client.ApiException) as missing:
        cluster.delete("never-was")
    assert missing.value.status == 404


def test_no_more_than_the_last_4096_bytes_of_a_termination_message_are_kept(cluster: Cluster) -> None:
    message = cluster.terminated("finished").message
    assert len(message) <= 4096
    assert message.endswith("the end")


def test_a_termination_message_is_read_where_the_container_says(cluster: Cluster) -> None:
    assert cluster.terminated("told-elsewhere").message == "said in a place of its own"


def test_a_failing_container_without_words_is_spoken_for_by_its_log(cluster: Cluster) -> None:
    assert cluster.terminated("told-in-log").message.strip() == "the log speaks"


def test_an_ended_pod_keeps_its_verdict_when_patched(cluster: Cluster) -> None:
    ended: Any = cluster.ended("finished")
    patched = cluster.patch("finished", {"metadata": {"labels": {"already_checked": "True"}}})
    assert patched.metadata.labels["already_checked"] == "True"
    assert patched.status.phase == ended.status.phase


def test_a_finalizer_holds_an_ended_pod_until_it_is_taken_away(cluster: Cluster) -> None:
    body = cluster.manifest("held", SLEEPS, terminationGracePeriodSeconds=1)
    body["metadata"]["finalizers"] = ["tidegate.test/hold"]
    cluster.core.create_namespaced_pod(cluster.namespace, body)
    cluster.says("held", "ready")
    cluster.delete("held")
    pod = cluster.ended("held")
    assert pod.metadata.deletion_timestamp
    cluster.patch("held", {"metadata": {"finalizers": None}})
    cluster.gone("held")
