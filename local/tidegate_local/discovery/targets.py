"""Worker pods as scrape targets: one group a pod, with the meta labels that `kubernetes_sd` would give."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tidegate.core.contract import METRICS_PORT

#: A pod that has no address yet, or whose containers ended, has nothing to scrape.
SCRAPED_PHASES = frozenset({"Running"})


def target_groups(pods: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The `http_sd` answer for `pods`, given as Kubernetes JSON."""
    groups = []
    for pod in pods:
        metadata, status, spec = pod["metadata"], pod.get("status", {}), pod.get("spec", {})
        address = status.get("podIP")
        if status.get("phase") not in SCRAPED_PHASES or not address:
            continue
        groups.append(
            {
                "targets": [f"{_bracketed(address)}:{METRICS_PORT}"],
                "labels": {
                    "__meta_kubernetes_namespace": metadata["namespace"],
                    "__meta_kubernetes_pod_name": metadata["name"],
                    "__meta_kubernetes_pod_uid": metadata["uid"],
                    "__meta_kubernetes_pod_node_name": spec.get("nodeName", ""),
                    # The worker comes first in our pod specs; a sidecar exports nothing of ours.
                    "__meta_kubernetes_pod_container_name": spec["containers"][0]["name"],
                },
            }
        )
    return groups


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
