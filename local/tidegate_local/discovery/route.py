"""Which way a scrape gets to worker pods: straight to their addresses, or through the API server's proxy."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

import kubernetes
import requests
import urllib3

from tidegate.core.contract import METRICS_PORT
from tidegate_local.discovery.targets import METRICS_PATH, authority

PROBE_SECONDS: Final = 1.0
#: What every worker's answer holds: another machine may have a pod's address on this side.
_OURS: Final = "tidegate_"

Pod = Mapping[str, Any]


class Route(StrEnum):
    DIRECT = "direct"
    PROXY = "proxy"


class Routes:
    """The way that is taken for all pods, decided by the first that answers on either and then kept.

    A pod's series would begin anew with each change of its target.
    """

    def __init__(self, probes: Mapping[Route, Callable[[Pod], bool]]) -> None:
        """`probes` say whether a pod answers that way; earlier ones are preferred."""
        self._probes = probes
        self._lock = threading.Lock()
        self._chosen: Route | None = None

    def choose(self, pods: Sequence[Pod]) -> Route | None:
        """The way to all pods; None while none of them has answered."""
        with self._lock:
            if self._chosen is None:
                self._chosen = next(
                    (route for pod in pods for route, answers in self._probes.items() if answers(pod)), None
                )
            return self._chosen


def answers_directly(pod: Pod) -> bool:
    url = f"http://{authority(pod)}{METRICS_PATH}"
    try:
        # No proxy of the environment's: it would reach other addresses than Prometheus does.
        with requests.Session() as session:
            session.trust_env = False
            return _OURS in session.get(url, timeout=PROBE_SECONDS).text
    except requests.RequestException:
        return False


def answers_by_proxy(api: Any, pod: Pod) -> bool:
    metadata = pod["metadata"]
    try:
        answer = api.connect_get_namespaced_pod_proxy_with_path(
            f"{metadata['name']}:{METRICS_PORT}", metadata["namespace"], METRICS_PATH.removeprefix("/"),
            _preload_content=False, _request_timeout=5 * PROBE_SECONDS,
        )  # fmt: skip
    except (kubernetes.client.ApiException, urllib3.exceptions.HTTPError):
        return False
    return _OURS.encode() in answer.data
