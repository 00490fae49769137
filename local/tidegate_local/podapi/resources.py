"""The verbs on objects: what POST, PUT, PATCH and DELETE do to the store, by kind; knows no HTTP."""

from __future__ import annotations

import base64
import binascii
import copy
import secrets
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from tidegate_local.podapi import pod_rules, refusals
from tidegate_local.podapi.kinds import (
    CLAIMS,
    CONFIG_MAPS,
    KINDS,
    NAMESPACES,
    PODS,
    SECRETS,
    SERVICE_ACCOUNTS,
    Kind,
)
from tidegate_local.podapi.patches import patched
from tidegate_local.podapi.pod_shape import MAX_OBJECT_BYTES, PlainObject, checked
from tidegate_local.podapi.refusals import Cause, Json
from tidegate_local.podapi.store import Store, timestamp

_SUFFIX_LETTERS: Final = "bcdfghjklmnpqrstvwxz2456789"
_PROTECTED_NAMESPACES: Final = frozenset({"default", "kube-system", "kube-public"})


@dataclass(frozen=True, slots=True)
class Target:
    """What a request is about."""

    kind: Kind
    namespace: str
    name: str = ""
    subresource: str = ""


class Resources:
    """The writers of the API over one store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        for name in sorted(_PROTECTED_NAMESPACES):
            if store.find(NAMESPACES, "", name) is None:
                self.create(Target(NAMESPACES, ""), {"metadata": {"name": name}})

    def create(self, target: Target, body: Json, *, dry_run: bool = False) -> Json:
        kind = target.kind
        item = _without_nulls(_object(body))
        metadata = item["metadata"]
        self._name(kind, target.namespace, metadata)
        if kind.namespaced:
            if metadata.setdefault("namespace", target.namespace) != target.namespace:
                raise refusals.bad_request(
                    f"the namespace of the provided object does not match the namespace sent on the request: "
                    f"{metadata['namespace']} != {target.namespace}"
                )
            self.store.get(NAMESPACES, "", target.namespace)
        else:
            metadata.pop("namespace", None)
        item = _ADMISSIONS.get(kind.plural, _plain)(item)
        if kind is PODS:
            self._require_account(item)
        if dry_run:
            if self.store.find(kind, target.namespace, metadata["name"]) is not None:
                raise refusals.already_exists(kind.plural, metadata["name"])
            return {
                **item,
                "metadata": {**metadata, "uid": str(uuid.uuid4()), "creationTimestamp": timestamp()},
            }
        created = self.store.create(kind, item)
        if kind is NAMESPACES:
            account = {"metadata": {"name": "default", "namespace": metadata["name"]}}
            self.store.create(SERVICE_ACCOUNTS, account)
        return created

    def replace(self, target: Target, body: Json, *, dry_run: bool = False) -> Json:
        current = self.store.get(target.kind, target.namespace, target.name)
        desired = _without_nulls(_object(body))
        uid = desired["metadata"].get("uid")
        if uid not in (None, "", current["metadata"]["uid"]):
            why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {current['metadata']['uid']}"
            raise refusals.conflict(target.kind.plural, target.name, why)
        return self._update(target, current, desired, dry_run=dry_run)

    def patch(self, target: Target, patch: Any, content_type: str, *, dry_run: bool = False) -> Json:
        current = self.store.get(target.kind, target.namespace, target.name)
        desired = _without_nulls(patched(current, patch, content_type))
        if len(str(desired)) > 2 * MAX_OBJECT_BYTES:
            raise refusals.Refusal(413, "RequestEntityTooLarge", "the patched object is too large")
        return self._update(target, current, desired, dry_run=dry_run)

    def _update(self, target: Target, current: Json, desired: Json, *, dry_run: bool) -> Json:
        kind = target.kind
        _refuse_other_identity(kind, current, desired)
        if kind is PODS:
            rule = {"": pod_rules.updated, "status": pod_rules.with_status, "resize": pod_rules.resized}
            desired = rule[target.subresource](current, desired)
        elif target.subresource == "status":
            desired = {**current, "status": desired.get("status", {}), "metadata": desired["metadata"]}
        else:
            admission = _ADMISSIONS.get(kind.plural, _plain)
            desired = {**admission(desired), **({"status": current["status"]} if "status" in current else {})}
        if dry_run:
            return desired
        stored = self.store.replace(kind, desired)
        metadata = stored["metadata"]
        # A pod that still runs is the node's to remove.
        is_idle = kind is not PODS or pod_rules.grace_seconds(stored, None) == 0
        if "deletionTimestamp" in metadata and not metadata.get("finalizers") and is_idle:
            return self.store.delete(kind, target.namespace, target.name)
        return stored

    def delete(self, target: Target, options: Json, *, dry_run: bool = False) -> Json:
        """Begin or finish a deletion; the answer is the object or a Status, as the kind has it."""
        kind = target.kind
        current = self.store.get(kind, target.namespace, target.name)
        metadata = current["metadata"]
        expected = options.get("preconditions") or {}
        for field, told in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
            if expected.get(field) not in (None, metadata[field]):
                why = f"{told} in precondition: {expected[field]}, {told} in object meta: {metadata[field]}"
                raise refusals.conflict(kind.plural, target.name, f"Precondition failed: {why}")
        if kind is NAMESPACES and target.name in _PROTECTED_NAMESPACES:
            raise refusals.forbidden(kind.plural, target.name, "this namespace may not be deleted")
        if dry_run:
            return current
        deleted = self._end(target, current, options.get("gracePeriodSeconds"))
        if kind.deletion_returns_object or kind is NAMESPACES:
            return deleted
        details = {"name": target.name, "kind": kind.plural, "uid": metadata["uid"]}
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    def _end(self, target: Target, current: Json, asked: Any) -> Json:
        kind, metadata = target.kind, current["metadata"]
        if asked is not None and (not isinstance(asked, int) or isinstance(asked, bool)):
            raise refusals.bad_request("json: cannot unmarshal gracePeriodSeconds: input should be an integer")
        grace = pod_rules.grace_seconds(current, asked) if kind is PODS else 0
        if grace > 0:
            # A second deletion may only shorten the grace of the first.
            if grace >= metadata.get("deletionGracePeriodSeconds", grace + 1):
                return current
            began = {"deletionTimestamp": timestamp(time.time() + grace), "deletionGracePeriodSeconds": grace}
            return self.store.replace(kind, {**current, "metadata": {**metadata, **began}})
        if metadata.get("finalizers"):
            if "deletionTimestamp" in metadata:
                return current
            began = {"deletionTimestamp": timestamp(), "deletionGracePeriodSeconds": 0}
            return self.store.replace(kind, {**current, "metadata": {**metadata, **began}})
        if kind is NAMESPACES:
            for other in KINDS.values():
                if other.namespaced:
                    for item in self.store.items(other, target.name):
                        self.store.delete(other, target.name, item["metadata"]["name"])
        return self.store.delete(kind, target.namespace, target.name)

    def delete_all(self, kind: Kind, namespace: str, holds: Callable[[Json], bool], options: Json) -> list[Json]:
        doomed = [item for item in self.store.items(kind, namespace) if holds(item)]
        for item in doomed:
            self.delete(Target(kind, namespace, item["metadata"]["name"]), options)
        return doomed

    def _name(self, kind: Kind, namespace: str, metadata: Json) -> None:
        """A name made from generateName is one that is free."""
        prefix = metadata.get("generateName")
        while not metadata.get("name") and isinstance(prefix, str):
            name = prefix[:58] + "".join(secrets.choice(_SUFFIX_LETTERS) for _ in range(5))
            if self.store.find(kind, namespace, name) is None:
                metadata["name"] = name
        if not metadata.get("name"):
            cause = Cause("metadata.name", "FieldValueRequired", "name or generateName is required")
            raise refusals.invalid(kind.name, "", cause)

    def _require_account(self, pod: Json) -> None:
        namespace, name = pod["metadata"]["namespace"], pod["spec"]["serviceAccountName"]
        if self.store.find(SERVICE_ACCOUNTS, namespace, name) is None:
            why = f'error looking up service account {namespace}/{name}: serviceaccount "{name}" not found'
            raise refusals.forbidden("pods", pod["metadata"]["name"], why)


def _object(body: Any) -> Json:
    if not isinstance(body, dict) or not isinstance(body.get("metadata", {}), dict):
        raise refusals.bad_request("the body of the request must be an object with metadata")
    return {**body, "metadata": dict(body.get("metadata") or {})}


def _refuse_other_identity(kind: Kind, current: Json, desired: Json) -> None:
    was, now = current["metadata"], desired["metadata"]
    name = was["name"]
    for field in ("name", "namespace"):
        if now.get(field, was.get(field)) != was.get(field):
            raise refusals.bad_request(
                f"the {field} of the object ({now[field]}) does not match the URL ({was[field]})"
            )
    if now.setdefault("uid", was["uid"]) != was["uid"]:
        cause = Cause("metadata.uid", "FieldValueInvalid", f'"{now["uid"]}": field is immutable')
        raise refusals.invalid(kind.name, name, cause)
    if now.get("resourceVersion") not in (None, "", was["resourceVersion"]):
        raise refusals.stale(kind.plural, name)
    for field in ("creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"):
        now.pop(field, None)
        if field in was:
            now[field] = was[field]
    if kind.namespaced:
        now["namespace"] = was["namespace"]


def _without_nulls(value: Any) -> Any:
    """Absent and null are the same to the API, and clients send both."""
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


# -- admission of the plain kinds


def _plain(item: Json) -> Json:
    checked(PlainObject, str(item.get("kind", "")), item)
    return item


def _secret(item: Json) -> Json:
    item = {**_data_checked("Secret", item, "stringData"), "type": item.get("type", "Opaque")}
    written = item.pop("stringData", {})
    encoded = {key: base64.b64encode(text.encode()).decode() for key, text in written.items()}
    data = {**item.get("data", {}), **encoded}
    for key, text in data.items():
        try:
            base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise refusals.bad_request(f"Secret in version v1 cannot be handled: data[{key}] is no base64") from None
    return {**item, "data": data}


def _data_checked(kind: str, item: Json, *more: str) -> Json:
    checked(PlainObject, kind, item)
    for field in ("data", "binaryData", *more):
        values = item.get(field, {})
        if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
            raise refusals.bad_request(f"json: cannot unmarshal {field}: its values must be strings")
        wrong = [key for key in values if not key or "/" in key or key in (".", "..") or len(key) > 253]
        if wrong:
            cause = Cause(field, "FieldValueInvalid", f'"{wrong[0]}": a valid config key consists of [-._a-zA-Z0-9]+')
            raise refusals.invalid(kind, item["metadata"]["name"], cause)
    return item


def _config_map(item: Json) -> Json:
    return _data_checked("ConfigMap", item)


def _claim(item: Json) -> Json:
    """A claim is bound at once: it is a folder that the node makes."""
    item = copy.deepcopy(_plain(item))
    return {**item, "status": {"phase": "Bound", "accessModes": (item.get("spec") or {}).get("accessModes", [])}}


def _namespace(item: Json) -> Json:
    item = copy.deepcopy(_plain(item))
    item["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = item["metadata"]["name"]
    return {**item, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}


_ADMISSIONS: Final[dict[str, Callable[[Json], Json]]] = {
    PODS.plural: pod_rules.admitted,
    SECRETS.plural: _secret,
    CONFIG_MAPS.plural: _config_map,
    CLAIMS.plural: _claim,
    NAMESPACES.plural: _namespace,
}
