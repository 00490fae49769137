"""In-place resize of one pod: what is asked for is granted if the node has room, then put in force on the cgroups.

| desired = granted? | room           | granted = actuated? | condition                              |
|--------------------|----------------|---------------------|----------------------------------------|
| no                 | never          |                     | PodResizePending, reason Infeasible    |
| no                 | not now        |                     | PodResizePending, reason Deferred      |
| no                 | yes: granted   | no                  | PodResizeInProgress                    |
| yes                |                | no, below usage     | PodResizeInProgress, reason Error      |
| yes                |                | yes                 | none                                   |
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tidegate_local.node.cgroups import Group, LimitBelowUsage
from tidegate_local.node.container_config import memory_limit
from tidegate_local.node.scheduling import Amounts, amounts, granted, lacking, taken
from tidegate_local.node.services import NodeServices
from tidegate_local.podapi.kinds import PODS
from tidegate_local.podapi.refusals import Json

#: How often a resize that waits for room, or for memory to be given back, is tried again.
_RETRY_SECONDS: Final = 1.0
_NEVER_SECONDS: Final = 3600.0


@dataclass(slots=True)
class _Held:
    granted: Json
    actuated: Json


class Resizer:
    """The resources of one pod's containers, granted and in force."""

    def __init__(self, services: NodeServices, pod: Json) -> None:
        self._services = services
        self._held: dict[str, _Held] = {}
        self._pending: Json | None = None
        self._progress: Json | None = None
        for status in pod.get("status", {}).get("containerStatuses") or []:
            if "resources" in status:
                self._held[status["name"]] = _Held(status["resources"], status["resources"])

    @property
    def conditions(self) -> Sequence[Json]:
        return [condition for condition in (self._pending, self._progress) if condition is not None]

    def allocated(self, name: str) -> Json | None:
        """The requests that are granted; None before the container's first start."""
        held = self._held.get(name)
        return (held.granted.get("requests") or {}) if held else None

    def actuated(self, name: str) -> Json | None:
        held = self._held.get(name)
        return held.actuated if held else None

    def start(self, pod: Json, name: str, pod_group: Group) -> int | None:
        """A container starts with what is granted to it; returns its memory limit."""
        asked = next(each["resources"] for each in pod["spec"]["containers"] if each["name"] == name)
        held = self._held.setdefault(name, _Held(asked, asked))
        held.actuated = held.granted
        pod_group.set_limit(self._pod_limit(pod))
        return memory_limit(held.granted)

    def _pod_limit(self, pod: Json) -> int | None:
        """The containers' limits together, where each has one."""
        limits = []
        for each in pod["spec"]["containers"]:
            held = self._held.get(each["name"])
            limits.append(memory_limit(held.granted if held else each["resources"]))
        return None if None in limits else sum(limit for limit in limits if limit is not None)

    def advance(self, pod: Json, pod_group: Group, groups: Mapping[str, Group]) -> tuple[list[str], float]:
        """Do what can be done now. Returns the containers that must restart for it, and when to look again."""
        desired = {each["name"]: each["resources"] for each in pod["spec"]["containers"] if each["name"] in self._held}
        if any(desired[name] != self._held[name].granted for name in desired):
            self._grant(pod, desired)
        else:
            self._pending = None
        due_at = time.time() + (_RETRY_SECONDS if self._pending else _NEVER_SECONDS)
        changed = [name for name, held in self._held.items() if held.granted != held.actuated]
        if not changed:
            self._progress = None
            return [], due_at
        if self._progress is None:
            self._progress = _condition(pod, "PodResizeInProgress")
            self._tell(pod, "ResizeStarted", changed)
        restarting = [name for name in changed if self._restarts(pod, name)]
        if restarting:
            return restarting, due_at
        try:
            self._actuate(pod, pod_group, groups)
        except LimitBelowUsage as refusal:
            told = f"cannot decrease the memory limit below the current usage: {refusal}"
            if self._progress.get("message") != told:
                self._progress = _condition(pod, "PodResizeInProgress", "Error", told)
            return [], min(due_at, time.time() + _RETRY_SECONDS)
        self._progress = None
        self._tell(pod, "ResizeCompleted", changed)
        return [], due_at

    def _grant(self, pod: Json, desired: Mapping[str, Json]) -> None:
        asked: Amounts = {}
        for resources in desired.values():
            for resource, amount in amounts(resources.get("requests") or {}).items():
                asked[resource] = asked.get(resource, 0) + amount
        facts, uid = self._services.facts, pod["metadata"]["uid"]
        others = (other for other in self._services.store.items(PODS) if other["metadata"]["uid"] != uid)
        used = taken(others, facts.name, granted)
        if never := lacking(asked, {}, facts.allocatable):
            short, reason, told = never[0], "Infeasible", "Node didn't have enough capacity"
        elif not_now := lacking(asked, used, facts.allocatable):
            short, reason, told = not_now[0], "Deferred", "Node didn't have enough resource"
        else:
            self._pending = None
            for name, resources in desired.items():
                self._held[name].granted = resources
            return
        capacity = facts.allocatable.get(short, 0)
        taken_now = "" if reason == "Infeasible" else f", used: {used.get(short, 0)}"
        message = f"{told}: {short}, requested: {asked[short]}{taken_now}, capacity: {capacity}"
        if self._pending is None or self._pending["reason"] != reason:
            self._services.recorder.record(pod, f"Resize{reason}", message, warns=True)
        self._pending = _condition(pod, "PodResizePending", reason, message)

    def _restarts(self, pod: Json, name: str) -> bool:
        """Whether a resource that changes has a policy that asks for a restart."""
        spec = next(each for each in pod["spec"]["containers"] if each["name"] == name)
        held = self._held[name]
        policies = {policy["resourceName"]: policy["restartPolicy"] for policy in spec.get("resizePolicy") or []}
        return any(
            policies.get(resource) == "RestartContainer"
            and any(
                (held.granted.get(part) or {}).get(resource) != (held.actuated.get(part) or {}).get(resource)
                for part in ("requests", "limits")
            )
            for resource in ("cpu", "memory")
        )

    def _actuate(self, pod: Json, pod_group: Group, groups: Mapping[str, Group]) -> None:
        """Raise the pod's limit before its containers', lower it after them: no limit is ever below its parts."""
        total = self._pod_limit(pod)
        raises = total is None or total >= pod_group.usage().limit_bytes
        if raises:
            pod_group.set_limit(total)
        for name, group in groups.items():
            group.set_limit(memory_limit(self._held[name].granted))
            self._held[name].actuated = self._held[name].granted
        if not raises:
            pod_group.set_limit(total)

    def _tell(self, pod: Json, reason: str, names: Sequence[str]) -> None:
        containers = [{"name": name, "resources": self._held[name].granted} for name in names]
        word = "started" if reason == "ResizeStarted" else "completed"
        self._services.recorder.record(pod, reason, f"Pod resize {word}: {json.dumps({'containers': containers})}")


def _condition(pod: Json, kind: str, reason: str = "", message: str = "") -> Json:
    condition = {"type": kind, "status": "True", "observedGeneration": pod["metadata"].get("generation", 1)}
    return {**condition, **({"reason": reason} if reason else {}), **({"message": message} if message else {})}
