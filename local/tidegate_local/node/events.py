"""Events: what happened to a pod, in the words of the scheduler and the kubelet; the same one again is counted."""

from __future__ import annotations

import secrets
import time
from typing import Final

from tidegate_local.podapi.kinds import EVENTS, NAMESPACES, PODS
from tidegate_local.podapi.refusals import Json
from tidegate_local.podapi.store import Store, timestamp

_KEPT_SECONDS: Final = 3600.0
_KEPT_EVENTS: Final = 5_000


class Recorder:
    """Writes events to the store and forgets them after an hour, or earlier when there are too many."""

    def __init__(self, store: Store, node: str) -> None:
        self._store = store
        self._node = node
        #: (pod uid, reason, message) -> (namespace, name) of the event, oldest first.
        self._known: dict[tuple[str, str, str], tuple[str, str]] = {}
        for event in sorted(store.items(EVENTS), key=lambda item: str(item.get("firstTimestamp") or "")):
            about = event.get("involvedObject") or {}
            identity = str(about.get("uid", "")), str(event.get("reason", "")), str(event.get("message", ""))
            self._known[identity] = event["metadata"]["namespace"], event["metadata"]["name"]

    def record(
        self, pod: Json, reason: str, message: str, *, container: str = "", warns: bool = False, source: str = "kubelet"
    ) -> None:
        """Write an event, or count the same one again."""
        metadata = pod["metadata"]
        namespace = metadata["namespace"]
        identity = metadata["uid"], reason, message
        if (known := self._known.get(identity)) and (event := self._store.find(EVENTS, *known)):
            again = {**event, "count": int(event.get("count", 1)) + 1, "lastTimestamp": timestamp()}
            self._store.replace(EVENTS, again)
            return
        if self._store.find(NAMESPACES, "", namespace) is None:
            # The namespace, and with it all that could be told, has been deleted.
            return
        about = {
            "kind": PODS.name, "apiVersion": "v1", "namespace": namespace, "name": metadata["name"],
            "uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"],
            **({"fieldPath": f"spec.containers{{{container}}}"} if container else {}),
        }  # fmt: skip
        name = f"{metadata['name'][:230]}.{secrets.token_hex(8)}"
        event = {
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": about,
            "reason": reason,
            "message": message[:1024],
            "type": "Warning" if warns else "Normal",
            "count": 1,
            "firstTimestamp": timestamp(),
            "lastTimestamp": timestamp(),
            "eventTime": None,
            "source": {"component": source, **({"host": self._node} if source == "kubelet" else {})},
            "reportingComponent": source,
            "reportingInstance": self._node if source == "kubelet" else "",
        }
        self._store.create(EVENTS, event)
        self._known[identity] = namespace, name
        if len(self._known) > _KEPT_EVENTS:
            self._forget(next(iter(self._known)))

    def prune(self) -> None:
        """Forget what is older than an hour; call it now and then."""
        oldest = timestamp(time.time() - _KEPT_SECONDS)
        for identity, place in list(self._known.items()):
            event = self._store.find(EVENTS, *place)
            if event is None or str(event.get("lastTimestamp") or "") < oldest:
                self._forget(identity)

    def _forget(self, identity: tuple[str, str, str]) -> None:
        place = self._known.pop(identity)
        if self._store.find(EVENTS, *place) is not None:
            self._store.delete(EVENTS, *place)
