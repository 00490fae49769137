"""Pods that mean harm, or are merely absurd: what they must not reach, and what they must not break."""

from __future__ import annotations

import json
import ssl
import sys
import textwrap
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from kubernetes import client

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.local.node.conftest import Stack


EMPTY = {"name": "v", "emptyDir": {}}


def run(stack: Stack, name: str, program: str, **spec: Any) -> str:
    """What `program` printed in a pod of its own, which must succeed."""
    stack.run(name, textwrap.dedent(program), **spec)
    phase = stack.ended(name).status.phase
    log = stack.log(name)
    assert phase == "Succeeded", log
    return log


def refusal(stack: Stack, name: str, **spec: Any) -> client.ApiException:
    with pytest.raises(client.ApiException) as caught:
        stack.run(name, "pass", **spec)
    return caught.value


def volume(path: str, **extra: Any) -> dict[str, Any]:
    return {
        "volumes": [{"name": "host", "hostPath": {"path": path, **extra}}],
        "container": {"volumeMounts": [{"name": "host", "mountPath": "/host"}]},
    }


def test_a_container_sees_neither_the_work_folder_nor_the_token_nor_other_processes(stack: Stack) -> None:
    log = run(
        stack,
        "spy",
        f"""
        import os
        def look(path):
            try:
                return sorted(os.listdir(path)) if os.path.isdir(path) else open(path).read()
            except OSError as error:
                return type(error).__name__
        print(look({str(stack.api.workdir / "token")!r}))
        print(look("/root/.ssh"), look("/home"), look("/var"), look("/.machine"))
        print([each for each in os.listdir("/proc") if each.isdigit()])
        print(look("/etc/shadow"))
        """,
        securityContext={"supplementalGroups": [42], "runAsGroup": 42},
    )
    assert log.splitlines() == [
        "FileNotFoundError",
        "FileNotFoundError FileNotFoundError FileNotFoundError FileNotFoundError",
        "['1']",
        "PermissionError",
    ]


def test_a_container_can_change_nothing_of_the_system_or_of_its_limit(stack: Stack) -> None:
    log = run(
        stack,
        "vandal",
        """
        import os, sys
        group = "/sys/fs/cgroup/memory/"
        for path in ("/etc/passwd", "/usr/bin/python3", sys.prefix + "/x", "/x", group + "memory.limit_in_bytes",
                     group + "cgroup.procs", "/proc/sys/kernel/core_pattern", "/dev/x"):
            try:
                open(path, "a").write("1")
                print("wrote", path)
            except OSError:
                pass
        try:
            os.setuid(0)
            print("is root")
        except PermissionError:
            print("stays itself")
        """,
    )
    assert log.split("\n")[0] == "stays itself"


def test_a_container_has_a_temporary_folder_of_its_own(stack: Stack) -> None:
    # Of the machine's own it sees the way to its environment, where that lies there.
    write = "import os; print([each for each in os.listdir('/tmp') if each not in %r]); open('/tmp/mine', 'w').close()"
    write %= f"{sys.prefix}:{sys.base_prefix}"
    assert run(stack, "tmp-a", write) == "[]\n"
    assert run(stack, "tmp-b", write) == "[]\n"


@pytest.mark.parametrize(
    "path",
    ["/", "/etc", "/root", "{work}", "{work}/token", "{work}/sharedness", "{work}/pods", "{work}/shared/../pods"],
)
def test_a_host_path_outside_the_shared_folder_is_refused(stack: Stack, path: str) -> None:
    name = f"escape-{abs(hash(path)) % 10**8}"
    try:
        stack.run(name, "import os; print(os.listdir('/host'))", **volume(path.format(work=stack.api.workdir)))
    except client.ApiException as error:
        assert error.status == 422  # noqa: PT017 - one of the two answers
        return
    pod = stack.ended(name)
    assert (pod.status.phase, pod.status.reason) == ("Failed", "VolumeRefused")
    assert str(stack.api.workdir / "shared") in pod.status.message
    assert pod.status.container_statuses[0].state.terminated is None


def test_a_link_in_a_shared_folder_leads_nowhere(stack: Stack) -> None:
    shared = stack.api.workdir / "shared"
    (shared / "inner").mkdir()
    (shared / "inner").chmod(0o777)
    run(stack, "plants", "import os; os.symlink('/etc', '/host/way-out')", **volume(str(shared / "inner")))
    assert (shared / "inner" / "way-out").is_symlink()
    stack.run("follows", "import os; print(os.listdir('/host'))", **volume(str(shared / "inner" / "way-out")))
    pod = stack.ended("follows")
    ended = pod.status.container_statuses[0].state.terminated
    assert (ended.reason, ended.exit_code) == ("StartError", 128)
    assert "links are not followed" in ended.message


