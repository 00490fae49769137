"""The verbs of the real kubectl."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from tests.local.node.conftest import Stack

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")


def manifest(name: str, program: str, **labels: str) -> str:
    container = {"name": "main", "image": "python:3", "command": ["python3", "-u", "-c", program]}
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": labels},
            "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container]},
        }
    )


def test_apply_creates_and_then_changes(stack: Stack) -> None:
    text = manifest("applied", "import time; time.sleep(60)", colour="red")
    assert "created" in stack.kubectl("apply", "-f", "-", stdin=text)
    assert "unchanged" in stack.kubectl("apply", "-f", "-", stdin=text)
    assert "configured" in stack.kubectl("apply", "-f", "-", stdin=text.replace("red", "blue"))
    assert stack.kubectl("get", "pod", "applied", "-o", "jsonpath={.metadata.labels.colour}") == "blue"


def test_apply_of_a_folder_of_kinds_and_delete_of_the_same(stack: Stack) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": "b"}}
    claim = {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }  # fmt: skip
    text = yaml.safe_dump_all([secret, claim])
    stack.kubectl("apply", "-f", "-", stdin=text)
    assert stack.kubectl("get", "secret", "s", "-o", "jsonpath={.data.a}") == "Yg=="
    assert stack.kubectl("get", "pvc", "c", "-o", "jsonpath={.status.phase}") == "Bound"
    stack.kubectl("delete", "-f", "-", stdin=text)
    assert stack.kubectl("get", "secret,pvc", "-o", "name") == ""


def test_create_get_wait_logs_describe_delete(stack: Stack) -> None:
    stack.kubectl("create", "-f", "-", stdin=manifest("verbs", "import time; print('said'); time.sleep(60)"))
    stack.kubectl("wait", "pod/verbs", "--for=condition=Ready", "--timeout=20s")
    lines = stack.kubectl("get", "pods", "verbs", "-o", "wide").splitlines()
    assert lines[0].split()[:6] == ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP"]
    assert lines[1].split()[:4] == ["verbs", "1/1", "Running", "0"]
    stack.says("verbs", "said")
    assert stack.kubectl("logs", "verbs") == "said\n"
    assert stack.kubectl("logs", "verbs", "--tail=1", "--timestamps").split(" ", 1)[1] == "said\n"
    described = stack.kubectl("describe", "pod", "verbs")
    assert "Started container main" in described
    assert "QoS Class:" in described
    assert "verbs" in stack.kubectl("events", "--for", "pod/verbs")
    assert "deleted" in stack.kubectl("delete", "pod", "verbs", "--wait=true")
    assert "verbs" not in stack.kubectl("get", "pods", "-A", "-o", "name")


def test_run_and_wait_for_its_end(stack: Stack) -> None:
    stack.kubectl(
        "run", "ran", "--image=python:3", "--restart=Never", "--command", "--", "python3", "-c", "print(6 * 7)"
    )
    stack.kubectl("wait", "pod/ran", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=20s")
    assert stack.kubectl("logs", "ran", "-f").strip() == "42"


@pytest.mark.parametrize("kind", ["strategic", "merge", "json"])
def test_patch_in_every_dialect(stack: Stack, kind: str) -> None:
    name = f"patched-{kind}"
    stack.kubectl("create", "-f", "-", stdin=manifest(name, "import time; time.sleep(60)"))
    body = {"metadata": {"labels": {"slot": "3"}}}
    operations = [{"op": "add", "path": "/metadata/labels", "value": {"slot": "3"}}]
    stack.kubectl("patch", "pod", name, "--type", kind, "-p", json.dumps(operations if kind == "json" else body))
    assert stack.kubectl("get", "pods", "-l", "slot=3", "-o", "name").split().count(f"pod/{name}") == 1
    stack.kubectl("label", "pod", name, "slot-")
    assert f"pod/{name}" not in stack.kubectl("get", "pods", "-l", "slot=3", "-o", "name")
    stack.kubectl("delete", "pod", name, "--grace-period=0", "--force")


def test_patch_of_the_resize_subresource(stack: Stack) -> None:
    stack.run("resizable", "import time; time.sleep(60)")
    stack.running("resizable")
    resources = {"requests": {"memory": "96Mi"}, "limits": {"memory": "96Mi"}}
    body = {"spec": {"containers": [{"name": "main", "resources": resources}]}}
    stack.kubectl("patch", "pod", "resizable", "--subresource", "resize", "--type", "strategic", "-p", json.dumps(body))
    pod = stack.until(
        "resizable",
        lambda pod: pod.status.container_statuses[0].resources.limits == {"memory": "96Mi"},
    )
    assert pod.status.container_statuses[0].restart_count == 0


def test_what_is_known_of_the_cluster(stack: Stack) -> None:
    assert "pods" in stack.kubectl("api-resources", "-o", "name").split()
    assert "Server Version" in stack.kubectl("version")
    assert stack.kubectl("auth", "can-i", "patch", "pods").strip() == "yes"
    assert " Ready " in stack.kubectl("get", "nodes")
    assert "Allocatable:" in stack.kubectl("describe", "nodes")
    assert "default" in stack.kubectl("get", "namespaces,serviceaccounts", "-o", "name")


def test_a_watch_prints_a_row_for_every_change(stack: Stack) -> None:
    watching = subprocess.Popen(
        ["kubectl", "--kubeconfig", str(stack.api.kubeconfig), "get", "pods", "--watch", "-l", "suite=watch"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        stack.run("seen", "pass", labels={"suite": "watch"})
        assert watching.stdout is not None
        lines = []
        for line in watching.stdout:
            lines.append(line.split()[:3])
            if "Completed" in line:
                break
    finally:
        watching.kill()
        watching.wait()
    assert lines[0] == ["NAME", "READY", "STATUS"]
    assert ["seen", "0/1", "Completed"] in lines
    assert sum(line[0] == "NAME" for line in lines) == 1
