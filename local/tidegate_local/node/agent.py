"""The node agent: registers the node, places pods on it, gives each a worker, picks up what an earlier agent left."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tidegate_local.node import attempts, cgroups, scheduling, states
from tidegate_local.node.addresses import Addresses
from tidegate_local.node.cgroups import Group
from tidegate_local.node.container_slot import noted_group
from tidegate_local.node.pod_worker import PodWorker
from tidegate_local.node.services import NodeServices
from tidegate_local.node.states import ContainerView, with_transition
from tidegate_local.podapi.discovery import VERSION
from tidegate_local.podapi.kinds import CLAIMS, NODES, PODS
from tidegate_local.podapi.logs import LogFile
from tidegate_local.podapi.pod_rules import is_terminal
from tidegate_local.podapi.refusals import Json
from tidegate_local.podapi.store import Change, timestamp

_log = logging.getLogger(__name__)

#: Creations that come together are placed together.
_SCHEDULING_DELAY_SECONDS: Final = 0.01
_MAX_DELAY_SECONDS: Final = 0.25
_PRUNE_SECONDS: Final = 60.0
_RESTART_WORKER_SECONDS: Final = 2.0
#: Fields of containers that a kubelet acts on and this agent does not.
_IGNORED: Final = ("lifecycle", "livenessProbe", "readinessProbe", "startupProbe")


class Agent:
    """One node in one process."""

    def __init__(self, services: NodeServices) -> None:
        self._services = services
        self._labels = {"kubernetes.io/hostname": services.facts.name, "kubernetes.io/os": "linux"}
        self._addresses = Addresses(services.folders.work)
        self._workers: dict[str, PodWorker] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._loops: list[asyncio.Task[None]] = []
        self._pods_changed = asyncio.Event()
        self._is_stopping = False

    # -- life

    def start(self) -> None:
        """Register the node, pick up what runs, then follow the store."""
        store = self._services.store
        self._register()
        self._remove_orphans()
        for pod in list(store.items(PODS)):
            self._follow(pod)
        store.listen(self._note)
        self._pods_changed.set()
        self._loops = [asyncio.create_task(self._schedule()), asyncio.create_task(self._prune())]

    async def stop(self, grace_seconds: float) -> None:
        """End every pod and leave nothing behind: no process, no cgroup, no mount."""
        self._is_stopping = True
        for loop in self._loops:
            loop.cancel()
        for worker in self._workers.values():
            worker.shut_down(grace_seconds)
        await asyncio.gather(*self._tasks.values(), *self._loops, return_exceptions=True)
        cgroups.remove(self._services.cgroups.base)

    def _register(self) -> None:
        facts, store = self._services.facts, self._services.store
        amounts = {name: f"{value}m" if name == "cpu" else str(value) for name, value in facts.allocatable.items()}
        conditions = [{"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": timestamp()}]
        node: Json = {
            "metadata": {"name": facts.name, "labels": self._labels},
            "spec": {},
            "status": {
                "capacity": amounts,
                "allocatable": amounts,
                "conditions": [with_transition([], condition) for condition in conditions],
                "addresses": [{"type": "InternalIP", "address": facts.address}],
                "nodeInfo": _node_info(),
            },
        }
        for other in list(store.items(NODES)):
            if other["metadata"]["name"] != facts.name:
                store.delete(NODES, "", other["metadata"]["name"])
        known = store.find(NODES, "", facts.name)
        if known is None:
            store.create(NODES, node)
        else:
            store.replace(NODES, {**known, "status": node["status"]})

    def _remove_orphans(self) -> None:
        """End what an earlier process left of pods that are gone or final."""
        services = self._services
        live = {pod["metadata"]["uid"] for pod in services.store.items(PODS) if not is_terminal(pod)}
        known = {pod["metadata"]["uid"] for pod in services.store.items(PODS)}
        for folder in (services.folders.work / "pods").glob("*"):
            if folder.name in live:
                continue
            for noted in (*folder.glob("containers/*/*"), folder):
                if (group := noted_group(noted, services)) is not None:
                    cgroups.remove(group.folders)
            if folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)
        # Groups that a killed process made and had not yet written down.
        for group_folder in (path for base in services.cgroups.base for path in base.glob("*/")):
            if group_folder.name not in live:
                cgroups.remove([*group_folder.glob("*/"), group_folder])
        self._remove_earlier_bases()

    def _remove_earlier_bases(self) -> None:
        """Processes before this one may have lived in other cgroups; what they left is removed once it is empty."""
        note = self._services.folders.work / "cgroup-bases"
        mine = [str(path) for path in self._services.cgroups.base]
        earlier = note.read_text().split("\n") if note.exists() else []
        kept = list(mine)
        for path in filter(None, earlier):
            if path in kept:
                continue
            try:
                Path(path).rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                kept.append(path)
        note.write_text("\n".join(kept))

    async def _prune(self) -> None:
        while True:
            await asyncio.sleep(_PRUNE_SECONDS)
            self._services.recorder.prune()

    # -- workers

    def _note(self, change: Change) -> None:
        """A pod or a claim was written: take note, act later."""
        if change.plural not in (PODS.plural, CLAIMS.plural):
            return
        self._pods_changed.set()
        if change.plural == PODS.plural:
            uid = change.last.item["metadata"]["uid"]
            if worker := self._workers.get(uid):
                worker.poke()
            elif change.after is not None:
                self._follow(change.after.item)
            else:
                shutil.rmtree(self._services.folders.pod(uid), ignore_errors=True)

    def _follow(self, pod: Json) -> None:
        """A worker for a live pod that is placed here."""
        uid = pod["metadata"]["uid"]
        placed = pod["spec"].get("nodeName") == self._services.facts.name and pod["status"].get("startTime")
        if placed and not is_terminal(pod) and uid not in self._tasks and not self._is_stopping:
            self._tasks[uid] = asyncio.create_task(self._work(pod))

    async def _work(self, pod: Json) -> None:
        uid = pod["metadata"]["uid"]
        try:
            while True:
                worker = self._workers[uid] = PodWorker(self._services, pod)
                if self._is_stopping:
                    worker.shut_down(0.0)
                try:
                    await worker.run()
                except Exception:  # noqa: BLE001 - logged, and the pod must not be left alone
                    # A worker finds its containers again: a new one goes on where this one failed.
                    _log.exception("the worker of pod %s failed", "/".join(worker.key))
                    if self._is_stopping:
                        return
                    await asyncio.sleep(_RESTART_WORKER_SECONDS)
                else:
                    return
        finally:
            self._workers.pop(uid, None)
            self._tasks.pop(uid, None)
            self._pods_changed.set()

    def groups(self) -> Iterator[tuple[Json, str, Group]]:
        """Pod, container and cgroup of all that runs."""
        pods = {pod["metadata"]["uid"]: pod for pod in self._services.store.items(PODS)}
        for uid, worker in list(self._workers.items()):
            if uid in pods:
                for name, group in worker.groups().items():
                    yield pods[uid], name, group

    def log_file(self, pod_uid: str, container: str, *, previous: bool) -> LogFile | None:
        return attempts.log_file(self._services.folders.pod(pod_uid) / "containers", container, previous=previous)

    # -- placing

    async def _schedule(self) -> None:
        took_seconds = 0.0
        while True:
            await self._pods_changed.wait()
            # With many waiting, placing must leave most of the time to whoever asks for something.
            await asyncio.sleep(min(_MAX_DELAY_SECONDS, max(_SCHEDULING_DELAY_SECONDS, 10 * took_seconds)))
            self._pods_changed.clear()
            began = time.perf_counter()
            try:
                self._place_waiting()
            except Exception:  # noqa: BLE001 - logged; one pod that cannot be placed must not hold back the rest
                _log.exception("placing pods failed")
            took_seconds = time.perf_counter() - began

    def _place_waiting(self) -> None:
        services = self._services
        facts = services.facts
        pods = [pod for pod in services.store.items(PODS) if not is_terminal(pod)]
        waiting = [
            pod for pod in pods if not pod["status"].get("startTime") and "deletionTimestamp" not in pod["metadata"]
        ]
        used = scheduling.taken((pod for pod in pods if pod["status"].get("startTime")), facts.name)
        addresses = {pod["status"].get("podIP", "") for pod in pods}
        for pod in sorted(waiting, key=lambda each: int(each["metadata"]["resourceVersion"])):
            if pod["spec"].get("nodeName") not in (None, "", facts.name):
                continue
            asked = scheduling.requests(pod)
            short = scheduling.lacking(asked, used, facts.allocatable)
            if short and pod["spec"].get("nodeName"):
                self._reject(pod, short[0])
            elif why := self._obstacle(pod, short):
                self._leave_waiting(pod, why)
            else:
                address = self._addresses.free(addresses)
                addresses.add(address)
                self._bind(pod, address)
                for name, amount in asked.items():
                    used[name] = used.get(name, 0) + amount

    def _obstacle(self, pod: Json, short: list[str]) -> str:
        """Why the pod cannot be placed now; empty where it can."""
        if not scheduling.selects(pod, self._labels):
            return "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
        for volume in pod["spec"].get("volumes") or []:
            claim = (volume.get("persistentVolumeClaim") or {}).get("claimName")
            if claim and self._services.store.find(CLAIMS, pod["metadata"]["namespace"], claim) is None:
                return f'0/1 nodes are available: persistentvolumeclaim "{claim}" not found.'
        return scheduling.unschedulable(short) if short else ""

    def _leave_waiting(self, pod: Json, why: str) -> None:
        was = pod["status"].get("conditions") or []
        if any(each["type"] == "PodScheduled" and each.get("message") == why for each in was):
            return
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why}
        conditions = [with_transition(was, condition)]
        self._services.store.replace(PODS, {**pod, "status": {**pod["status"], "conditions": conditions}})
        self._services.recorder.record(pod, "FailedScheduling", why, warns=True, source="default-scheduler")

    def _reject(self, pod: Json, resource: str) -> None:
        """A pod that names this node is not the scheduler's to hold back: the node refuses it."""
        verdict = {
            "phase": "Failed",
            "reason": f"OutOf{resource}",
            "message": f"Pod was rejected: not enough {resource}",
        }
        self._services.store.replace(PODS, {**pod, "status": {**pod["status"], **verdict}})
        self._services.recorder.record(pod, verdict["reason"], verdict["message"], warns=True)

    def _bind(self, pod: Json, address: str) -> None:
        facts = self._services.facts
        views = [ContainerView(each["name"], each["image"]) for each in pod["spec"]["containers"]]
        was = pod["status"].get("conditions") or []
        status = {
            **pod["status"],
            "conditions": [with_transition(was, {"type": "PodScheduled", "status": "True"})],
            "hostIP": facts.address,
            "hostIPs": [{"ip": facts.address}],
            "podIP": address,
            "podIPs": [{"ip": address}],
            "startTime": timestamp(),
            "containerStatuses": [states.container_status(view) for view in views],
        }
        metadata = pod["metadata"]
        told = f"Successfully assigned {metadata['namespace']}/{metadata['name']} to {facts.name}"
        self._services.recorder.record(pod, "Scheduled", told, source="default-scheduler")
        ignored = sorted({field for each in pod["spec"]["containers"] for field in _IGNORED if field in each})
        if ignored:
            self._services.recorder.record(
                pod, "FieldsIgnored", f"this node does not act on {', '.join(ignored)}", warns=True
            )
        bound = {**pod, "spec": {**pod["spec"], "nodeName": facts.name}, "status": status}
        self._services.store.replace(PODS, bound)


def _node_info() -> Json:
    """The fields that clients insist on."""
    system = os.uname()
    return {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(system.machine, system.machine),
        "bootID": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "containerRuntimeVersion": "tidegate://1",
        "kernelVersion": system.release,
        "kubeProxyVersion": "",
        "kubeletVersion": VERSION,
        "machineID": "",
        "operatingSystem": "linux",
        "osImage": "",
        "systemUUID": "",
    }