def test_a_link_left_where_a_restart_will_mount_changes_nothing_on_the_machine(stack: Stack) -> None:
    bait = stack.api.workdir / "shared" / "bait"
    plants = f"""
        import os, time
        while True:
            if os.path.isdir("/data/sub") and not os.path.islink("/data/sub"):
                os.rmdir("/data/sub")
                os.symlink({str(bait)!r}, "/data/sub")
            time.sleep(0.01)
    """
    fails = "import os, time\nwhile not os.path.islink('/data/sub'): time.sleep(0.01)\nraise SystemExit(1)"
    main = {"image": "python:3", "command": ["python3", "-c", fails], "name": "victim"}
    data = {"name": "data", "mountPath": "/data"}
    containers = [
        {**main, "volumeMounts": [data, {"name": "more", "mountPath": "/data/sub"}]},
        {**main, "name": "planter", "command": ["python3", "-c", textwrap.dedent(plants)], "volumeMounts": [data]},
    ]
    volumes = [{"name": "data", "emptyDir": {}}, {"name": "more", "emptyDir": {}}]
    stack.run("links", "pass", restartPolicy="OnFailure", containers=containers, volumes=volumes)
    pod = stack.until(
        "links",
        lambda pod: any(each.name == "victim" and each.restart_count for each in pod.status.container_statuses or []),
    )
    stack.until("links", lambda pod: _last_reason(pod, "victim") == "StartError")
    assert pod.status.phase == "Running"
    assert not bait.exists()
    stack.core.delete_namespaced_pod("links", "default", grace_period_seconds=0)


def _last_reason(pod: Any, container: str) -> str | None:
    status = next(each for each in pod.status.container_statuses if each.name == container)
    ended = status.state.terminated or status.last_state.terminated
    return ended.reason if ended else None


def test_a_shared_folder_is_shared(stack: Stack) -> None:
    shared = stack.api.workdir / "shared" / "results"
    spec = volume(str(shared), type="DirectoryOrCreate")
    run(
        stack, "writes", "import os; os.mkdir('/host/x') if False else None; print(os.access('/host', os.R_OK))", **spec
    )
    assert shared.is_dir()


def test_a_claim_outlives_the_pods_that_use_it(stack: Stack) -> None:
    stack.core.create_namespaced_persistent_volume_claim("default", {"metadata": {"name": "kept"}, "spec": {}})
    spec = {
        "volumes": [{"name": "kept", "persistentVolumeClaim": {"claimName": "kept"}}],
        "container": {"volumeMounts": [{"name": "kept", "mountPath": "/kept", "subPath": "inner"}]},
    }
    run(stack, "puts", "open('/kept/file', 'w').write('still here')", **spec)
    stack.core.delete_namespaced_pod("puts", "default")
    assert run(stack, "gets", "print(open('/kept/file').read())", **spec) == "still here\n"


