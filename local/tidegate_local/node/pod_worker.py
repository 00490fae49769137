"""One pod on this node from its binding to its end: a loop that compares what is wanted with what runs, and acts.

Each turn reads the pod anew, does what is due and writes the status; between turns the worker sleeps until the pod
changes, a container ends or a time comes. Nothing that matters is kept in memory alone: the worker of a later process
finds the attempts in their folders and goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Final

from tidegate_local.node import cgroups, states
from tidegate_local.node.cgroups import Group
from tidegate_local.node.container_config import memory_limit
from tidegate_local.node.container_slot import ContainerSlot, note_group, noted_group
from tidegate_local.node.resizing import Resizer
from tidegate_local.node.services import NodeServices
from tidegate_local.node.states import ContainerView, Verdict
from tidegate_local.node.volumes import VolumeRefused
from tidegate_local.podapi.kinds import PODS
from tidegate_local.podapi.pod_rules import is_terminal
from tidegate_local.podapi.refusals import Json

_NEVER_SECONDS: Final = 3600.0
_KILL_AGAIN_SECONDS: Final = 1.0
_DEADLINE: Final = Verdict("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
_SHUTDOWN: Final = Verdict("Terminated", "Pod was terminated in response to imminent node shutdown.")


@dataclass(frozen=True, slots=True)
class _Stop:
    """An end that is due: what the pod's status will say, where it says more than its containers, and when to kill."""

    verdict: Verdict | None
    kill_at: float


