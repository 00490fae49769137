"""Whether the node has room: requests against what is allocatable, for new pods and for resizes; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from tidegate_local.podapi.pod_rules import is_terminal
from tidegate_local.podapi.quantity import quantity, whole
from tidegate_local.podapi.refusals import Json

GPU: Final = "nvidia.com/gpu"
#: resource -> whole units: bytes of memory, thousandths of a CPU, devices, pods.
Amounts = dict[str, int]


def amounts(quantities: Mapping[str, str]) -> Amounts:
    return {
        name: whole(quantity(value) * 1000) if name == "cpu" else whole(value) for name, value in quantities.items()
    }


def requests(pod: Json) -> Amounts:
    """What the pod takes of the node: what it asks for or, while a resize waits, what it holds, where that is more."""
    if any(each["type"] == "PodResizePending" and each.get("reason") == "Infeasible" for each in _conditions(pod)):
        # It will never get what it asks for: nobody keeps that free.
        return granted(pod)
    holds = {each["name"]: each.get("allocatedResources") or {} for each in _statuses(pod)}
    total: Amounts = {"pods": 1}
    for container in pod["spec"]["containers"]:
        asked = amounts((container.get("resources") or {}).get("requests") or {})
        held = amounts(holds.get(container["name"], {}))
        for name in {*asked, *held}:
            total[name] = total.get(name, 0) + max(asked.get(name, 0), held.get(name, 0))
    for container in pod["spec"].get("initContainers") or []:
        for name, amount in amounts((container.get("resources") or {}).get("requests") or {}).items():
            total[name] = max(total.get(name, 0), amount)
    return total


def granted(pod: Json) -> Amounts:
    """What the node has granted: resizes that wait do not count."""
    held = {each["name"]: each["allocatedResources"] for each in _statuses(pod) if "allocatedResources" in each}
    total: Amounts = {"pods": 1}
    for container in pod["spec"]["containers"]:
        asked = (container.get("resources") or {}).get("requests") or {}
        for name, amount in amounts(held.get(container["name"], asked)).items():
            total[name] = total.get(name, 0) + amount
    return total


def _statuses(pod: Json) -> list[Json]:
    found: list[Json] = pod.get("status", {}).get("containerStatuses") or []
    return found


def _conditions(pod: Json) -> list[Json]:
    found: list[Json] = pod.get("status", {}).get("conditions") or []
    return found


def taken(pods: Iterable[Json], node: str, count: Callable[[Json], Amounts] = requests) -> Amounts:
    """What the node's live pods take together."""
    total: Amounts = {}
    for pod in pods:
        if pod["spec"].get("nodeName") == node and not is_terminal(pod):
            for name, amount in count(pod).items():
                total[name] = total.get(name, 0) + amount
    return total


def lacking(asked: Amounts, used: Amounts, allocatable: Mapping[str, int]) -> list[str]:
    """The resources that do not suffice, by name."""
    return [
        name
        for name, amount in sorted(asked.items())
        if amount and amount + used.get(name, 0) > allocatable.get(name, 0)
    ]


def unschedulable(short: list[str]) -> str:
    """The scheduler's sentence; it tells nothing of amounts, so the message is stable while the pod waits."""
    why = ", ".join("Too many pods" if name == "pods" else f"Insufficient {name}" for name in short)
    told = f"0/1 nodes are available: 1 {why}."
    return f"{told} preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."


def selects(pod: Json, labels: Mapping[str, str]) -> bool:
    wanted = pod["spec"].get("nodeSelector") or {}
    return all(labels.get(key) == value for key, value in wanted.items())
