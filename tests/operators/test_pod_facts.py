"""What is read off pods as a cluster shows them, and what is made of it."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes.client import ApiClient, models

from tidegate.core.slot import End
from tidegate.core.verdict import judge
from tidegate.operators.pod_facts import evidence, last_words

OVER = {"type": "Ready", "status": "False", "reason": "PodFailed"}


def pod(container: dict[str, Any] | None = None, **status: Any) -> models.V1Pod:
    """A pod of this status, read as the client reads it; `container` is the state of the worker's."""
    states = [{"name": "base", "image": "w", "imageID": "", "ready": False, "restartCount": 0, "state": container}]
    body = {"metadata": {"name": "p"}, "status": {**status, **({"containerStatuses": states} if container else {})}}
    made: models.V1Pod = ApiClient().deserialize(SimpleNamespace(data=json.dumps(body)), "V1Pod")
    return made


def ended(code: int, reason: str, message: str | None = None) -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


def waits(reason: str, message: str) -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


SEEN = [
    (
        "a volume outgrew its limit",
        pod(ended(137, "Error"), phase="Failed", reason="Evicted", message='volume "staging" exceeds the limit "20Gi"'),
        End.INFRASTRUCTURE,
        "exceeds the limit",
    ),
    (
        "the API evicted it",
        pod(
            ended(75, "Error"),
            phase="Failed",
            conditions=[{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}, OVER],
        ),
        End.INFRASTRUCTURE,
        "EvictionByEvictionAPI",
    ),
    (
        "no node has room",
        pod(
            phase="Pending",
            conditions=[
                {
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "Unschedulable",
                    "message": "0/3 nodes are available: 3 Insufficient memory.",
                }
            ],
        ),
        End.INFRASTRUCTURE,
        "3 Insufficient memory",
    ),
    (
        "its image is not there",
        pod(waits("ImagePullBackOff", 'Back-off pulling image "w:2"'), phase="Pending"),
        End.INFRASTRUCTURE,
        'pulling image "w:2"',
    ),
    (
        "a secret is missing",
        pod(waits("CreateContainerConfigError", 'secret "antenna" not found'), phase="Pending"),
        End.CONFIGURATION,
        'secret "antenna" not found',
    ),
    (
        "its command is not there",
        pod(ended(128, "StartError", 'exec: "tidegate-worker": not found'), phase="Failed"),
        End.CONFIGURATION,
        "not found",
    ),
    (
        "its node came back without it",
        pod(ended(137, "ContainerStatusUnknown", "The container could not be located"), phase="Failed"),
        End.INFRASTRUCTURE,
        "ContainerStatusUnknown",
    ),
    ("its memory ran out", pod(ended(137, "OOMKilled"), phase="Failed"), End.MEMORY, "memory limit"),
    (
        "its deadline was set",
        pod(ended(75, "Error", "not the worker's words"), phase="Failed", reason="DeadlineExceeded"),
        End.DRAINED,
        "75",
    ),
]


@pytest.mark.parametrize(("seen", "end", "words"), [row[1:] for row in SEEN], ids=[row[0] for row in SEEN])
def test_a_pod_s_end_is_judged_and_told_in_the_cluster_s_words(seen: models.V1Pod, end: End, words: str) -> None:
    verdict = judge(evidence(seen, was_told_to_end=False), last_words(seen))
    assert verdict.end is end
    assert words in verdict.detail


def test_what_somebody_else_wrote_into_the_termination_log_is_no_report() -> None:
    assert last_words(pod(ended(75, "Error", "killed by a shell"), phase="Failed")) is None
