"""Server-side tables: what `kubectl get` prints, one row an object."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final

from tidegate_local.podapi.kinds import Kind
from tidegate_local.podapi.refusals import Json

#: (name, type, priority, cell): a priority above 0 is shown by `-o wide` alone.
_Column = tuple[str, str, int, Callable[[Json], Any]]


def table(kind: Kind, items: Iterable[Json], metadata: Json, *, with_header: bool = True, include: str = "") -> Json:
    """A meta.k8s.io/v1 Table; in a watch only the first carries the header. `include` is the query's includeObject."""
    columns: list[_Column] = [
        ("Name", "string", 0, lambda item: item["metadata"]["name"]),
        *_COLUMNS.get(kind.plural, ()),
        ("Age", "string", 0, _age),
        *_WIDE_COLUMNS.get(kind.plural, ()),
    ]
    if kind.plural == "events":
        columns = list(_EVENT_COLUMNS)
    definitions = [
        {
            "name": name, "type": type_, "format": "name" if name == "Name" else "", "priority": priority,
            "description": name,
        }
        for name, type_, priority, _ in columns
    ]  # fmt: skip
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": definitions if with_header else [],
        "rows": [{"cells": [cell(item) for *_, cell in columns], **_embedded(item, include)} for item in items],
    }


def _embedded(item: Json, include: str) -> Json:
    if include == "None":
        return {}
    if include == "Object":
        return {"object": item}
    partial = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": item["metadata"]}
    return {"object": partial}


def _since(text: str | None) -> str:
    if not text:
        return "<unknown>"
    seconds = int((datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds())
    if seconds < 120:
        return f"{max(0, seconds)}s"
    if seconds < 600:
        return f"{seconds // 60}m{seconds % 60}s" if seconds % 60 else f"{seconds // 60}m"
    if seconds < 3 * 3600:
        return f"{seconds // 60}m"
    return f"{seconds // 3600}h" if seconds < 48 * 3600 else f"{seconds // 86400}d"


def _age(item: Json) -> str:
    return _since(item["metadata"].get("creationTimestamp"))


def _containers(pod: Json) -> list[Json]:
    found: list[Json] = pod.get("status", {}).get("containerStatuses") or []
    return found


def _ready(pod: Json) -> str:
    return f"{sum(bool(each.get('ready')) for each in _containers(pod))}/{len(pod['spec']['containers'])}"


def _reason(pod: Json) -> str:
    """The word in the STATUS column, found as kubectl's printer finds it."""
    status = pod.get("status", {})
    reason = status.get("reason") or status.get("phase", "Unknown")
    for each in reversed(_containers(pod)):
        state = each.get("state", {})
        if state.get("waiting", {}).get("reason"):
            reason = state["waiting"]["reason"]
        elif state.get("terminated", {}).get("reason"):
            reason = state["terminated"]["reason"]
    if pod["metadata"].get("deletionTimestamp"):
        return "Terminating"
    return str(reason)


def _restarts(pod: Json) -> int:
    return sum(int(each.get("restartCount", 0)) for each in _containers(pod))


def _or_none(value: Any) -> str:
    return str(value) if value else "<none>"


def _node_status(node: Json) -> str:
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in node["status"]["conditions"])
    return "Ready" if ready else "NotReady"


_COLUMNS: Final[dict[str, tuple[_Column, ...]]] = {
    "pods": (
        ("Ready", "string", 0, _ready),
        ("Status", "string", 0, _reason),
        ("Restarts", "string", 0, _restarts),
    ),
    "namespaces": (("Status", "string", 0, lambda item: item["status"]["phase"]),),
    "nodes": (
        ("Status", "string", 0, _node_status),
        ("Roles", "string", 0, lambda _: "<none>"),
    ),
    "secrets": (
        ("Type", "string", 0, lambda item: item.get("type", "Opaque")),
        ("Data", "string", 0, lambda item: len(item.get("data") or {})),
    ),
    "configmaps": (
        ("Data", "string", 0, lambda item: len(item.get("data") or {}) + len(item.get("binaryData") or {})),
    ),
    "serviceaccounts": (("Secrets", "string", 0, lambda item: len(item.get("secrets") or [])),),
    "persistentvolumeclaims": (("Status", "string", 0, lambda item: item["status"]["phase"]),),
}
_WIDE_COLUMNS: Final[dict[str, tuple[_Column, ...]]] = {
    "pods": (
        ("IP", "string", 1, lambda pod: _or_none(pod.get("status", {}).get("podIP"))),
        ("Node", "string", 1, lambda pod: _or_none(pod["spec"].get("nodeName"))),
        ("Nominated Node", "string", 1, lambda _: "<none>"),
        ("Readiness Gates", "string", 1, lambda _: "<none>"),
    ),
    "nodes": (("Version", "string", 0, lambda node: node["status"]["nodeInfo"]["kubeletVersion"]),),
}
_EVENT_COLUMNS: Final[tuple[_Column, ...]] = (
    ("Last Seen", "string", 0, lambda event: _since(event.get("lastTimestamp"))),
    ("Type", "string", 0, lambda event: event.get("type", "")),
    ("Reason", "string", 0, lambda event: event.get("reason", "")),
    (
        "Object", "string", 0,
        lambda event: f"{event['involvedObject'].get('kind', '').lower()}/{event['involvedObject'].get('name', '')}",
    ),
    ("Message", "string", 0, lambda event: str(event.get("message", "")).strip()),
    ("Count", "integer", 1, lambda event: event.get("count", 1)),
    ("Name", "string", 1, lambda event: event["metadata"]["name"]),
)  # fmt: skip
