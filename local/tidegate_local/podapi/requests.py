"""HTTP requests to what they mean: the target in the path, selectors, options; what cannot be read is refused."""

from __future__ import annotations

import base64
import binascii
import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import yaml

from tidegate_local.podapi import refusals
from tidegate_local.podapi.kinds import KINDS
from tidegate_local.podapi.logs import LogRequest
from tidegate_local.podapi.refusals import Json
from tidegate_local.podapi.resources import Target
from tidegate_local.podapi.selectors import Predicate, selector
from tidegate_local.podapi.watching import WatchRequest

_TRUE: Final = frozenset({"true", "1", "t", "yes"})
#: A watch without a timeout ends after a random time in this range, as on a cluster.
_WATCH_SECONDS: Final = (1800.0, 3600.0)

Query = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Address:
    """A target and what stands behind its subresource (pods/proxy alone has a rest)."""

    target: Target
    rest: str = ""


def address(tail: str) -> Address:
    """What `/api/v1/<tail>` names; namespace "" stands for all of them."""
    steps = tail.strip("/").split("/")
    namespace = ""
    # namespaces/NAME alone is the namespace itself; with a plural behind it, it is a scope.
    if len(steps) >= 3 and steps[0] == "namespaces" and steps[2] in KINDS:
        namespace, steps = steps[1], steps[2:]
    kind = KINDS.get(steps[0])
    if kind is None or (namespace and not kind.namespaced):
        raise refusals.no_such_path()
    steps += [""] * (3 - len(steps))
    name, subresource, rest = steps[1], steps[2], "/".join(steps[3:])
    if subresource and subresource not in dict(kind.subresources):
        raise refusals.no_such_path()
    if (rest and subresource != "proxy") or (name and kind.namespaced and not namespace):
        raise refusals.no_such_path()
    return Address(Target(kind, namespace, name, subresource), rest)


def flag(query: Query, name: str) -> bool:
    return query.get(name, "").lower() in _TRUE


def number(query: Query, name: str) -> int | None:
    text = query.get(name, "")
    if not text:
        return None
    if not text.lstrip("-").isdecimal() or len(text) > 18:
        raise refusals.bad_request(f"{name} must be a number, not {text!r}")
    return int(text)


def chosen(target: Target, query: Query) -> Predicate | None:
    labels, fields = query.get("labelSelector", ""), query.get("fieldSelector", "")
    if target.name:
        fields = ",".join(filter(None, (fields, f"metadata.name={target.name}")))
    return selector(target.kind.plural, labels, fields)


def watch_request(target: Target, query: Query) -> WatchRequest:
    since = number(query, "resourceVersion")
    initial = flag(query, "sendInitialEvents")
    asked = number(query, "timeoutSeconds")
    return WatchRequest(
        kind=target.kind,
        namespace=target.namespace or None,
        holds=chosen(target, query),
        since=None if initial or not since else since,
        timeout_seconds=float(asked) if asked else random.uniform(*_WATCH_SECONDS),
        bookmarks=flag(query, "allowWatchBookmarks"),
        marks_initial_end=initial,
    )


def log_request(query: Query) -> LogRequest:
    since = None
    if (seconds := number(query, "sinceSeconds")) is not None:
        since = datetime.fromtimestamp(time.time() - seconds, UTC)
    elif text := query.get("sinceTime"):
        try:
            since = datetime.fromisoformat(text)
        except ValueError:
            raise refusals.bad_request(f"sinceTime must be an RFC 3339 time, not {text!r}") from None
    limits = {name: number(query, name) for name in ("tailLines", "limitBytes")}
    wrong = [name for name, value in limits.items() if value is not None and value < (name == "limitBytes")]
    if wrong:
        raise refusals.bad_request(f"{wrong[0]} must not be below {int(wrong[0] == 'limitBytes')}")
    return LogRequest(
        follow=flag(query, "follow"),
        timestamps=flag(query, "timestamps"),
        tail_lines=limits["tailLines"],
        since=since,
        limit_bytes=limits["limitBytes"],
    )


def decoded(text: bytes, content_type: str) -> Any:
    """A body of JSON, or of YAML where the client says so."""
    if content_type in {"application/yaml", "application/apply-patch+yaml"}:
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise refusals.bad_request(f"the body is no YAML: {error}") from None
    if content_type not in {"", "application/json", "application/octet-stream"} and not content_type.endswith("+json"):
        raise refusals.unsupported_media_type(content_type)
    try:
        return json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        raise refusals.bad_request(f"the body is no JSON: {error}") from None


def wants_table(accept: str) -> bool:
    return "as=Table" in accept and "g=meta.k8s.io" in accept and "v=v1" in accept.replace("v=v1beta1", "")


@dataclass(frozen=True, slots=True)
class Page:
    """Where a list stopped: the key of its last object."""

    after: tuple[str, str]

    def token(self) -> str:
        return base64.urlsafe_b64encode(json.dumps(self.after).encode()).decode()

    @classmethod
    def from_token(cls, token: str) -> Page:
        try:
            namespace, name = json.loads(base64.urlsafe_b64decode(token))
        except (ValueError, TypeError, binascii.Error):
            raise refusals.bad_request("continue key is not valid") from None
        return cls((str(namespace), str(name)))


def deletion_options(body: Any, query: Query) -> Json:
    """DeleteOptions from the body, with the query's word where the body has none."""
    options = dict(body) if isinstance(body, dict) else {}
    grace = number(query, "gracePeriodSeconds")
    if grace is not None:
        options.setdefault("gracePeriodSeconds", grace)
    return options
