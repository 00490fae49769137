"""Label and field selectors: text to a predicate on objects, with the API server's grammar and refusals."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from tidegate_local.podapi.refusals import Json, bad_request

Predicate = Callable[[Json], bool]
LabelTest = Callable[[Mapping[str, str]], bool]

_KEY: Final = r"(?:[a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
_VALUE: Final = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
_EXISTS: Final = re.compile(rf"(?P<absent>!?)\s*(?P<key>{_KEY})")
_EQUALS: Final = re.compile(rf"(?P<key>{_KEY})\s*(?P<operator>==|=|!=)\s*(?P<value>{_VALUE})")
_IN: Final = re.compile(rf"(?P<key>{_KEY})\s+(?P<operator>in|notin)\s*\((?P<values>[^()]*)\)")
_COMPARE: Final = re.compile(rf"(?P<key>{_KEY})\s*(?P<operator>[<>])\s*(?P<value>-?\d{{1,18}})")

#: What each kind may be selected by, beside metadata.name and metadata.namespace.
_FIELDS: Final[dict[str, frozenset[str]]] = {
    "pods": frozenset({
        "spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
        "status.phase", "status.podIP", "status.nominatedNodeName",
    }),
    "events": frozenset({
        "involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
        "involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath", "reason",
        "reportingComponent", "source", "type",
    }),
    "secrets": frozenset({"type"}),
    "namespaces": frozenset({"status.phase"}),
    "nodes": frozenset({"spec.unschedulable"}),
}  # fmt: skip


def selector(plural: str, labels: str, fields: str) -> Predicate | None:
    """A predicate that holds where both selectors hold; None where both are empty."""
    label_tests = [_label_test(part) for part in _split(labels)]
    field_tests = [_field_test(plural, part) for part in fields.split(",") if part]
    if not label_tests and not field_tests:
        return None

    def holds(item: Json) -> bool:
        carried = item["metadata"].get("labels") or {}
        return all(test(carried) for test in label_tests) and all(test(item) for test in field_tests)

    return holds


def _split(labels: str) -> list[str]:
    parts = re.split(r",(?![^()]*\))", labels) if labels.strip() else []
    return [part.strip() for part in parts]


def _label_test(part: str) -> LabelTest:
    if match := _IN.fullmatch(part):
        key, wanted = match["key"], {value.strip() for value in match["values"].split(",")}
        if match["operator"] == "in":
            return lambda labels: key in labels and labels[key] in wanted
        return lambda labels: labels.get(key) not in wanted
    if match := _EQUALS.fullmatch(part):
        key, value = match["key"], match["value"]
        if match["operator"] == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if match := _COMPARE.fullmatch(part):
        return _comparison(match["key"], match["operator"], int(match["value"]))
    if match := _EXISTS.fullmatch(part):
        key, absent = match["key"], bool(match["absent"])
        return lambda labels: (key not in labels) is absent
    raise bad_request(f"unable to parse requirement: {part!r} is not a label selector")


def _comparison(key: str, operator: str, bound: int) -> LabelTest:
    def holds(labels: Mapping[str, str]) -> bool:
        try:
            value = int(labels.get(key, ""))
        except ValueError:
            return False
        return value > bound if operator == ">" else value < bound

    return holds


def _field_test(plural: str, part: str) -> Predicate:
    match = re.fullmatch(r"\s*([A-Za-z.]+)\s*(==|!=|=)(.*)", part, re.DOTALL)
    if match is None:
        raise bad_request(f"invalid field selector: {part!r}")
    field, operator, value = match[1], match[2], match[3]
    if field not in {"metadata.name", "metadata.namespace"} and field not in _FIELDS.get(plural, frozenset()):
        raise bad_request(f"field label not supported: {field}")
    path = "source.component" if (plural, field) == ("events", "source") else field
    wanted = operator != "!="
    return lambda item: (_text_at(item, path.split(".")) == value) is wanted


def _text_at(item: Json, path: list[str]) -> str:
    value: Any = item
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "false" if path[-1] in {"hostNetwork", "unschedulable"} else ""
    return str(value)