class PodWorker:
    """The loop of one pod."""

    def __init__(self, services: NodeServices, pod: Json) -> None:
        metadata = pod["metadata"]
        self.uid: str = metadata["uid"]
        self._services = services
        self.key = metadata["namespace"], metadata["name"]
        self._folder = services.folders.pod(self.uid)
        self._wake = asyncio.Event()
        self._slots = self._make_slots(pod["spec"]["containers"])
        self._initials = self._make_slots(pod["spec"].get("initContainers") or [])
        self._resizer = Resizer(services, pod)
        self._group: Group | None = None
        self._shutdown: tuple[float, float] | None = None
        self._refused: Verdict | None = None
        if self._folder.exists():
            self._group = noted_group(self._folder, services)
            for slot in self._all_slots():
                slot.recover(pod)

    def _make_slots(self, specs: list[Json]) -> dict[str, ContainerSlot]:
        return {spec["name"]: ContainerSlot(self._services, self._folder, spec, self.poke) for spec in specs}

    def _all_slots(self) -> list[ContainerSlot]:
        return [*self._initials.values(), *self._slots.values()]

    def _running(self) -> list[ContainerSlot]:
        return [slot for slot in self._all_slots() if slot.is_running]

    # -- for the agent

    def poke(self) -> None:
        """Something about the pod may have changed."""
        self._wake.set()

    def shut_down(self, grace_seconds: float) -> None:
        """The node goes down: end the pod, in its own grace or this one, whichever is shorter."""
        self._shutdown = time.time(), grace_seconds
        self.poke()

    def groups(self) -> Mapping[str, Group]:
        """The cgroups of running containers by name."""
        return {slot.name: slot.attempt.group for slot in self._running() if slot.attempt}

    async def run(self) -> None:
        """Work until the pod has ended or gone, then clean up."""
        while True:
            self._wake.clear()
            pod = self._pod()
            if pod is None:
                await self._kill_all()
                break
            due_at = await self._turn(pod)
            pod = self._pod()
            if pod is None or is_terminal(pod):
                await self._kill_all()
                break
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), max(0.0, due_at - time.time()))
        self._clean_up()

    def _pod(self) -> Json | None:
        pod = self._services.store.find(PODS, *self.key)
        return pod if pod is not None and pod["metadata"]["uid"] == self.uid else None

    # -- one turn

    async def _turn(self, pod: Json) -> float:
        """Do what is due; returns when to look again."""
        for slot in self._all_slots():
            slot.observe(pod)
        stop = self._stop(pod)
        if stop is None:
            due_at = min(self._deadline_at(pod) or time.time() + _NEVER_SECONDS, await self._advance(pod))
            stop = self._stop(pod)
        if stop is not None:
            due_at = self._advance_stop(pod, stop)
        is_stopped = stop is not None and not self._running()
        if is_stopped:
            for slot in self._all_slots():
                slot.observe(pod)
        self._publish(is_stopped=is_stopped, verdict=stop.verdict if stop else None)
        now = self._pod()
        if is_stopped and now is not None and "deletionTimestamp" in now["metadata"]:
            self._remove_object(now)
        return due_at

    def _publish(self, *, is_stopped: bool, verdict: Verdict | None) -> None:
        pod = self._pod()
        if pod is None or is_terminal(pod):
            return
        status = states.status(
            pod,
            [self._with_resources(slot.view) for slot in self._slots.values()],
            [slot.view for slot in self._initials.values()],
            verdict=verdict,
            is_stopped=is_stopped,
            resize_conditions=self._resizer.conditions,
        )
        self._services.store.replace(PODS, {**pod, "status": status})

    def _with_resources(self, view: ContainerView) -> ContainerView:
        return replace(view, allocated=self._resizer.allocated(view.name), actuated=self._resizer.actuated(view.name))

    def _remove_object(self, pod: Json) -> None:
        if not pod["metadata"].get("finalizers"):
            self._services.store.delete(PODS, *self.key)

    # -- running

    async def _advance(self, pod: Json) -> float:
        """Start what should run; returns when to try again what cannot yet."""
        policy = pod["spec"]["restartPolicy"]
        due = [time.time() + _NEVER_SECONDS]
        pending = [slot for slot in self._initials.values() if not slot.has_succeeded]
        make_group = partial(self._new_group, pod)
        try:
            if pending:
                # One after the other, each to its success; Always means that for them too.
                initial_policy = "OnFailure" if policy == "Always" else policy
                due.append(await pending[0].advance(pod, initial_policy, make_group))
                if pending[0].has_succeeded:
                    self.poke()
            else:
                due += [await slot.advance(pod, policy, make_group) for slot in self._slots.values()]
                due.append(self._advance_resize())
        except VolumeRefused as refusal:
            self._refused = Verdict("VolumeRefused", str(refusal))
            self._services.recorder.record(pod, "FailedMount", str(refusal), warns=True)
        return min(due)

    def _pod_group(self) -> Group:
        if self._group is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._group = self._services.cgroups.create(self.uid)
            note_group(self._folder, self._group)
        return self._group

    def _new_group(self, pod: Json, container: str, attempt: str) -> tuple[Group, int | None]:
        """A container's cgroup and the limit that it is to have."""
        if container in self._initials:
            self._pod_group()
            initial = next(each for each in pod["spec"]["initContainers"] if each["name"] == container)
            limit_bytes = memory_limit(initial["resources"])
        else:
            limit_bytes = self._resizer.start(pod, container, self._pod_group())
        return self._services.cgroups.create(f"{self.uid}/{container}.{attempt}"), limit_bytes

    def _advance_resize(self) -> float:
        pod = self._pod()
        if pod is None or self._group is None:
            return time.time() + _NEVER_SECONDS
        groups = {name: group for name, group in self.groups().items() if name in self._slots}
        restarting, due_at = self._resizer.advance(pod, self._group, groups)
        for slot in (self._slots[name] for name in restarting):
            if slot.attempt is not None and not slot.restarts_once:
                slot.restarts_once = True
                slot.tell(pod, "Killing", f"Container {slot.name} resize requires restart")
                slot.attempt.signal(signal.SIGTERM)
                grace = float(pod["spec"]["terminationGracePeriodSeconds"])
                asyncio.get_running_loop().call_later(grace, slot.attempt.signal, signal.SIGKILL)
        return due_at

    # -- stopping

    def _deadline_at(self, pod: Json) -> float | None:
        seconds, started = pod["spec"].get("activeDeadlineSeconds"), pod["status"].get("startTime")
        if seconds is None or not started:
            return None
        return datetime.fromisoformat(started).timestamp() + float(seconds)

    def _stop(self, pod: Json) -> _Stop | None:
        """The end that is due: a node's verdict goes before a deletion, the soonest kill before later ones."""
        stops: list[_Stop] = []
        now, metadata = time.time(), pod["metadata"]
        if self._refused is not None:
            stops.append(_Stop(self._refused, now))
        deadline = self._deadline_at(pod)
        grace = float(pod["spec"]["terminationGracePeriodSeconds"])
        if deadline is not None and deadline <= now:
            stops.append(_Stop(_DEADLINE, (self._asked_to_end_at() or now) + grace))
        if "deletionTimestamp" in metadata:
            stops.append(_Stop(None, datetime.fromisoformat(metadata["deletionTimestamp"]).timestamp()))
        if self._shutdown is not None:
            began_at, most_seconds = self._shutdown
            stops.append(_Stop(_SHUTDOWN, began_at + min(grace, most_seconds)))
        if not stops:
            return None
        verdicts = [stop.verdict for stop in stops if stop.verdict is not None]
        return _Stop(verdicts[0] if verdicts else None, min(stop.kill_at for stop in stops))

    def _asked_to_end_at(self) -> float | None:
        """When SIGTERM was sent; a file says so to the next process."""
        try:
            return (self._folder / "asked-to-end").stat().st_mtime
        except FileNotFoundError:
            return None

    def _advance_stop(self, pod: Json, stop: _Stop) -> float:
        running = self._running()
        if running and self._asked_to_end_at() is None:
            for slot in running:
                slot.tell(pod, "Killing", f"Stopping container {slot.name}")
                slot.signal(signal.SIGTERM)
            # Written after the signal: a process killed in between sends it twice, never not at all.
            (self._folder / "asked-to-end").touch()
        if time.time() < stop.kill_at:
            return stop.kill_at
        for slot in running:
            slot.signal(signal.SIGKILL)
        return time.time() + _KILL_AGAIN_SECONDS

    async def _kill_all(self) -> None:
        """The object is gone or final: nothing is left to wait for."""
        while running := self._running():
            for slot in running:
                slot.signal(signal.SIGKILL)
            await asyncio.sleep(0.02)

    def _clean_up(self) -> None:
        """Remove the cgroups and, with the object, the folder: until then logs can be read."""
        for slot in self._all_slots():
            if slot.attempt is not None:
                cgroups.remove(slot.attempt.group.folders)
        if self._group is not None:
            cgroups.remove(self._group.folders)
        if self._pod() is None:
            shutil.rmtree(self._folder, ignore_errors=True)
