"""One slot of a run as an Airflow task: each try launches the pod that the slot's state asks for and judges its end.

The provider's operator does the launching, waiting and log reading. What is ours: the pod comes from `pod_spec` and the
slot's state (never from try_number), a dying pod is waited out, and `cleanup` alone records how a pod ended. A try that
finds the pod of an earlier try goes on with it; one that finds it ended records that end first.
"""

from __future__ import annotations

import time
from typing import Any, Final

from airflow.providers.common.compat.sdk import AirflowException
from airflow.sdk import Context
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException

from tidegate.adapters.configuration import configuration
from tidegate.adapters.kube_pods import quantity_bytes
from tidegate.adapters.pod_spec import GENERATION_ANNOTATION, ROLE_LABEL, SLOT_LABEL, run_selector, worker_pod
from tidegate.adapters.run_store import Attempt, Run, RunState, RunStore
from tidegate.control.runs import Request, assignment, open_store, planned, policy
from tidegate.control.steps import Control, Notes
from tidegate.core.contract import GIB, Plan
from tidegate.core.errors import FixConfig, NeedsHuman, RetryLater
from tidegate.core.slot import DeletePod, End, LaunchRefused, Phase, PodCreated, PodEnded, ResetByHuman, SlotState
from tidegate.core.verdict import PodEvidence, Verdict, judge, memory_trip, struck
from tidegate.failures import PodEndedEarly
from tidegate.operators.pod_facts import evidence, last_words
from tidegate.operators.worker_pod import POLL_SECONDS, WorkerPodOperator

#: High on purpose: the slot's own budgets end it.
RETRIES: Final = 1000
COMMAND: Final = "run"
#: Phases in which Tidegate itself has told the pod to end.
_TOLD: Final = frozenset({Phase.OPEN_DRAINING, Phase.OPEN_DELETING, Phase.LOCKING_DRAINING, Phase.LOCKING_DELETING})


