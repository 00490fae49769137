"""Worker pods as scrape targets: one group a pod, with the meta labels that `kubernetes_sd` would give."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from tidegate.core.contract import METRICS_PORT

#: A pod that has no address yet, or whose containers ended, has nothing to scrape.
SCRAPED_PHASES: Final = frozenset({"Running"})
METRICS_PATH: Final = "/metrics"


def scraped(pods: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of `pods`, given as Kubernetes JSON, that can be scraped."""
    return [
        pod
        for pod in pods
        if pod.get("status", {}).get("phase") in SCRAPED_PHASES and pod.get("status", {}).get("podIP")
    ]


def direct_groups(pods: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The `http_sd` answer for pods whose addresses Prometheus reaches."""
    return [{"targets": [authority(pod)], "labels": _meta_labels(pod)} for pod in scraped(pods)]


def proxied_groups(pods: Iterable[Mapping[str, Any]], server: str) -> list[dict[str, Any]]:
    """The same through the API at `server`, whose proxy reaches every pod."""
    parts = urlsplit(server)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    address = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    groups = []
    for pod in scraped(pods):
        metadata = pod["metadata"]
        way = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}:{METRICS_PORT}/proxy{METRICS_PATH}"
        labels = {"__scheme__": parts.scheme, "__metrics_path__": parts.path.rstrip("/") + way}
        groups.append({"targets": [f"{address}:{port}"], "labels": {**labels, **_meta_labels(pod)}})
    return groups


def authority(pod: Mapping[str, Any]) -> str:
    """Where the worker in a pod serves its metrics."""
    address = pod["status"]["podIP"]
    return f"[{address}]:{METRICS_PORT}" if ":" in address else f"{address}:{METRICS_PORT}"


def _meta_labels(pod: Mapping[str, Any]) -> dict[str, str]:
    metadata, spec = pod["metadata"], pod.get("spec", {})
    return {
        "__meta_kubernetes_namespace": metadata["namespace"],
        "__meta_kubernetes_pod_name": metadata["name"],
        "__meta_kubernetes_pod_uid": metadata["uid"],
        "__meta_kubernetes_pod_node_name": spec.get("nodeName", ""),
        # The worker comes first in our pod specs; a sidecar exports nothing of ours.
        "__meta_kubernetes_pod_container_name": spec["containers"][0]["name"],
    }
