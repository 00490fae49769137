"""The breaker's hands on running pods: look, resize, drain, delete, forget; by UID, and safe to repeat.

The operators create pods through Airflow's own provider; all else that touches a pod goes through here.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from aiohttp import ClientError
from kubernetes.utils.quantity import parse_quantity
from kubernetes_asyncio.client import CoreV1Api, V1DeleteOptions, V1Preconditions
from kubernetes_asyncio.client.exceptions import ApiException

from tidegate.core.errors import RetryLater
from tidegate.core.slot import Refusal

log = logging.getLogger(__name__)

REQUEST_SECONDS: Final = 5.0
#: What `container` names in a pod that KubernetesPodOperator made.
WORKER_CONTAINER: Final = "base"
#: The API server or what stands before it is busy, restarting, or renews the token that it knows us by.
_PASSING: Final = frozenset({401, 408, 429, 500, 502, 503, 504})
#: The change itself is refused: no such subresource, no permission, a quota, an admission policy, more than a node has.
_REFUSED: Final = frozenset({400, 403, 404, 405, 422})


class Stage(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class LivePod:
    """What the API server says of one pod, as far as the breaker asks."""

    name: str
    uid: str
    stage: Stage
    #: To the second, rounded down.
    created_at: float
    #: A node has it; pulling its image may still take minutes.
    is_placed: bool
    #: When its grace is over; None for a pod that nobody has deleted.
    leaves_by: float | None
    #: The limit that is in force in the container, as its status says; None where the cluster does not tell.
    actuated_limit_bytes: int | None
    refusal: Refusal | None
    node: str | None = None

    @property
    def is_leaving(self) -> bool:
        return self.leaves_by is not None


class Gone(RetryLater):
    """The pod that a command named is there no more; its end is on its way from the operator."""


class KubePods:
    def __init__(self, api: CoreV1Api, namespace: str) -> None:
        self._api = api
        self._namespace = namespace

    async def live(self, selector: Mapping[str, str]) -> dict[str, LivePod]:
        """The pods with these labels, by UID."""
        labels = ",".join(f"{name}={value}" for name, value in selector.items())
        try:
            listed = await self._call(
                self._api.list_namespaced_pod(self._namespace, label_selector=labels, _request_timeout=REQUEST_SECONDS)
            )
        except ApiException as error:
            raise RetryLater(
                f"the Kubernetes API refuses to list pods in {self._namespace} ({error.status} {error.reason}): allow"
                " `list` on pods to the account of the Airflow connection"
            ) from None
        return {pod.metadata.uid: _live(pod) for pod in listed.items}

    async def resize(self, name: str, uid: str, limit_bytes: int) -> Refusal | None:
        """Ask for a new request and limit in place; a refusal that comes at once, or None where it was taken.

        Whether the kubelet has done it is seen later in `LivePod.actuated_limit_bytes` and `refusal`.
        """
        memory = {"memory": str(limit_bytes)}
        body = {
            "metadata": {"uid": uid},
            "spec": {"containers": [{"name": WORKER_CONTAINER, "resources": {"requests": memory, "limits": memory}}]},
        }
        try:
            await self._call(
                self._api.patch_namespaced_pod_resize(name, self._namespace, body, _request_timeout=REQUEST_SECONDS)
            )
        except ApiException as error:
            await self._refused(error, name, uid)
            return Refusal.INFEASIBLE
        return None

    async def drain(self, name: str, uid: str) -> None:
        """End the pod with SIGTERM and its grace, keeping exit code and last words, which a deletion would lose."""
        body = {"metadata": {"uid": uid}, "spec": {"activeDeadlineSeconds": 1}}
        try:
            await self._call(
                self._api.patch_namespaced_pod(name, self._namespace, body, _request_timeout=REQUEST_SECONDS)
            )
        except ApiException as error:
            await self._refused(error, name, uid)
            await self.delete(name, uid)

    async def delete(self, name: str, uid: str) -> None:
        """Delete the pod with its own grace; one that is gone is a success."""
        await self._delete(name, V1DeleteOptions(preconditions=V1Preconditions(uid=uid)))

    async def forget(self, name: str, uid: str) -> None:
        """Remove the pod from the API server's books unseen: its node will not say any more that it has ended."""
        await self._delete(name, V1DeleteOptions(preconditions=V1Preconditions(uid=uid), grace_period_seconds=0))

    async def _delete(self, name: str, how: V1DeleteOptions) -> None:
        try:
            await self._call(
                self._api.delete_namespaced_pod(name, self._namespace, body=how, _request_timeout=REQUEST_SECONDS)
            )
        except ApiException as error:
            # 409: another pod bears the name now.
            if error.status not in (404, 409):
                raise RetryLater(f"the Kubernetes API refuses to delete pod {name}: {_words(error)}") from None

    async def _refused(self, error: ApiException, name: str, uid: str) -> None:
        """Return if the change of this very pod was refused for good; raise Gone or RetryLater otherwise."""
        if await self._is_gone(name, uid):
            raise Gone(f"pod {name} ({uid}) is gone")
        if error.status not in _REFUSED:
            raise RetryLater(f"the Kubernetes API did not change pod {name}: {_words(error)}")
        log.warning("pod %s was not changed: %s", name, _words(error))

    async def _is_gone(self, name: str, uid: str) -> bool:
        try:
            pod = await self._call(
                self._api.read_namespaced_pod(name, self._namespace, _request_timeout=REQUEST_SECONDS)
            )
        except ApiException as error:
            if error.status == 404:
                return True
            raise RetryLater(f"the Kubernetes API refuses to read pod {name}: {_words(error)}") from None
        return bool(pod.metadata.uid != uid)

    @staticmethod
    async def _call(request: Any) -> Any:
        try:
            return await request
        except ApiException as error:
            if error.status in _PASSING:
                raise RetryLater(f"the Kubernetes API answered {error.status} {error.reason}") from None
            raise
        except (OSError, TimeoutError, ClientError) as error:
            raise RetryLater(f"the Kubernetes API did not answer: {type(error).__name__}") from None


