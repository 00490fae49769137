"""Watches: the changes of one kind, seen through a selector, as lines of JSON with bookmarks."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from tidegate_local.podapi import refusals
from tidegate_local.podapi.kinds import Kind
from tidegate_local.podapi.refusals import Json
from tidegate_local.podapi.selectors import Predicate
from tidegate_local.podapi.store import Change, Store, Stored

_BOOKMARK_SECONDS: Final = 60.0
#: A last bookmark goes out this long before a watch ends, so that its successor starts where it stopped.
_LAST_BOOKMARK_SECONDS: Final = 2.0

#: An object, and whether it is the first of the watch, to its JSON text.
Printer = Callable[[Stored, bool], str]


@dataclass(frozen=True, slots=True)
class WatchRequest:
    kind: Kind
    namespace: str | None
    holds: Predicate | None
    #: None: begin with what exists, then what changes.
    since: int | None
    timeout_seconds: float
    bookmarks: bool = False
    #: Say with a bookmark where the initial objects end (client-go's WatchList).
    marks_initial_end: bool = False

    def sees(self, stored: Stored | None) -> bool:
        if stored is None:
            return False
        inside = self.namespace is None or stored.item["metadata"].get("namespace") == self.namespace
        return inside and (self.holds is None or self.holds(stored.item))


async def watch(store: Store, request: WatchRequest, printer: Printer) -> AsyncIterator[bytes]:
    """Lines of `{"type", "object"}`; whoever falls too far behind, or begins too far back, gets a 410 in the stream."""
    # Snapshot and subscription are one step: nothing can be written between them.
    try:
        subscription = store.subscribe(request.kind, request.since)
    except refusals.Refusal as refusal:
        yield _error(refusal)
        return
    revision = store.revision if request.since is None else request.since
    existing = store.stored(request.kind, request.namespace) if request.since is None else []
    try:
        first = True
        for stored in existing:
            if request.sees(stored):
                yield _line("ADDED", printer(stored, first))
                first = False
        if request.marks_initial_end:
            yield _bookmark(request.kind, revision, {"k8s.io/initial-events-end": "true"})
        ends_at = time.monotonic() + request.timeout_seconds
        bookmarks_at = _next_bookmark(ends_at)
        while (now := time.monotonic()) < ends_at:
            if request.bookmarks and now >= bookmarks_at:
                yield _bookmark(request.kind, revision)
                bookmarks_at = _next_bookmark(ends_at)
            until = min(ends_at, bookmarks_at) if request.bookmarks else ends_at
            try:
                change = await asyncio.wait_for(subscription.get(), max(0.0, until - now))
            except TimeoutError:
                # All that was written so far has been told: the queue is empty.
                revision = store.revision
                continue
            if change is None:
                yield _error(refusals.expired(revision, store.revision))
                return
            revision = change.revision
            if told := _told(request, change):
                yield _line(told, printer(change.last if change.after is None else _shown(told, change), first))
                first = False
    finally:
        store.unsubscribe(subscription)


def _told(request: WatchRequest, change: Change) -> str | None:
    """The event's type: leaving the selector is a deletion to this watcher, entering it a creation."""
    saw, sees = request.sees(change.before), request.sees(change.after)
    if sees:
        return "MODIFIED" if saw else "ADDED"
    return "DELETED" if saw else None


def _shown(told: str, change: Change) -> Stored:
    if told != "DELETED" or change.before is None:
        return change.last
    # It left the selector: shown as it was when it still matched, with the revision at which it left.
    item = change.before.item
    item = {**item, "metadata": {**item["metadata"], "resourceVersion": str(change.revision)}}
    return Stored(item, json.dumps(item, separators=(",", ":"), ensure_ascii=False))


def _next_bookmark(ends_at: float) -> float:
    now = time.monotonic()
    last = ends_at - _LAST_BOOKMARK_SECONDS
    return min(now + _BOOKMARK_SECONDS, last) if now < last else ends_at


def _bookmark(kind: Kind, revision: int, annotations: dict[str, str] | None = None) -> bytes:
    metadata: Json = {"resourceVersion": str(revision), "creationTimestamp": None}
    if annotations:
        metadata["annotations"] = annotations
    return _line("BOOKMARK", json.dumps({"kind": kind.name, "apiVersion": "v1", "metadata": metadata}))


def _error(refusal: refusals.Refusal) -> bytes:
    return _line("ERROR", json.dumps(refusal.body))


def _line(told: str, text: str) -> bytes:
    return f'{{"type":"{told}","object":{text}}}\n'.encode()
