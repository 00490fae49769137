"""The kinds of object that the pod API holds, as one table that routing, discovery and printing read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_ALL_VERBS: Final = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True)
class Kind:
    plural: str
    name: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    #: subresource -> verbs
    subresources: tuple[tuple[str, tuple[str, ...]], ...] = ()
    verbs: tuple[str, ...] = _ALL_VERBS
    #: What DELETE answers: the object, or a Status that says Success.
    deletion_returns_object: bool = False
    #: Spec changes raise metadata.generation.
    has_generation: bool = False

    @property
    def singular(self) -> str:
        return self.name.lower()


_STATUS: Final = ("status", ("get", "patch", "update"))

PODS: Final = Kind(
    "pods", "Pod", short_names=("po",), deletion_returns_object=True, has_generation=True,
    subresources=(_STATUS, ("log", ("get",)), ("resize", ("get", "patch", "update")), ("proxy", ("get",))),
)  # fmt: skip
EVENTS: Final = Kind("events", "Event", short_names=("ev",))
NAMESPACES: Final = Kind("namespaces", "Namespace", namespaced=False, short_names=("ns",))
NODES: Final = Kind("nodes", "Node", namespaced=False, short_names=("no",), subresources=(_STATUS,))
SECRETS: Final = Kind("secrets", "Secret")
CONFIG_MAPS: Final = Kind("configmaps", "ConfigMap", short_names=("cm",))
SERVICE_ACCOUNTS: Final = Kind(
    "serviceaccounts", "ServiceAccount", short_names=("sa",), deletion_returns_object=True
)  # fmt: skip
CLAIMS: Final = Kind(
    "persistentvolumeclaims", "PersistentVolumeClaim", short_names=("pvc",), deletion_returns_object=True
)  # fmt: skip

KINDS: Final = {
    kind.plural: kind
    for kind in (PODS, EVENTS, NAMESPACES, NODES, SECRETS, CONFIG_MAPS, SERVICE_ACCOUNTS, CLAIMS)
}  # fmt: skip