class InferencePodOperator(WorkerPodOperator):
    """Runs slot `slot` of run `run_id` until its job is done, across as many pods as that takes."""

    ui_color = "#cfe8e0"

    def __init__(self, *, slot: int = 0, **kwargs: Any) -> None:
        super().__init__(**{"retries": RETRIES, **kwargs})
        self.slot = slot

    # -- launching -----------------------------------------------------------------------------------------------------

    def execute(self, context: Context) -> Any:
        store = open_store(configuration())
        run, plan = planned(store.run(self.run_id), self.run_id)
        state = self._state(store)
        if state.phase is Phase.DONE:
            self.log.info("slot %s of %s is done: %s", self.slot, self.run_id, state.reason)
            return
        if state.phase is Phase.LOCKED_OUT:
            if not self._is_first_try(context):
                # The try that locked it out did not live to say so.
                raise NeedsHuman(_locked_out(run, state))
            state = self._released(store, run, plan, state)
        if run.state is not RunState.RUNNING:
            # Its report has ended it, and a person cleared it: it takes the job again, or is refused.
            run = store.enter_run(run)
        self.termination_grace_period = int(plan.grace_seconds)
        self.startup_timeout_seconds = int(plan.startup_seconds)
        self.schedule_timeout_seconds = int(plan.startup_seconds)
        self.full_pod_spec = self._composed(store, run, plan, state)
        self.name = self.full_pod_spec.metadata.name
        super().execute(context)

    def _released(self, store: RunStore, run: Run, plan: Plan, state: SlotState) -> SlotState:
        """A lock-out allows no retry, so a first try that finds one was asked for by a person: a Clear is a word."""
        self.log.info("slot %s was locked out and is cleared: going on at %s bytes", self.slot, state.limit_bytes)
        store.enter_run(run)
        cleared = ResetByHuman(generation=state.generation, at=time.time(), by="a Clear in Airflow")
        return self._control(store, run, plan).happened(self.run_id, self.slot, cleared)[0]

    def _is_first_try(self, context: Context) -> bool:
        """Whether Airflow has not retried this task since it was made or last cleared, which raises `max_tries`."""
        ti = context["ti"]
        return bool(ti.try_number == ti.max_tries - (self.retries or 0) + 1)

    def _composed(self, store: RunStore, run: Run, plan: Plan, state: SlotState) -> k8s.V1Pod:
        return worker_pod(
            assignment(run, plan, state, store),
            command=COMMAND,
            limit_bytes=state.limit_bytes,
            configuration=configuration(),
            placement=Request.from_json(run.request).placement(),
        )

    def get_or_create_pod(self, pod_request_obj: k8s.V1Pod, context: Context) -> k8s.V1Pod:
        """The live pod of this slot, or the one in `pod_request_obj`, created once all others are gone."""
        store = open_store(configuration())
        deadline = time.monotonic() + self.startup_timeout_seconds
        while others := self._pods():
            state = self._state(store)
            current = [pod for pod in others if pod.metadata.uid == state.pod_uid]
            if current and not _is_over(current[0]) and current[0].metadata.deletion_timestamp is None:
                self.log.info("going on with pod %s of an earlier try", current[0].metadata.name)
                return current[0]
            for pod in others:
                self._settle(store, pod)
            if self._state(store).generation != int(pod_request_obj.metadata.annotations[GENERATION_ANNOTATION]):
                raise self._next(store, End.INFRASTRUCTURE, "the pod of an earlier try has ended")
            if time.monotonic() > deadline:
                names = ", ".join(pod.metadata.name for pod in others)
                raise RetryLater(f"pods that should be gone are still there: {names}; their node may be lost")
            time.sleep(POLL_SECONDS)
        self._end_what_vanished(store)
        return self._created(store, pod_request_obj)

    def _created(self, store: RunStore, request: k8s.V1Pod) -> k8s.V1Pod:
        run, plan = planned(store.run(self.run_id), self.run_id)
        generation = int(request.metadata.annotations[GENERATION_ANNOTATION])
        try:
            pod = self.client.create_namespaced_pod(request.metadata.namespace, request)
        except ApiException as error:
            if error.status == 409:
                raise RetryLater(f"pod {request.metadata.name} exists already", delay_seconds=2.0) from None
            if error.status in (400, 403, 404, 422):
                reason = f"the API server refused the pod: {_message(error)}"
                self._control(store, run, plan).happened(
                    self.run_id, self.slot, LaunchRefused(generation=generation, at=time.time(), reason=reason)
                )
                raise self._next(store, End.INFRASTRUCTURE, reason) from None
            raise
        created = PodCreated(generation=generation, at=time.time(), pod_uid=pod.metadata.uid)
        attempt = Attempt(
            run_id=self.run_id,
            slot=self.slot,
            generation=generation,
            pod_name=pod.metadata.name,
            pod_uid=pod.metadata.uid,
            limit_bytes=quantity_bytes(pod.spec.containers[0].resources.limits["memory"]),
            created_at=time.time(),
        )
        _, commands = self._control(store, run, plan).happened(self.run_id, self.slot, created, Notes(attempt=attempt))
        if any(isinstance(command, DeletePod) for command in commands):
            # The slot moved on while this try, believed dead, was creating.
            self._delete(pod)
            raise PodEndedEarly(End.INFRASTRUCTURE, f"pod {pod.metadata.name} came too late and was deleted")
        return pod

    def _pods(self) -> list[k8s.V1Pod]:
        """Every pod of this slot, whichever try made it."""
        selector = {**run_selector(self.run_id), ROLE_LABEL: COMMAND, SLOT_LABEL: str(self.slot)}
        labels = ",".join(f"{name}={value}" for name, value in selector.items())
        pods: list[k8s.V1Pod] = self.client.list_namespaced_pod(self.namespace, label_selector=labels).items
        return pods

    def _settle(self, store: RunStore, pod: k8s.V1Pod) -> None:
        """Bring a pod that this try did not make nearer to its end, and record the end once it is there."""
        if _is_over(pod):
            self._record_end(store, pod)
            self._delete(pod)
        elif pod.metadata.deletion_timestamp is None and pod.metadata.uid != self._state(store).pod_uid:
            # A try that was believed dead created it between reading the state and saving it.
            self.log.warning("pod %s belongs to no saved state: deleting it", pod.metadata.name)
            self._delete(pod)

    def _end_what_vanished(self, store: RunStore) -> None:
        """The state names a pod that the cluster no longer knows: nobody saw its end, so it is recorded here."""
        state = self._state(store)
        if state.pod_uid is None:
            return
        attempts = [each for each in store.attempts(self.run_id, self.slot) if each.pod_uid == state.pod_uid]
        name = attempts[-1].pod_name if attempts else state.pod_uid
        self._end(store, PodEvidence(name, exists=False), state.pod_uid, name, None)
        raise self._next(store, End.INFRASTRUCTURE, f"pod {name} vanished")

    # -- ending --------------------------------------------------------------------------------------------------------

    def trigger_reentry(self, context: Context, event: dict[str, Any]) -> Any:
        """As the provider does, but that a pod whose end `cleanup` did not get to see is told of all the same.

        The provider fails where such a pod is gone, and returns as if all were well where it had seen it succeed.
        """
        try:
            super().trigger_reentry(context, event)
        except AirflowException:
            if self.pod is not None:
                raise
        if self.pod is None:
            store = open_store(configuration())
            # Asked anew: an API server that did not answer is no word on its pods.
            if self._state(store).pod_uid not in {pod.metadata.uid for pod in self._pods()}:
                self._end_what_vanished(store)
            raise RetryLater(f"pod {event['name']} could not be read; the next try goes on with it", delay_seconds=2.0)

    def cleanup(
        self,
        pod: k8s.V1Pod,
        remote_pod: k8s.V1Pod,
        xcom_result: dict[str, Any] | None = None,
        context: Context | None = None,
    ) -> None:
        """Record how the pod ended, delete it, and raise what Airflow is to make of it."""
        if remote_pod is None or self._killed:
            return
        store = open_store(configuration())
        verdict = self._record_end(store, remote_pod)
        self._delete(remote_pod)
        if self._state(store).phase is not Phase.DONE:
            raise self._next(store, verdict.end, verdict.detail)

    def _next(self, store: RunStore, end: End, detail: str) -> PodEndedEarly | NeedsHuman:
        """What Airflow is to make of a pod's end, by what the slot's state has made of it."""
        state = self._state(store)
        if state.phase is Phase.LOCKED_OUT:
            run, _ = planned(store.run(self.run_id), self.run_id)
            return NeedsHuman(_locked_out(run, state))
        return PodEndedEarly(end, f"{detail}; next: {state.limit_bytes} bytes. {state.reason}")

    def _record_end(self, store: RunStore, pod: k8s.V1Pod) -> Verdict:
        state = self._state(store)
        told = state.pod_uid == pod.metadata.uid and state.phase in _TOLD
        return self._end(store, evidence(pod, was_told_to_end=told), pod.metadata.uid, pod.metadata.name, pod)

    def _end(self, store: RunStore, seen: PodEvidence, pod_uid: str, name: str, pod: k8s.V1Pod | None) -> Verdict:
        run, plan = planned(store.run(self.run_id), self.run_id)
        state = self._state(store)
        report = last_words(pod) if pod is not None else None
        verdict = judge(seen, report)
        now = time.time()
        attempts = {each.pod_uid: each for each in store.attempts(self.run_id, self.slot)}
        attempt = attempts.get(pod_uid)
        limit = attempt.limit_bytes if attempt else state.limit_bytes
        generation = state.generation
        trip = None
        if verdict.end is End.MEMORY:
            trip = memory_trip(
                report,
                run_id=self.run_id,
                slot=self.slot,
                generation=generation,
                pod_uid=pod_uid,
                # A resize may have raised it since the pod was created.
                limit_bytes=report.limit_bytes if report and report.limit_bytes else max(limit, state.limit_bytes),
                at=now,
            )
        ended = PodEnded(
            generation=generation,
            at=now,
            pod_uid=pod_uid,
            end=verdict.end,
            pod_acked=report.acked if report else 0,
            images_in_flight=len(report.in_flight) + report.in_flight_omitted if report else 0,
            trip=trip,
            detail=verdict.detail,
        )
        closed = Attempt(
            run_id=self.run_id,
            slot=self.slot,
            generation=attempt.generation if attempt else generation,
            pod_name=name,
            pod_uid=pod_uid,
            limit_bytes=limit,
            created_at=attempt.created_at if attempt else now,
            ended_at=now,
            end=verdict.kind,
            exit_code=seen.exit_code,
            reason=verdict.detail,
            node=pod.spec.node_name if pod is not None else attempt.node if attempt else None,
            report=report,
        )
        suspects = struck(report, store.suspects(run.source)) if verdict.makes_suspects else ()
        if state.pod_uid == pod_uid:
            self._control(store, run, plan).happened(
                self.run_id, self.slot, ended, Notes(attempt=closed, struck=suspects)
            )
        self.log.info("%s", verdict.detail)
        return verdict

    def _delete(self, pod: k8s.V1Pod) -> None:
        body = k8s.V1DeleteOptions(preconditions=k8s.V1Preconditions(uid=pod.metadata.uid))
        try:
            self.client.delete_namespaced_pod(pod.metadata.name, pod.metadata.namespace, body=body)
        except ApiException as error:
            if error.status not in (404, 409):
                raise

    def _state(self, store: RunStore) -> SlotState:
        stored = store.slot(self.run_id, self.slot)
        if stored is None:
            raise FixConfig(f"run {self.run_id} has no slot {self.slot}: its task `plan` must end first")
        return stored.state

    @staticmethod
    def _control(store: RunStore, run: Run, plan: Plan) -> Control:
        return Control(store, policy(run, plan, configuration()))


def _is_over(pod: k8s.V1Pod) -> bool:
    return pod.status.phase in ("Succeeded", "Failed")


def _message(error: ApiException) -> str:
    import json

    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return f"{error.status} {error.reason}"


def _locked_out(run: Run, state: SlotState) -> str:
    settings = configuration()
    cap = min(2 * state.cap_bytes, settings.cap_bytes)
    more = (
        f"raise the cap with `tidegate reset {run.run_id} --cap {cap // GIB}Gi`"
        if cap > state.cap_bytes
        else "have the administrator raise TIDEGATE_CAP_BYTES"
    )
    return (
        f"slot {state.slot} of run {run.run_id} is locked out: {state.reason}. Options: {more}; take the suspect images"
        " out of the job; or shrink the work (smaller images, another pipeline) and start a new run with resume_of."
        f" Then Clear the group `inference` with what follows it. Runbook: {settings.docs_url}/runbooks/locked-out.md"
    )