_STAGES: Final[Mapping[str, Stage]] = {"Pending": Stage.PENDING, "Running": Stage.RUNNING, "Unknown": Stage.RUNNING}


def _live(pod: Any) -> LivePod:
    statuses = [each for each in pod.status.container_statuses or () if each.name == WORKER_CONTAINER]
    resources = statuses[0].resources if statuses else None
    limit = (resources.limits or {}).get("memory") if resources else None
    return LivePod(
        name=pod.metadata.name,
        uid=pod.metadata.uid,
        stage=_STAGES.get(pod.status.phase, Stage.ENDED),
        created_at=pod.metadata.creation_timestamp.timestamp(),
        is_placed=pod.spec.node_name is not None,
        # Kubernetes stamps not the request but the end of the grace.
        leaves_by=pod.metadata.deletion_timestamp.timestamp() if pod.metadata.deletion_timestamp else None,
        actuated_limit_bytes=quantity_bytes(limit) if limit is not None else None,
        refusal=_refusal(pod.status.conditions or ()),
        node=pod.spec.node_name,
    )


def _refusal(conditions: Any) -> Refusal | None:
    for condition in conditions:
        if condition.type == "PodResizePending" and condition.status == "True":
            return Refusal.DEFERRED if condition.reason == "Deferred" else Refusal.INFEASIBLE
    return None


def quantity_bytes(quantity: str) -> int:
    """A Kubernetes quantity of memory in bytes."""
    return int(parse_quantity(quantity))


def _words(error: ApiException) -> str:
    """The API server's own message, which says what was wrong."""
    try:
        return str(json.loads(error.body or "")["message"])[:300]
    except (TypeError, ValueError, KeyError):
        return f"{error.status} {error.reason}"