@pytest.mark.parametrize(
    "spec",
    [
        {"container": {"securityContext": {"privileged": True}}},
        {"container": {"securityContext": {"runAsUser": 0}}},
        {"securityContext": {"runAsUser": 0}},
        {"container": {"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}},
        {"hostPID": True},
        {"hostIPC": True},
    ],
)
def test_privilege_is_forbidden(stack: Stack, spec: dict[str, Any]) -> None:
    error = refusal(stack, "privileged", **spec)
    assert (error.status, json.loads(error.body)["reason"]) == (403, "Forbidden")


@pytest.mark.parametrize(
    "spec",
    [
        {"container": {"volumeMounts": [{"name": "absent", "mountPath": "/x"}]}},
        {"container": {"volumeMounts": "all of them"}},
        {"container": {"env": [{"name": "A=B", "value": 3}]}},
        {"container": {"resources": {"limits": {"memory": "lots"}}}},
        {"container": {"resources": {"limits": {"memory": "-1"}}}},
        {"container": {"resources": {"limits": {"memory": "1" * 400}}}},
        {"container": {"command": ["a\0b"]}},
        {"container": {"terminationMessagePath": "../../etc/x"}},
        {"container": {"name": "../main"}},
        {"volumes": [{"name": "v", "secret": {"secretName": "s", "items": [{"key": "k", "path": "../../x"}]}}]},
        {"volumes": [EMPTY], "container": {"volumeMounts": [{"name": "v", "mountPath": "x"}]}},
        {"volumes": [EMPTY], "container": {"volumeMounts": [{"name": "v", "mountPath": "/x", "subPath": "../.."}]}},
        {"terminationGracePeriodSeconds": -5},
        {"activeDeadlineSeconds": 10**12},
    ],
)  # fmt: skip
def test_a_malformed_pod_is_refused_before_anything_is_made_of_it(stack: Stack, spec: dict[str, Any]) -> None:
    assert refusal(stack, "malformed", **spec).status in (400, 422)


def send(stack: Stack, body: bytes, **headers: str) -> int:
    """POST `body` as a pod; the status that came back."""
    context = ssl.create_default_context(cafile=str(stack.api.workdir / "ca.crt"))
    token = (stack.api.workdir / "token").read_text()
    request = urllib.request.Request(
        f"{stack.api.url}/api/v1/namespaces/default/pods", body, {"Authorization": f"Bearer {token}", **headers}
    )
    try:
        with urllib.request.urlopen(request, context=context, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[" * 100_000, 400),
        (b"[1, 2]", 400),
        (b'"pod"', 400),
        (b'{"metadata": 3}', 400),
        (b'{"metadata": {"name": "x"}, "spec": null}', 422),
        (json.dumps({"metadata": {"name": "x", "annotations": {"a": "b" * 4_000_000}}}).encode(), 413),
    ],
)
def test_a_body_that_is_no_pod_is_refused(stack: Stack, body: bytes, status: int) -> None:
    assert send(stack, body, **{"Content-Type": "application/json"}) == status


def test_a_wrong_token_opens_nothing(stack: Stack) -> None:
    assert send(stack, b"{}", Authorization="Bearer wrong") == 401
    assert send(stack, b"{}", Authorization="Basic wrong") == 401


def test_an_environment_in_memory_counts_against_the_containers_limit(stack: Stack) -> None:
    spec = {
        "volumes": [{"name": "ram", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}],
        "container": {"volumeMounts": [{"name": "ram", "mountPath": "/ram"}]},
    }
    stack.run("fills-ram", "file = open('/ram/x', 'wb')\nwhile True: file.write(b'x' * 1048576)", **spec)
    pod = stack.ended("fills-ram")
    assert pod.status.container_statuses[0].state.terminated.reason == "OOMKilled"


def test_a_limit_too_small_to_start_under_is_a_kill_for_memory(stack: Stack) -> None:
    stack.run("tiny", "pass", container={"resources": {"limits": {"memory": "64Ki"}}})
    ended = stack.ended("tiny").status.container_statuses[0].state.terminated
    assert ended.exit_code in (137, 128)


def test_processes_left_behind_by_a_container_end_with_it(stack: Stack) -> None:
    log = run(
        stack,
        "leaves",
        """
        import os, subprocess
        subprocess.Popen(["sleep", "300"], start_new_session=True)
        if os.fork() == 0:
            os.setsid()
            import time
            time.sleep(300)
        print("gone")
        """,
    )
    assert log == "gone\n"
    pod = stack.core.read_namespaced_pod("leaves", "default")
    assert pod.status.phase == "Succeeded"


def test_a_flood_of_output_is_cut_and_its_end_kept(stack: Stack) -> None:
    stack.run("flood", "for n in range(400_000): print('line', n, 'x' * 60)")
    stack.ended("flood")
    assert stack.log("flood", tail_lines=1).startswith("line 399999 ")
    folder = stack.api.workdir / "pods" / stack.core.read_namespaced_pod("flood", "default").metadata.uid
    assert sum(path.stat().st_size for path in folder.rglob("log*")) < 25 * 2**20


def test_a_thousand_pods_are_taken_in_seconds_and_wait_their_turn(stack: Stack) -> None:
    for pod in stack.core.list_namespaced_pod("default").items:
        stack.core.delete_namespaced_pod(pod.metadata.name, "default", grace_period_seconds=0)
    resources = {"requests": {"memory": "1536Mi"}, "limits": {"memory": "1536Mi"}}
    body = {
        "metadata": {"generateName": "many-", "namespace": "default"},
        "spec": {
            "containers": [{"name": "main", "image": "python:3", "command": ["sleep", "60"], "resources": resources}],
            "restartPolicy": "Never",
        },
    }
    began = time.monotonic()
    for _ in range(1000):
        stack.core.create_namespaced_pod("default", body)
    seconds = time.monotonic() - began
    stack.until(
        stack.core.list_namespaced_pod("default", limit=1).items[0].metadata.name,
        lambda pod: pod.status.conditions,
    )
    phases = [pod.status.phase for pod in stack.core.list_namespaced_pod("default").items]
    assert len(phases) == 1000
    assert phases.count("Pending") >= 999
    # The client takes most of this; the server alone is an order of magnitude faster.
    assert seconds < 30
    stack.core.delete_collection_namespaced_pod("default", grace_period_seconds=0)


@pytest.mark.parametrize(
    "volumes",
    [
        {},
        {"volumes": [EMPTY], "container": {"volumeMounts": [{"name": "v", "mountPath": "/tmp"}]}},
    ],
    ids=["a /tmp that is read-only", "a volume on /tmp"],
)
def test_an_environment_below_tmp_is_seen_although_a_container_has_a_tmp_of_its_own(
    start: Callable[..., Stack], tmp_path: Path, volumes: dict[str, Any]
) -> None:
    # The image table of these tests names a folder below pytest's own, which lies in /tmp.
    (tmp_path / "environment").mkdir()
    (tmp_path / "environment" / "word").write_text("seen")
    container = {**volumes.get("container", {}), "securityContext": {"readOnlyRootFilesystem": True}}
    program = f"print(open({str(tmp_path / 'environment' / 'word')!r}).read())"
    stack = start(paths=[tmp_path / "environment"])
    assert run(stack, "clone", program, **{**volumes, "container": container}).split()[-1] == "seen"
