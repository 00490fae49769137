"""A running stack as a scenario uses it: makes jobs, starts runs, waits for them, says what became of every image."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import kubernetes
import pytest

from tidegate.adapters.configuration import Configuration
from tidegate.adapters.kube_pods import quantity_bytes
from tidegate.adapters.pod_spec import pod_prefix
from tidegate.adapters.run_store import Attempt, Run, RunStore, StoredTrip
from tidegate.control.runs import planned, policy
from tidegate.control.steps import Control
from tidegate.core.contract import MIB
from tidegate.core.errors import RetryLater
from tidegate.core.slot import ResetByHuman, SlotState
from tidegate_local.demo.airflow import DAG, OVER, Airflow
from tidegate_local.demo.registration import register
from tidegate_local.jobserver.control import JobTruth
from tidegate_local.stack.airflow_config import DEMO_PIPELINES, RESULTS_CLAIM
from tidegate_local.stack.layout import port_is_free
from tidegate_local.stack.session import Session

#: What a killed pod held is handed out again after this long; the usual 300 s would be waited for in every scenario.
LEASE_SECONDS: Final = 60.0
#: Long: a busy machine is slow, and a run that hangs is told from a slow one by its state, not by a stopwatch.
RUN_SECONDS: Final = 900.0


@dataclass(frozen=True, slots=True)
class Case:
    """One run: the job, and the fields of the form."""

    pipeline: str
    kind: str = "tiny"
    images: int = 60
    params: Mapping[str, Any] = field(default_factory=dict)
    #: Further options of the job server's `create_job`.
    job: Mapping[str, Any] = field(default_factory=dict)
    is_manifest: bool = False


@dataclass(frozen=True, slots=True)
class Begun:
    case: Case
    dag_run: str
    #: None for a manifest.
    job: int | None
    source: str

    @property
    def run_id(self) -> str:
        return f"{DAG}/{self.dag_run}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one run."""

    begun: Begun
    state: str
    run: Run
    summary: dict[str, Any]
    slots: list[SlotState]
    trips: list[StoredTrip]
    attempts: list[Attempt]
    truth: JobTruth | None

    def assert_whole(self) -> None:
        """Every image was answered, saved and counted once, and the run says so."""
        assert self.state == "success", self
        self.assert_each_done_once()
        assert self.truth is not None
        assert self.truth.status == "SUCCESS"

    def assert_each_done_once(self, *, but: str | None = None) -> None:
        """Every image was saved and counted once, but for the one that is meant to fail; none is lost.

        An answer goes out again as it was for another delivery of its image, and where a killed worker did not live to
        note that it was accepted; it is counted once.
        """
        assert self.truth is not None
        assert [
            image
            for image in self.truth.images
            if image.image_id != but and (image.answers - image.repeated != 1 or image.errors or not image.saved)
        ] == []
        assert self.truth.totals["lost"] == 0

    def assert_redone_at_most(self, images: int) -> None:
        """No more was computed twice than was in flight when a pod ended."""
        assert self.summary["images_redone"] <= images, self.summary


