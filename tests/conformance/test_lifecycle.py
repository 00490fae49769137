"""Pods from creation to their end: phases, conditions, exit codes, what a container is given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from kubernetes import client, watch

if TYPE_CHECKING:
    from tests.conformance.conftest import Cluster

SLEEPS = "import time; time.sleep(300)"
DOWNWARD = """
    import os
    for name in ("NAME", "NAMESPACE", "UID", "IP", "NODE", "LABEL", "LIMIT", "GREETING"):
        print(name, os.environ[name])
"""
TWO_CONTAINERS = """
    import os, time
    with open("/data/from-" + os.environ["WHO"], "w") as file:
        file.write("here")
    for _ in range(200):
        if len(os.listdir("/data")) == 2:
            break
        time.sleep(0.05)
    print(sorted(os.listdir("/data")))
    raise SystemExit(3 if os.environ["WHO"] == "b" else 0)
"""


def field(path: str) -> dict[str, Any]:
    return {"valueFrom": {"fieldRef": {"fieldPath": path}}}


@pytest.fixture(scope="module", autouse=True)
def pods(cluster: Cluster) -> Iterator[None]:
    """All pods of the module at once; each test waits for its own."""
    cluster.core.create_namespaced_secret(
        cluster.namespace, {"metadata": {"name": "greeting"}, "stringData": {"text": "hello"}}
    )
    cluster.create("done", "print('ready')")
    cluster.create("failed", "raise SystemExit(65)")
    cluster.create("sleeping", SLEEPS)
    cluster.create(
        "informed",
        DOWNWARD,
        labels={"colour": "blue"},
        container={
            "env": [
                {"name": "NAME", **field("metadata.name")},
                {"name": "NAMESPACE", **field("metadata.namespace")},
                {"name": "UID", **field("metadata.uid")},
                {"name": "IP", **field("status.podIP")},
                {"name": "NODE", **field("spec.nodeName")},
                {"name": "LABEL", **field("metadata.labels['colour']")},
                {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
                {"name": "TEXT", "valueFrom": {"secretKeyRef": {"name": "greeting", "key": "text"}}},
                {"name": "GREETING", "value": "$(TEXT) from $(NAME), $$(NAME) and $(UNKNOWN)"},
            ]
        },
    )
    late = {"name": "LATE", "valueFrom": {"secretKeyRef": {"name": "late", "key": "text"}}}
    cluster.create("waiting-for-secret", "import os; print(os.environ['LATE'])", container={"env": [late]})
    cluster.create("no-image", SLEEPS, container={"image": "tidegate.invalid/none:1"})
    cluster.create("too-big", SLEEPS, memory="1Pi")
    cluster.create("no-command", SLEEPS, container={"command": ["/no/such/program"]})
    cluster.create(
        "user",
        "import os; print(os.getuid(), os.getgid(), open('/proc/self/status').read())",
        securityContext={"runAsUser": 12345, "runAsGroup": 23456, "runAsNonRoot": True},
        container={"securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}},
    )
    mounts = [{"name": "data", "mountPath": "/data"}]
    both = cluster.manifest("two-containers", TWO_CONTAINERS, volumes=[{"name": "data", "emptyDir": {}}])
    first = {**both["spec"]["containers"][0], "volumeMounts": mounts}
    both["spec"]["containers"] = [{**first, "name": who, "env": [{"name": "WHO", "value": who}]} for who in ("a", "b")]
    cluster.core.create_namespaced_pod(cluster.namespace, both)
    prepared = cluster.manifest(
        "prepared", "print(open('/data/first').read())", volumes=[{"name": "data", "emptyDir": {}}]
    )
    main = {**prepared["spec"]["containers"][0], "volumeMounts": mounts}
    program = "import time; time.sleep(0.3); open('/data/first', 'w').write('made before')"
    prepared["spec"]["containers"] = [main]
    prepared["spec"]["initContainers"] = [{**main, "name": "first", "command": ["python3", "-c", program]}]
    cluster.core.create_namespaced_pod(cluster.namespace, prepared)
    cluster.create(
        "read-only",
        "open('/data/yes', 'w').close(); open('/tmp/no', 'w')",
        volumes=[{"name": "data", "emptyDir": {}}],
        container={"securityContext": {"readOnlyRootFilesystem": True}, "volumeMounts": mounts},
    )
    cluster.create("restarted", "raise SystemExit(1)", restartPolicy="OnFailure")
    yield
    cluster.core.delete_collection_namespaced_pod(cluster.namespace, grace_period_seconds=0)


def test_a_new_pod_has_the_defaults_of_an_api_server(cluster: Cluster) -> None:
    pod = cluster.core.create_namespaced_pod(cluster.namespace, cluster.manifest("fresh", SLEEPS, memory="32Mi"))
    container = pod.spec.containers[0]
    assert pod.status.phase == "Pending"
    assert pod.metadata.uid
    assert pod.metadata.resource_version
    assert pod.metadata.creation_timestamp
    assert (pod.spec.dns_policy, pod.spec.scheduler_name, pod.spec.service_account_name) == (
        "ClusterFirst", "default-scheduler", "default",
    )  # fmt: skip
    assert (container.termination_message_path, container.termination_message_policy) == (
        "/dev/termination-log",
        "File",
    )
    assert pod.status.qos_class == "Burstable"


def test_requests_default_to_limits(cluster: Cluster) -> None:
    body = cluster.manifest("limits-only", SLEEPS)
    body["spec"]["containers"][0]["resources"] = {"limits": {"memory": "32Mi"}}
    pod = cluster.core.create_namespaced_pod(cluster.namespace, body, dry_run="All")
    assert pod.spec.containers[0].resources.requests == {"memory": "32Mi"}


def test_a_generated_name_is_unique_and_keeps_its_prefix(cluster: Cluster) -> None:
    body = cluster.manifest("", "pass", memory="32Mi")
    body["metadata"] = {"generateName": "generated-", "labels": {"test": "generated"}}
    names = {cluster.core.create_namespaced_pod(cluster.namespace, body).metadata.name for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith("generated-") and len(name) == len("generated-") + 5 for name in names)


def test_a_program_that_ends_well_makes_the_pod_succeed(cluster: Cluster) -> None:
    pod = cluster.ended("done")
    ended = cluster.terminated("done")
    assert (pod.status.phase, ended.exit_code, ended.reason) == ("Succeeded", 0, "Completed")
    assert ended.started_at <= ended.finished_at


def test_an_exit_code_is_kept_and_fails_the_pod(cluster: Cluster) -> None:
    pod = cluster.ended("failed")
    ended = cluster.terminated("failed")
    assert (pod.status.phase, ended.exit_code, ended.reason) == ("Failed", 65, "Error")


def test_a_running_pod_meets_every_condition(cluster: Cluster) -> None:
    pod = cluster.until(
        "sleeping",
        lambda pod: any(each.type == "Ready" and each.status == "True" for each in pod.status.conditions or []),
    )
    conditions = {each.type: each.status for each in pod.status.conditions}
    wanted = dict.fromkeys(("PodScheduled", "Initialized", "ContainersReady", "Ready"), "True")
    assert wanted.items() <= conditions.items()
    assert pod.status.container_statuses[0].ready
    assert pod.status.container_statuses[0].restart_count == 0
    assert pod.status.pod_ip
    assert pod.status.start_time
    assert pod.spec.node_name


def test_an_ended_pod_is_no_longer_ready(cluster: Cluster) -> None:
    pod = cluster.ended("done")
    ready = next(each for each in pod.status.conditions if each.type == "Ready")
    assert (ready.status, ready.reason) == ("False", "PodCompleted")
    assert not pod.status.container_statuses[0].ready


def test_every_state_of_a_pod_has_a_phase_and_phases_only_advance(cluster: Cluster) -> None:
    listed = cluster.core.list_namespaced_pod(cluster.namespace, limit=1)
    cluster.create("watched", "import time; time.sleep(0.5)")
    phases = []
    stream = watch.Watch()
    for event in stream.stream(
        cluster.core.list_namespaced_pod, cluster.namespace, field_selector="metadata.name=watched",
        resource_version=listed.metadata.resource_version, timeout_seconds=int(cluster.patience_seconds),
    ):  # fmt: skip
        phases.append(event["object"].status.phase)
        if phases[-1] in ("Succeeded", "Failed"):
            stream.stop()
    order = ["Pending", "Running", "Succeeded"]
    assert list(dict.fromkeys(phases)) == order
    assert phases == sorted(phases, key=order.index)


def test_a_container_learns_of_its_pod_from_its_environment(cluster: Cluster) -> None:
    pod = cluster.ended("informed")
    said = dict(line.split(" ", 1) for line in cluster.log("informed").splitlines())
    assert said == {
        "NAME": "informed",
        "NAMESPACE": cluster.namespace,
        "UID": pod.metadata.uid,
        "IP": pod.status.pod_ip,
        "NODE": pod.spec.node_name,
        "LABEL": "blue",
        "LIMIT": str(64 * 1024 * 1024),
        "GREETING": "hello from informed, $(NAME) and $(UNKNOWN)",
    }


def test_a_missing_secret_holds_the_container_back_until_it_comes(cluster: Cluster) -> None:
    def reason(pod: Any) -> str | None:
        statuses = pod.status.container_statuses
        return statuses[0].state.waiting.reason if statuses and statuses[0].state.waiting else None

    pod = cluster.until("waiting-for-secret", lambda pod: reason(pod) == "CreateContainerConfigError")
    assert pod.status.phase == "Pending"
    assert 'secret "late" not found' in pod.status.container_statuses[0].state.waiting.message
    cluster.core.create_namespaced_secret(
        cluster.namespace, {"metadata": {"name": "late"}, "stringData": {"text": "at last"}}
    )
    assert cluster.ended("waiting-for-secret").status.phase == "Succeeded"
    assert cluster.log("waiting-for-secret").strip() == "at last"


def test_an_image_that_cannot_be_pulled_keeps_the_pod_pending(cluster: Cluster) -> None:
    def is_refused(pod: Any) -> bool:
        statuses = pod.status.container_statuses
        waiting = statuses and statuses[0].state.waiting
        return bool(waiting and waiting.reason in ("ErrImagePull", "ImagePullBackOff"))

    assert cluster.until("no-image", is_refused).status.phase == "Pending"


def test_a_pod_too_big_for_every_node_is_unschedulable_and_an_event_says_so(cluster: Cluster) -> None:
    pod = cluster.until("too-big", lambda pod: pod.status.conditions)
    condition = next(each for each in pod.status.conditions if each.type == "PodScheduled")
    assert (pod.status.phase, condition.status, condition.reason) == ("Pending", "False", "Unschedulable")
    assert "Insufficient memory" in condition.message
    assert cluster.told("too-big", "FailedScheduling").type == "Warning"


def test_a_program_that_is_not_there_fails_the_pod_with_a_start_error(cluster: Cluster) -> None:
    ended = cluster.terminated("no-command")
    assert (ended.exit_code, ended.reason) == (128, "StartError")
    assert "/no/such/program" in ended.message


def test_a_container_runs_as_the_user_asked_for_and_without_capabilities(cluster: Cluster) -> None:
    assert cluster.ended("user").status.phase == "Succeeded"
    log = cluster.log("user")
    assert log.startswith("12345 23456 ")
    status = dict(line.split(":\t", 1) for line in log.splitlines()[1:] if ":\t" in line)
    assert (status["CapEff"], status["CapPrm"], status["CapBnd"]) == ("0" * 16,) * 3
    assert status["NoNewPrivs"] == "1"


def test_containers_of_a_pod_run_together_and_share_its_empty_folder(cluster: Cluster) -> None:
    pod = cluster.ended("two-containers")
    assert cluster.log("two-containers", container="a").strip() == "['from-a', 'from-b']"
    assert cluster.terminated("two-containers", "a").exit_code == 0
    assert cluster.terminated("two-containers", "b").exit_code == 3
    assert pod.status.phase == "Failed"


def test_initial_containers_end_before_the_others_begin(cluster: Cluster) -> None:
    pod = cluster.ended("prepared")
    assert pod.status.phase == "Succeeded"
    assert cluster.log("prepared", container="main").strip() == "made before"
    first = pod.status.init_container_statuses[0].state.terminated
    assert first.finished_at <= pod.status.container_statuses[0].state.terminated.started_at


def test_a_read_only_root_leaves_volumes_alone_writable(cluster: Cluster) -> None:
    assert cluster.ended("read-only").status.phase == "Failed"
    assert "Read-only file system: '/tmp/no'" in cluster.log("read-only")


def test_a_failing_container_is_started_again_where_the_policy_says_so(cluster: Cluster) -> None:
    pod = cluster.until("restarted", lambda pod: (pod.status.container_statuses or [None])[0] and
                        pod.status.container_statuses[0].restart_count >= 1)  # fmt: skip
    assert pod.status.phase == "Running"
    assert pod.status.container_statuses[0].last_state.terminated.exit_code == 1


def test_the_life_of_a_pod_is_told_in_events(cluster: Cluster) -> None:
    cluster.ended("done")
    for reason in ("Scheduled", "Pulled", "Created", "Started"):
        assert cluster.told("done", reason).involved_object.uid == cluster.read("done").metadata.uid


def test_a_pod_of_an_unknown_service_account_is_forbidden(cluster: Cluster) -> None:
    with pytest.raises(client.ApiException) as refusal:
        cluster.create("nobody", SLEEPS, serviceAccountName="nobody")
    assert refusal.value.status == 403
