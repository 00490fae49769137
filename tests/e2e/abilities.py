"""What a scenario needs that not every cluster gives, and in what words a cluster is told to lack it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from tidegate_local.stack.cluster import Cluster

_LACKS: Final[Mapping[str, Callable[[Cluster], str | None]]] = {
    "own pod API": lambda cluster: (
        None
        if cluster.is_own
        else "it ends the API server and the node agent, which on a cluster are not the suite's to end"
    ),
    "resize": lambda cluster: None if cluster.resizes else "the cluster has no pods/resize (Kubernetes before 1.33)",
    "volume": lambda cluster: (
        None
        if cluster.has_volumes
        else "the cluster has no default StorageClass, and a manifest's results need a volume"
    ),
    "ledger": lambda cluster: (
        None
        if cluster.is_own or cluster.ledger_url
        else "manifest jobs on a cluster need a PostgreSQL that pods and this machine reach: set LEDGER_URL"
    ),
}


def lacking(cluster: Cluster, needs: tuple[str, ...]) -> str | None:
    """Why a scenario that `needs` these cannot run there, or None where it can."""
    return next((reason for need in needs if (reason := _LACKS[need](cluster))), None)
