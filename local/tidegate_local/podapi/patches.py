"""The three patch dialects of the Kubernetes API, each from (object, patch) to a new object; no server-side apply.

| content type                             | what it is                                                        |
|------------------------------------------|-------------------------------------------------------------------|
| application/merge-patch+json             | RFC 7386: null removes, lists are replaced                        |
| application/json-patch+json              | RFC 6902: a list of operations                                    |
| application/strategic-merge-patch+json   | lists of objects merge by a key that depends on the path          |
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Final

from tidegate_local.podapi.refusals import Json, Refusal, bad_request, unsupported_media_type

#: Lists that merge by key, by the path of field names that leads to them (list indices left out).
#: A name that stands for several paths (env in every kind of container) is listed by its last two steps.
_MERGE_KEYS: Final = {
    "spec.containers": "name",
    "spec.initContainers": "name",
    "spec.ephemeralContainers": "name",
    "spec.volumes": "name",
    "spec.imagePullSecrets": "name",
    "spec.hostAliases": "ip",
    "spec.topologySpreadConstraints": "topologyKey",
    "spec.schedulingGates": "name",
    "spec.resourceClaims": "name",
    "containers.env": "name",
    "initContainers.env": "name",
    "containers.ports": "containerPort",
    "initContainers.ports": "containerPort",
    "containers.volumeMounts": "mountPath",
    "initContainers.volumeMounts": "mountPath",
    "containers.volumeDevices": "devicePath",
    "initContainers.volumeDevices": "devicePath",
    "metadata.ownerReferences": "uid",
    "status.conditions": "type",
    "status.podIPs": "ip",
    "status.addresses": "type",
    "secrets": "name",
}
#: Lists of plain values that merge as sets.
_SETS: Final = frozenset({"metadata.finalizers"})
_MAX_OPERATIONS: Final = 10_000


def patched(current: Json, patch: Any, content_type: str) -> Json:
    """`current` with `patch` applied; neither is changed."""
    dialect = _DIALECTS.get(content_type)
    if dialect is None:
        raise unsupported_media_type(content_type)
    result = dialect(copy.deepcopy(current), copy.deepcopy(patch))
    if not isinstance(result, dict) or not isinstance(result.get("metadata"), dict):
        raise bad_request("the patch leaves no object with metadata")
    return result


def _merge(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    merged = target if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merge(merged.get(name), value)
    return merged


def _strategic(target: Any, patch: Any, path: tuple[str, ...] = ()) -> Any:
    if not isinstance(patch, dict):
        if path == ():
            raise bad_request("a strategic merge patch must be an object")
        return patch
    directive = patch.pop("$patch", "merge")
    if directive == "replace":
        return patch
    if directive == "delete":
        return None
    merged = target if isinstance(target, dict) else {}
    kept = patch.pop("$retainKeys", None)
    if isinstance(kept, list):
        merged = {name: value for name, value in merged.items() if name in kept}
    orders = {name: patch.pop(name) for name in list(patch) if name.startswith("$setElementOrder/")}
    removals = {name: patch.pop(name) for name in list(patch) if name.startswith("$deleteFromPrimitiveList/")}
    for name, values in removals.items():
        field = name.partition("/")[2]
        merged[field] = [value for value in merged.get(field) or [] if value not in values]
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, list):
            merged[name] = _strategic_list(merged.get(name), value, (*path, name))
        else:
            merged[name] = _strategic(merged.get(name), value, (*path, name))
    for name, order in orders.items():
        _reorder(merged, name.partition("/")[2], order, path)
    return merged


def _merge_key(path: tuple[str, ...]) -> str:
    return _MERGE_KEYS.get(".".join(path)) or _MERGE_KEYS.get(".".join(path[-2:])) or ""


def _strategic_list(target: Any, patch: list[Any], path: tuple[str, ...]) -> list[Any]:
    existing: list[Any] = target if isinstance(target, list) else []
    if ".".join(path) in _SETS:
        return existing + [value for value in patch if value not in existing]
    key = _merge_key(path)
    replaces = any(isinstance(item, dict) and item.get("$patch") == "replace" for item in patch)
    if not key or replaces or not all(isinstance(item, dict) for item in patch):
        return [item for item in patch if not (isinstance(item, dict) and "$patch" in item)]
    merged = list(existing)
    for item in patch:
        if key not in item:
            raise bad_request(f"map: {item} does not contain declared merge key: {key}")
        place = next((at for at, other in enumerate(merged) if other.get(key) == item[key]), None)
        deletes = item.get("$patch") == "delete"
        if place is None:
            if not deletes:
                merged.append(_strategic({}, item, path))
        elif deletes:
            merged.pop(place)
        else:
            merged[place] = _strategic(merged[place], item, path)
    return merged


def _reorder(merged: Json, field: str, order: Any, path: tuple[str, ...]) -> None:
    items, key = merged.get(field), _merge_key((*path, field))
    if not isinstance(items, list) or not isinstance(order, list):
        return
    wanted = [entry.get(key) if isinstance(entry, dict) else entry for entry in order]

    def rank(item: Any) -> int:
        identity = item.get(key) if isinstance(item, dict) else item
        return wanted.index(identity) if identity in wanted else len(wanted)

    items.sort(key=rank)


def _json_patch(target: Any, operations: Any) -> Any:
    if not isinstance(operations, list) or not all(isinstance(operation, dict) for operation in operations):
        raise bad_request("a JSON patch must be a list of operations")
    if len(operations) > _MAX_OPERATIONS:
        raise Refusal(413, "RequestEntityTooLarge", f"a JSON patch may hold {_MAX_OPERATIONS} operations")
    document = {"": target}
    for operation in operations:
        try:
            _operate(document, operation)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            problem = f"the server rejected our request due to an error in our request: {operation.get('op')} "
            raise Refusal(422, "Invalid", f"{problem}{operation.get('path')}: {error}") from None
    return document.get("")


def _operate(document: Json, operation: Json) -> None:
    name, path = operation["op"], operation["path"]
    if name in {"add", "replace"}:
        _put(document, path, copy.deepcopy(operation["value"]), replace=name == "replace")
    elif name == "remove":
        _take(document, path)
    elif name == "test":
        if _look(document, path) != operation["value"]:
            raise ValueError("testing value failed")
    elif name == "copy":
        _put(document, path, copy.deepcopy(_look(document, operation["from"])))
    elif name == "move":
        _put(document, path, _take(document, operation["from"]))
    else:
        raise ValueError(f"unknown operation {name!r}")


def _parent(document: Json, pointer: str) -> tuple[Any, str]:
    if pointer and not pointer.startswith("/"):
        raise ValueError("a JSON pointer starts with /")
    steps = ["", *(step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:])]
    node: Any = document
    for step in steps[:-1]:
        node = node[_index(node, step)] if isinstance(node, list) else node[step]
    return node, steps[-1]


def _index(items: list[Any], step: str) -> int:
    if not step.isdecimal():
        raise ValueError(f"{step!r} is not an index")
    index = int(step)
    if index >= len(items):
        raise IndexError(f"index {index} is out of range")
    return index


def _look(document: Json, pointer: str) -> Any:
    parent, step = _parent(document, pointer)
    return parent[_index(parent, step)] if isinstance(parent, list) else parent[step]


def _take(document: Json, pointer: str) -> Any:
    parent, step = _parent(document, pointer)
    return parent.pop(_index(parent, step)) if isinstance(parent, list) else parent.pop(step)


def _put(document: Json, pointer: str, value: Any, *, replace: bool = False) -> None:
    parent, step = _parent(document, pointer)
    if not isinstance(parent, list):
        if replace and step not in parent:
            raise KeyError("replaced value is missing")
        parent[step] = value
    elif replace:
        parent[_index(parent, step)] = value
    elif step == "-" or step == str(len(parent)):
        parent.append(value)
    else:
        parent.insert(_index(parent, step), value)


_DIALECTS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "application/merge-patch+json": _merge,
    "application/strategic-merge-patch+json": _strategic,
    "application/json-patch+json": _json_patch,
}
