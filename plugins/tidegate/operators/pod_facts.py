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
    return PodEvidence(
        pod_name=pod.metadata.name,
        pod_reason=status.reason or _disruption(status),
        container_reason=terminated.reason if terminated else None,
        waiting_reason=waiting.reason if waiting else _unschedulable(status),
        message=status.message or (waiting.message if waiting else None) or _told(terminated) or "",
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


def _told(terminated: Any) -> str | None:
    """The container runtime's words where it never got to run the worker, whose own they are otherwise."""
    return terminated.message if terminated is not None and terminated.reason in NOT_STARTED else None


def _disruption(status: Any) -> str | None:
    for condition in status.conditions or ():
        if condition.type == "DisruptionTarget" and condition.status == "True":
            return str(condition.reason)
    return None


def _unschedulable(status: Any) -> str | None:
    for condition in status.conditions or ():
        if condition.type == "PodScheduled" and condition.status == "False":
            return str(condition.reason)
    return None
