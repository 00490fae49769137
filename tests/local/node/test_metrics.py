"""What Prometheus reads of the node, while pods run and after."""

from __future__ import annotations

import re
import ssl
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.local.node.conftest import Stack

HOLDS = "import time; held = b'x' * (40 * 2**20); print('holding'); time.sleep(120)"


def scraped(stack: Stack, path: str, *, token: str | None = None) -> str:
    context = ssl.create_default_context(cafile=str(stack.api.workdir / "ca.crt"))
    bearer = (stack.api.workdir / "token").read_text() if token is None else token
    request = urllib.request.Request(f"{stack.api.url}{path}", headers={"Authorization": f"Bearer {bearer}"})
    with urllib.request.urlopen(request, context=context, timeout=10) as answer:
        return str(answer.read().decode())


def value(exposition: str, name: str, **labels: str) -> float | None:
    """The value of the one series of `name` that carries `labels`."""
    for line in exposition.splitlines():
        match = re.fullmatch(rf"{name}\{{(.*)\}} (\S+)", line)
        if match and all(f'{key}="{text}"' in match[1] for key, text in labels.items()):
            return float(match[2])
    return None


@pytest.fixture(scope="module", autouse=True)
def pods(stack: Stack) -> None:
    stack.run("holds", HOLDS, labels={"tidegate/run-id": "night", "odd": "yes"})
    stack.run("grew", "held = []\nwhile True: held.append(b'x' * 1048576)")
    stack.run("stuck", "pass", container={"image": "unknown:1"})
    stack.says("holds", "holding")
    stack.ended("grew")


def test_memory_and_limit_of_a_running_container(stack: Stack) -> None:
    text = scraped(stack, "/metrics/cadvisor")
    where = {"namespace": "default", "pod": "holds", "container": "main"}
    assert value(text, "container_spec_memory_limit_bytes", **where) == 64 * 2**20
    rss = value(text, "container_memory_rss", **where)
    working_set = value(text, "container_memory_working_set_bytes", **where)
    assert rss is not None
    assert working_set is not None
    assert 40 * 2**20 <= rss <= working_set <= 64 * 2**20
    assert value(text, "container_oom_events_total", **where) == 0
    assert value(text, "container_memory_cache", **where) is not None
    cpu = value(text, "container_cpu_usage_seconds_total", **where)
    assert cpu is not None
    assert 0 < cpu < 60


def test_a_resize_shows_in_the_next_scrape(stack: Stack) -> None:
    asked = {"requests": {"memory": "96Mi"}, "limits": {"memory": "96Mi"}}
    body = {"spec": {"containers": [{"name": "main", "resources": asked}]}}
    stack.core.patch_namespaced_pod_resize("holds", "default", body)
    give_up = time.monotonic() + 10
    while value(scraped(stack, "/metrics/cadvisor"), "container_spec_memory_limit_bytes", pod="holds") != 96 * 2**20:
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_an_ended_container_has_no_memory_but_a_reason(stack: Stack) -> None:
    assert value(scraped(stack, "/metrics/cadvisor"), "container_memory_rss", pod="grew") is None
    text = scraped(stack, "/metrics/kube-state")
    assert value(text, "kube_pod_container_status_terminated_reason", pod="grew", reason="OOMKilled") == 1
    assert value(text, "kube_pod_status_phase", pod="grew", phase="Failed") == 1
    assert value(text, "kube_pod_status_phase", pod="grew", phase="Running") == 0


def test_pods_are_told_with_labels_node_address_and_resources(stack: Stack) -> None:
    pod = stack.core.read_namespaced_pod("holds", "default")
    text = scraped(stack, "/metrics/kube-state")
    assert value(text, "kube_pod_labels", pod="holds", label_tidegate_run_id="night", label_odd="yes") == 1
    where = {"node": pod.spec.node_name, "uid": pod.metadata.uid, "pod_ip": pod.status.pod_ip}
    assert value(text, "kube_pod_info", pod="holds", **where) == 1
    limit = value(text, "kube_pod_container_resource_limits", pod="grew", container="main", resource="memory")
    assert limit == 64 * 2**20
    assert value(text, "kube_pod_container_resource_requests", pod="grew", resource="memory", unit="byte") == limit


def test_what_a_container_waits_for_is_told(stack: Stack) -> None:
    stack.until("stuck", lambda pod: pod.status.container_statuses and pod.status.container_statuses[0].state.waiting)
    give_up = time.monotonic() + 10
    while True:
        text = scraped(stack, "/metrics/kube-state")
        told = [
            value(text, "kube_pod_container_status_waiting_reason", pod="stuck", reason=reason)
            for reason in ("ErrImagePull", "ImagePullBackOff")
        ]
        if 1 in told:
            return
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_metrics_are_for_bearers_of_the_token_alone(stack: Stack) -> None:
    with pytest.raises(urllib.error.HTTPError) as refusal:
        scraped(stack, "/metrics/kube-state", token="wrong")
    assert refusal.value.code == 401