class Stack:
    def __init__(self, session: Session) -> None:
        self.session = session
        self.doors = session.doors()
        self.jobs = self.doors.jobs
        self.airflow = Airflow(self.doors)
        self.store = RunStore.open(self.doors.store_url)
        self.namespace = session.cluster.namespace
        self.pods = session.cluster.core
        register(self.jobs, "tidegate_demo", *DEMO_PIPELINES)
        # Every stack has images 1 to 60 to make jobs of; this job itself is never begun.
        self.jobs.create_job("tiny", 60, None, start=False)

    # -- beginning -----------------------------------------------------------------------------------------------------

    def begin(self, case: Case) -> Begun:
        job, source = None, ""
        if case.is_manifest:
            made = self.jobs.create_manifest(f"e2e-{time.time_ns()}", case.kind, case.images)
            source = self.doors.as_pods_see(made["csv"])
        else:
            options = {"lease_seconds": LEASE_SECONDS, **case.job}
            job = self.jobs.create_job(case.kind, case.images, case.pipeline, **options)
            source = str(job)
        return self.again(Begun(case, "", job, source))

    def again(self, begun: Begun, **params: Any) -> Begun:
        """Another run of the same job."""
        asked = {"source": begun.source, "pipeline": begun.case.pipeline, "cap_gib": 2, **begun.case.params, **params}
        return Begun(begun.case, self.airflow.trigger(asked), begun.job, begun.source)

    # -- looking -------------------------------------------------------------------------------------------------------

    def slot(self, begun: Begun, slot: int = 0) -> SlotState | None:
        stored = self.store.slot(begun.run_id, slot)
        return stored.state if stored else None

    def phase(self, begun: Begun, slot: int = 0) -> str:
        state = self.slot(begun, slot)
        return state.phase.value if state else ""

    def answered(self, begun: Begun) -> int:
        assert begun.job is not None
        return self.jobs.truth(begun.job).totals["answered"]

    def pod(self, begun: Begun, slot: int = 0) -> Any | None:
        """The slot's live pod."""
        name = f"{pod_prefix(begun.run_id)}run-{slot}"
        for pod in self.pods.list_namespaced_pod(self.namespace).items:
            if pod.metadata.name == name and pod.status.phase in ("Pending", "Running"):
                return pod
        return None

    def words(self, begun: Begun) -> str:
        """What the run is doing, for the message of a failed wait."""
        tasks = [(task["task_id"], task["state"], task["try_number"]) for task in self.airflow.tasks(begun.dag_run)]
        slots = [(slot.state.phase.value, slot.state.reason) for slot in self.store.slots(begun.run_id)]
        totals = dict(self.jobs.truth(begun.job).totals) if begun.job is not None else {}
        return f"{begun.dag_run}: {tasks} {slots} {totals}"

    # -- waiting -------------------------------------------------------------------------------------------------------

    def wait(self, begun: Begun, until: Callable[[], Any], seconds: float = RUN_SECONDS) -> None:
        """Return once `until` holds; fail with what the run is doing otherwise."""
        deadline = time.monotonic() + seconds
        while not _held(until):
            if time.monotonic() > deadline:
                pytest.fail(f"it did not get there in {seconds:.0f} s: {self.words(begun)}")
            time.sleep(0.5)

    def wait_until_working(self, begun: Begun, images: int = 1) -> None:
        """Return once the first pod of the slot has answered something."""
        self.wait(begun, lambda: self.phase(begun) == "closed" and self.pod(begun) and self.answered(begun) >= images)

    def finish(self, begun: Begun, seconds: float = RUN_SECONDS) -> Outcome:
        self.wait(begun, lambda: self.airflow.state(begun.dag_run) in OVER, seconds)
        run = self.store.run(begun.run_id)
        assert run is not None, self.words(begun)
        return Outcome(
            begun=begun,
            state=self.airflow.state(begun.dag_run),
            run=run,
            summary=json.loads(run.summary or "{}"),
            slots=[stored.state for stored in self.store.slots(begun.run_id)],
            trips=self.store.trips(begun.run_id),
            attempts=self.store.attempts(begun.run_id),
            truth=self.jobs.truth(begun.job) if begun.job is not None else None,
        )

    def results(self, outcome: Outcome) -> dict[str, str]:
        """The files that a manifest job left in the results volume, by name; read by a pod, as anybody would."""
        program = f"""
            import json, pathlib
            (job,) = pathlib.Path("/results").glob({outcome.run.source.job + "*"!r})
            files = [file for file in job.rglob("*") if file.is_file()]
            print(json.dumps({{str(file.relative_to(job)): file.read_text() for file in files}}))
        """
        name = f"reader-{time.time_ns()}"
        container = {
            "name": "reader",
            "image": self.session.cluster.image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["python3", "-c", textwrap.dedent(program)],
            "volumeMounts": [{"name": "results", "mountPath": "/results"}],
            "resources": {"requests": {"memory": "64Mi"}},
        }
        volume = {"name": "results", "persistentVolumeClaim": {"claimName": RESULTS_CLAIM}}
        spec = {
            "restartPolicy": "Never",
            "containers": [container],
            "volumes": [volume],
            "securityContext": {"runAsUser": Configuration().uid, "fsGroup": Configuration().uid},
        }
        self.pods.create_namespaced_pod(self.namespace, {"metadata": {"name": name}, "spec": spec})
        over = lambda: self.pods.read_namespaced_pod(name, self.namespace).status.phase in ("Succeeded", "Failed")  # noqa: E731
        self.wait(outcome.begun, over, seconds=120)
        log = self.pods.read_namespaced_pod_log(name, self.namespace, _preload_content=False).data.decode()
        self.pods.delete_namespaced_pod(name, self.namespace)
        files: dict[str, str] = json.loads(log)
        return files

    # -- breaking ------------------------------------------------------------------------------------------------------

    def kill(self, *services: str) -> None:
        """End services as a power failure would; `heal` brings them back."""
        self.session.supervisor.kill(*services)

    def heal(self) -> None:
        self.session.supervisor.up()

    @contextmanager
    def crowded_node(self, free_mib: int) -> Iterator[None]:
        """Pods that ask for all memory of each node but this much beside what runs now, and use none."""
        names = []
        try:
            for place, (node, free) in enumerate(self._free_bytes().items()):
                if free > free_mib * MIB:
                    self._sit_on(f"crowd-{place}", node, free - free_mib * MIB)
                    names.append(f"crowd-{place}")
            yield
        finally:
            for name in names:
                self.pods.delete_namespaced_pod(name, self.namespace, grace_period_seconds=0)

    def _free_bytes(self) -> dict[str, int]:
        """What the pods of all namespaces leave of each node's memory to ask for."""
        nodes = self.pods.list_node().items
        free = {node.metadata.name: quantity_bytes(node.status.allocatable["memory"]) for node in nodes}
        for pod in self.pods.list_pod_for_all_namespaces().items:
            if pod.spec.node_name in free and pod.status.phase in ("Pending", "Running"):
                for container in pod.spec.containers:
                    asked = (container.resources.requests or {}) if container.resources else {}
                    free[pod.spec.node_name] -= quantity_bytes(asked.get("memory", "0"))
        return free

    def _sit_on(self, name: str, node: str, request_bytes: int) -> None:
        container = {
            "name": "crowd",
            "image": self.session.cluster.image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["sleep", "3600"],
            "resources": {"requests": {"memory": str(request_bytes)}},
        }
        # On the node by name: what it asks for is taken at once, not when a scheduler gets to it.
        spec = {"restartPolicy": "Never", "nodeName": node, "containers": [container]}
        self.pods.create_namespaced_pod(self.namespace, {"metadata": {"name": name}, "spec": spec})

    def reset(self, begun: Begun, cap_bytes: int) -> None:
        """What a person does who has looked at a locked-out slot."""
        run, plan = planned(self.store.run(begun.run_id), begun.run_id)
        state = self.slot(begun)
        assert state is not None
        control = Control(self.store, policy(run, plan, Configuration()))
        now = time.time()
        control.happened(
            begun.run_id,
            state.slot,
            ResetByHuman(generation=state.generation, at=now, by="a test", cap_bytes=cap_bytes),
        )


def left_behind(session: Session) -> list[str]:
    """What a stack that was ended still holds of the machine; empty where `down` did its work."""
    home = str(session.layout.home)
    processes = [f"process {row.name}" for row in session.supervisor.status() if row.pid]
    ports = [f"port {name}" for name, port in session.ports.items() if not port_is_free(port)]
    mounts = [f"mount {line.split()[1]}" for line in Path("/proc/mounts").read_text().splitlines() if home in line]
    bases = session.layout.podapi / "cgroup-bases"
    groups = [
        f"cgroup {base}"
        for base in (bases.read_text().splitlines() if session.cluster.is_own else ())
        if Path(base).is_dir() and any(each.is_dir() for each in Path(base).iterdir())
    ]
    return processes + ports + mounts + groups


def _held(until: Callable[[], Any]) -> bool:
    try:
        return bool(until())
    except (RetryLater, kubernetes.client.exceptions.ApiException, OSError):
        # A scenario may have ended the very server that is asked.
        return False
