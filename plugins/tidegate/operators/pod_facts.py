"""From a Kubernetes pod object to the evidence that `core.verdict` judges; reads, never asks."""

from __future__ import annotations

from typing import Any, TypeVar

from kubernetes.client import models as k8s

from tidegate.adapters.kube_pods import WORKER_CONTAINER
from tidegate.core.contract import Payload, ProbeReport, WorkerReport
from tidegate.core.errors import ContractMismatch
from tidegate.core.verdict import NOT_STARTED, PodEvidence

P = TypeVar("P", bound=Payload)


def evidence(pod: k8s.V1Pod, *, was_told_to_end: bool) -> PodEvidence:
    status = pod.status
    container = _container(pod)
    terminated = container.state.terminated if container is not None and container.state else None
    waiting = container.state.waiting if container is not None and container.state else None
    unplaced = _condition(status, "PodScheduled", "False")
    disrupted = _condition(status, "DisruptionTarget", "True")
    return PodEvidence(
        pod_name=pod.metadata.name,
        pod_reason=status.reason or (disrupted.reason if disrupted else None),
        container_reason=terminated.reason if terminated else None,
        waiting_reason=waiting.reason if waiting else unplaced.reason if unplaced else None,
        message=status.message or _first_message(waiting, unplaced, _unstarted(terminated)),
        exit_code=terminated.exit_code if terminated else None,
        was_told_to_end=was_told_to_end,
    )


def last_words(pod: k8s.V1Pod) -> WorkerReport | None:
    """The worker's report in the termination message; None where it wrote none, or somebody else did."""
    return _message(pod, WorkerReport)


def probe_report(pod: k8s.V1Pod) -> ProbeReport | None:
    """A probe's measurements in the termination message; None where it ended before it had any."""
    return _message(pod, ProbeReport)


def _message(pod: k8s.V1Pod, payload: type[P]) -> P | None:
    container = _container(pod)
    terminated = container.state.terminated if container is not None and container.state else None
    if terminated is None or not terminated.message:
        return None
    try:
        return payload.from_json(terminated.message)
    except ContractMismatch:
        return None


def _container(pod: k8s.V1Pod) -> Any:
    for status in pod.status.container_statuses or ():
        if status.name == WORKER_CONTAINER:
            return status
    return None


def _condition(status: Any, kind: str, value: str) -> Any:
    return next((each for each in status.conditions or () if each.type == kind and each.status == value), None)


def _unstarted(terminated: Any) -> Any:
    """The end of a container that never ran: its message is the runtime's, where it is the worker's own otherwise."""
    return terminated if terminated is not None and terminated.reason in NOT_STARTED else None


def _first_message(*tellers: Any) -> str:
    return next((teller.message for teller in tellers if teller is not None and teller.message), "")
