"""What Prometheus scrapes of a node: memory as cAdvisor names it, pods as kube-state-metrics names them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from tidegate_local.node.agent import Agent
from tidegate_local.node.cgroups import Usage
from tidegate_local.node.scheduling import amounts
from tidegate_local.podapi.kinds import PODS
from tidegate_local.podapi.refusals import Json
from tidegate_local.podapi.store import Store

_CADVISOR: Final = {
    "container_memory_working_set_bytes": ("gauge", "Memory in use without inactive page cache."),
    "container_memory_rss": ("gauge", "Anonymous memory."),
    "container_memory_cache": ("gauge", "Page cache."),
    "container_memory_usage_bytes": ("gauge", "Memory in use, page cache included."),
    "container_spec_memory_limit_bytes": ("gauge", "Memory limit in force; 0 where there is none."),
    "container_oom_events_total": ("counter", "Processes killed at the container's own limit."),
    "container_cpu_usage_seconds_total": ("counter", "CPU time."),
}
_PHASES: Final = ("Pending", "Running", "Succeeded", "Failed", "Unknown")

Labels = dict[str, str]
Sample = tuple[Labels, float]


def cadvisor(agent: Agent) -> str:
    """Every running container's memory and CPU, read now."""
    samples: dict[str, list[Sample]] = {name: [] for name in _CADVISOR}
    for pod, container, group in agent.groups():
        try:
            usage = group.usage()
        except FileNotFoundError:
            # It ended between the two looks.
            continue
        labels = {**_identity(pod), "container": container}
        for name, value in _readings(usage).items():
            samples[name].append((labels, value))
    return "".join(_family(name, *_CADVISOR[name], found) for name, found in samples.items())


def _readings(usage: Usage) -> dict[str, float]:
    return {
        "container_memory_working_set_bytes": usage.working_set_bytes,
        "container_memory_rss": usage.rss_bytes,
        "container_memory_cache": usage.cache_bytes,
        "container_memory_usage_bytes": usage.usage_bytes,
        "container_spec_memory_limit_bytes": usage.limit_bytes,
        "container_oom_events_total": usage.oom_kills,
        "container_cpu_usage_seconds_total": usage.cpu_seconds,
    }


def kube_state(store: Store) -> str:
    """Every pod that the API holds, ended ones too."""
    pods = list(store.items(PODS))
    families = {
        "kube_pod_info": ("Where the pod runs.", _info),
        "kube_pod_labels": ("The pod's labels.", _labels),
        "kube_pod_status_phase": ("1 for the phase that holds.", _phase),
        "kube_pod_container_resource_requests": ("What the containers ask for.", _requests),
        "kube_pod_container_resource_limits": ("What the containers may use.", _limits),
        "kube_pod_container_status_terminated_reason": ("Why the container ended.", _terminated),
        "kube_pod_container_status_waiting_reason": ("Why the container has not begun.", _waiting),
    }
    return "".join(
        _family(name, "gauge", told, [sample for pod in pods for sample in samples(pod)])
        for name, (told, samples) in families.items()
    )


def _identity(pod: Json) -> Labels:
    return {"namespace": pod["metadata"]["namespace"], "pod": pod["metadata"]["name"]}


def _with_uid(pod: Json) -> Labels:
    return {**_identity(pod), "uid": pod["metadata"]["uid"]}


def _info(pod: Json) -> Iterator[Sample]:
    status = pod["status"]
    where = {
        "node": pod["spec"].get("nodeName", ""),
        "pod_ip": status.get("podIP", ""),
        "host_ip": status.get("hostIP", ""),
    }
    yield {**_with_uid(pod), **where}, 1


def _labels(pod: Json) -> Iterator[Sample]:
    carried = pod["metadata"].get("labels") or {}
    yield {**_with_uid(pod), **{f"label_{re.sub(r'[^a-zA-Z0-9_]', '_', name)}": carried[name] for name in carried}}, 1


def _phase(pod: Json) -> Iterator[Sample]:
    for phase in _PHASES:
        yield {**_with_uid(pod), "phase": phase}, float(pod["status"]["phase"] == phase)


def _requests(pod: Json) -> Iterator[Sample]:
    return _resources(pod, "requests")


def _limits(pod: Json) -> Iterator[Sample]:
    return _resources(pod, "limits")


def _resources(pod: Json, part: str) -> Iterator[Sample]:
    for container in pod["spec"]["containers"]:
        for resource, amount in amounts((container.get("resources") or {}).get(part) or {}).items():
            is_cpu = resource == "cpu"
            unit = "core" if is_cpu else "byte" if resource in ("memory", "ephemeral-storage") else "integer"
            labels = {
                **_with_uid(pod),
                "container": container["name"],
                "node": pod["spec"].get("nodeName", ""),
                "resource": re.sub(r"[^a-zA-Z0-9_]", "_", resource),
                "unit": unit,
            }
            yield labels, amount / 1000 if is_cpu else amount


def _terminated(pod: Json) -> Iterator[Sample]:
    return _reasons(pod, "terminated")


def _waiting(pod: Json) -> Iterator[Sample]:
    return _reasons(pod, "waiting")


def _reasons(pod: Json, state: str) -> Iterator[Sample]:
    for container in pod["status"].get("containerStatuses") or []:
        if reason := container["state"].get(state, {}).get("reason"):
            yield {**_with_uid(pod), "container": container["name"], "reason": reason}, 1


def _family(name: str, kind: str, told: str, samples: list[Sample]) -> str:
    lines = [f"# HELP {name} {told}\n# TYPE {name} {kind}\n"]
    for labels, value in samples:
        inner = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        lines.append(f"{name}{{{inner}}} {value:.17g}\n")
    return "".join(lines)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
