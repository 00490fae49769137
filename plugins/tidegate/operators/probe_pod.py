"""The probe as an Airflow task: one pod that measures the job's own images, answers what it leased, and reports.

A probe is an attempt to know, not a condition: one that dies of memory is repeated with twice as much up to the cap,
one that an image crashed suspects that image, and where it cannot be had at all the plan is a safe default. Five
healthy baselines make it unnecessary.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any, Final

from airflow.providers.common.compat.sdk import AirflowException
from airflow.sdk import Context
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException

from tidegate.adapters.configuration import configuration
from tidegate.adapters.pod_spec import worker_pod
from tidegate.adapters.run_store import Run, RunStore
from tidegate.control.opening import baseline_key
from tidegate.control.runs import Request, most_suspect, open_store
from tidegate.control.watch import LOST_NODE_SECONDS
from tidegate.core.contract import GIB, MIB, Assignment, IngestSettings
from tidegate.core.errors import FixConfig
from tidegate.core.slot import End
from tidegate.core.verdict import judge, struck
from tidegate.failures import PodEndedEarly
from tidegate.operators.pod_facts import evidence, last_words, probe_report
from tidegate.operators.worker_pod import POLL_SECONDS, WorkerPodOperator

FIRST_LIMIT_BYTES: Final = 2 * GIB
#: One image at a time, whatever its size: the probe is there to learn sizes, not to be quick.
PROBE_INGEST: Final = IngestSettings(
    budget_bytes=512 * MIB,
    micro_batch_images=1,
    downloads_in_flight=2,
    staged_images=4,
    staging_bytes=512 * MIB,
    decode_threads=1,
    lease_images=4,
)
GRACE_SECONDS: Final = 60.0
STARTUP_SECONDS: Final = 600
RETRIES: Final = 4
#: Placing, pulling, loading and half a minute of images take less; a pod of a lost node looks as if it ran for ever.
LONGEST: Final = timedelta(minutes=45)


class ProbePodOperator(WorkerPodOperator):
    """Measures run `run_id` before it is planned."""

    ui_color = "#e4e0f2"

    def __init__(self, *, run_id: str, **kwargs: Any) -> None:
        chosen = {
            "startup_timeout_seconds": STARTUP_SECONDS,
            "execution_timeout": LONGEST,
            "retries": RETRIES,
        }
        super().__init__(run_id=run_id, **{**chosen, **kwargs})
        self._is_given_up = False

    def execute(self, context: Context) -> Any:
        store = open_store(configuration())
        run = self._run(store)
        if run.plan is not None or store.probe_report(self.run_id) is not None:
            self.log.info("run %s was probed before", self.run_id)
            return
        baseline = store.baseline(baseline_key(run))
        if baseline is not None and baseline.settled(time.time()):
            self.log.info("%s healthy runs stand in for a probe", baseline.healthy_runs)
            return
        limit = store.probe_limit(self.run_id) or self._first_limit(run)
        self.full_pod_spec = self._composed(store, run, limit)
        self.name = self.full_pod_spec.metadata.name
        super().execute(context)

    def _composed(self, store: RunStore, run: Run, limit_bytes: int) -> k8s.V1Pod:
        request = Request.from_json(run.request)
        assignment = Assignment(
            run_id=run.run_id,
            slot=0,
            slots=run.slots,
            generation=0,
            source=run.source,
            pipeline=run.pipeline,
            model_version=run.model_version,
            cap_bytes=self._cap(run),
            ingest=PROBE_INGEST,
            grace_seconds=GRACE_SECONDS,
            suspects=most_suspect(store.suspects(run.source)),
        )
        return worker_pod(
            assignment,
            command="probe",
            limit_bytes=limit_bytes,
            configuration=configuration(),
            placement=request.placement(),
        )

    def get_or_create_pod(self, pod_request_obj: k8s.V1Pod, context: Context) -> k8s.V1Pod:
        """The probe's pod; one of an earlier try is taken over, or waited out where it is leaving."""
        name, namespace = pod_request_obj.metadata.name, pod_request_obj.metadata.namespace
        deadline = time.monotonic() + STARTUP_SECONDS
        while True:
            try:
                return self.client.create_namespaced_pod(namespace, pod_request_obj)
            except ApiException as error:
                if error.status != 409:
                    raise
            try:
                pod = self.client.read_namespaced_pod(name, namespace)
            except ApiException as error:
                if error.status != 404:
                    raise
                continue
            leaves_by = pod.metadata.deletion_timestamp
            if leaves_by is None:
                return pod
            if time.time() > leaves_by.timestamp() + LOST_NODE_SECONDS:
                self.log.warning("pod %s should be gone: its node is lost, and it is struck from the books", name)
                self._forget(pod)
            elif time.monotonic() > deadline:
                raise PodEndedEarly(End.INFRASTRUCTURE, f"pod {name} is leaving, and has not left yet")
            time.sleep(POLL_SECONDS)

    def _forget(self, pod: k8s.V1Pod) -> None:
        body = k8s.V1DeleteOptions(grace_period_seconds=0, preconditions=k8s.V1Preconditions(uid=pod.metadata.uid))
        try:
            self.client.delete_namespaced_pod(pod.metadata.name, pod.metadata.namespace, body=body)
        except ApiException as error:
            if error.status not in (404, 409):
                raise

    def trigger_reentry(self, context: Context, event: dict[str, Any]) -> Any:
        try:
            return super().trigger_reentry(context, event)
        except AirflowException:
            # The provider's word on a pod that failed; `cleanup` has judged it.
            if not self._is_given_up:
                raise

    def _do_without(self, reason: str) -> None:
        self.log.warning("%s: the plan will be the safe default", reason)
        self._is_given_up = True

    def cleanup(
        self,
        pod: k8s.V1Pod,
        remote_pod: k8s.V1Pod,
        xcom_result: dict[str, Any] | None = None,
        context: Context | None = None,
    ) -> None:
        if remote_pod is None or self._killed:
            return
        store = open_store(configuration())
        report = probe_report(remote_pod)
        if report is not None:
            store.save_probe_report(self.run_id, report)
        self.process_pod_deletion(remote_pod, reraise=False)
        if report is not None:
            self.log.info("measured %s images: %s", report.images_measured, report.to_json())
            return
        words = last_words(remote_pod)
        verdict = judge(evidence(remote_pod, was_told_to_end=False), words)
        if verdict.end is End.CONFIGURATION:
            raise FixConfig(verdict.detail)
        run = self._run(store)
        if verdict.end is End.CRASHED and verdict.makes_suspects:
            # Not at a memory kill: the next probe has twice as much, and an image is no poison for being large.
            store.strike(run.run_id, remote_pod.metadata.uid, struck(words, store.suspects(run.source)))
        if verdict.end is End.MEMORY:
            before = store.probe_limit(self.run_id) or self._first_limit(run)
            if before >= self._cap(run):
                self._do_without("the probe dies of memory at the cap")
                return
            store.save_probe_limit(self.run_id, min(2 * before, self._cap(run)))
        if context is not None and context["ti"].try_number > context["ti"].max_tries:
            self._do_without(verdict.detail)
            return
        raise PodEndedEarly(verdict.end, verdict.detail)

    def _run(self, store: RunStore) -> Run:
        run = store.run(self.run_id)
        if run is None:
            raise FixConfig(f"there is no run {self.run_id}: its task `resolve` must end first")
        return run

    @staticmethod
    def _cap(run: Run) -> int:
        return Request.from_json(run.request).cap_bytes or configuration().cap_bytes

    def _first_limit(self, run: Run) -> int:
        return min(FIRST_LIMIT_BYTES, self._cap(run))
