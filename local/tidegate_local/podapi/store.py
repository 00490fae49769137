"""Objects with revisions in one SQLite file, and the feed of their changes; knows no HTTP and no rules of any kind.

Objects handed out are shared and must not be changed: writers hand in new ones. All calls belong to one thread (the
event loop's), so that what is read and written without an await between is one step. Every write is committed before
its watchers hear of it: after a kill nothing that was seen is lost. A restart moves the revision ahead: watches of an
earlier life are answered with 410, never with silence.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tidegate_local.podapi import refusals
from tidegate_local.podapi.kinds import Kind
from tidegate_local.podapi.refusals import Json

#: Changes kept for watches that resume; older revisions are answered with 410.
_HISTORY_CHANGES: Final = 8_192
#: A watcher further behind than this is cut off and must list again.
_QUEUE_CHANGES: Final = 4_096
#: How far a restart moves the revision ahead, beyond whatever a lost client may have seen.
_RESTART_JUMP: Final = 1_000

Key = tuple[str, str, str]


def timestamp(seconds: float | None = None) -> str:
    """Unix seconds (now by default) as the API prints times."""
    moment = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True)
class Stored:
    """An object and its JSON text, so that lists are joined instead of encoded again."""

    item: Json
    text: str


@dataclass(frozen=True, slots=True)
class Change:
    """One write: `before` is None for a creation, `after` for a deletion (`last` is then the object as it went)."""

    revision: int
    plural: str
    before: Stored | None
    after: Stored | None
    last: Stored


class Subscription:
    """The changes of one kind in order; `get` returns None once the reader has fallen too far behind."""

    def __init__(self, plural: str) -> None:
        self.plural = plural
        self._queue: asyncio.Queue[Change | None] = asyncio.Queue(_QUEUE_CHANGES)
        self._lost = False

    def put(self, change: Change) -> None:
        if self._lost:
            return
        if self._queue.full():
            self._lost = True
            self._queue.get_nowait()
            self._queue.put_nowait(None)
        else:
            self._queue.put_nowait(change)

    async def get(self) -> Change | None:
        return await self._queue.get()


class Store:
    """The objects of the API. Open one per file; a second process is kept out by the caller's lock."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS objects (plural TEXT, namespace TEXT, name TEXT, revision INTEGER, body TEXT,"
            " PRIMARY KEY (plural, namespace, name)) WITHOUT ROWID"
        )
        self._database.execute("CREATE TABLE IF NOT EXISTS revision (only_row INTEGER PRIMARY KEY, value INTEGER)")
        self._objects: dict[str, dict[tuple[str, str], Stored]] = {}
        for plural, namespace, name, body in self._database.execute(
            "SELECT plural, namespace, name, body FROM objects"
        ):
            self._objects.setdefault(plural, {})[namespace, name] = Stored(json.loads(body), body)
        saved = self._database.execute("SELECT value FROM revision").fetchone()
        self.revision = (int(saved[0]) if saved else 0) + _RESTART_JUMP
        self._database.execute("INSERT OR REPLACE INTO revision VALUES (0, ?)", (self.revision,))
        self._oldest_watchable = self.revision
        self._history: deque[Change] = deque(maxlen=_HISTORY_CHANGES)
        self._subscriptions: set[Subscription] = set()
        self._listeners: list[Callable[[Change], None]] = []

    def close(self) -> None:
        self._database.close()

    # -- reading

    def find(self, kind: Kind, namespace: str, name: str) -> Json | None:
        stored = self._objects.get(kind.plural, {}).get((namespace, name))
        return stored.item if stored else None

    def get(self, kind: Kind, namespace: str, name: str) -> Json:
        found = self.find(kind, namespace, name)
        if found is None:
            raise refusals.not_found(kind.plural, name)
        return found

    def stored(self, kind: Kind, namespace: str | None = None) -> list[Stored]:
        """All objects of a kind by namespace and name; of one namespace where it is given."""
        objects = self._objects.get(kind.plural, {})
        return [objects[key] for key in sorted(objects) if namespace is None or key[0] == namespace]

    def items(self, kind: Kind, namespace: str | None = None) -> Iterator[Json]:
        """All objects of a kind in no order."""
        for key, stored in list(self._objects.get(kind.plural, {}).items()):
            if namespace is None or key[0] == namespace:
                yield stored.item

    # -- writing

    def create(self, kind: Kind, item: Json) -> Json:
        """Store a new object with uid, creation time and revision of its own."""
        metadata = item["metadata"]
        namespace, name = metadata.get("namespace", ""), metadata["name"]
        if self.find(kind, namespace, name) is not None:
            raise refusals.already_exists(kind.plural, name)
        given = {key: value for key, value in metadata.items() if key not in _SERVER_METADATA}
        owned: Json = {"uid": str(uuid.uuid4()), "creationTimestamp": timestamp()}
        if kind.has_generation:
            owned["generation"] = 1
        return self._write(kind, None, {**item, "metadata": {**given, **owned}})

    def replace(self, kind: Kind, item: Json) -> Json:
        """Store a new state of an existing object; its resourceVersion, where given, must be the current one."""
        metadata = item["metadata"]
        key = metadata.get("namespace", ""), metadata["name"]
        before = self._objects.get(kind.plural, {}).get(key)
        if before is None:
            raise refusals.not_found(kind.plural, key[1])
        if metadata.get("resourceVersion") not in (None, "", before.item["metadata"]["resourceVersion"]):
            raise refusals.stale(kind.plural, key[1])
        after = {**item, "metadata": {**metadata, "resourceVersion": before.item["metadata"]["resourceVersion"]}}
        if after == before.item:
            return before.item
        if kind.has_generation and after.get("spec") != before.item.get("spec"):
            after["metadata"]["generation"] = before.item["metadata"].get("generation", 1) + 1
        return self._write(kind, before, after)

    def delete(self, kind: Kind, namespace: str, name: str) -> Json:
        """Remove an object at once; returns it as it was, with the revision of its end."""
        before = self._objects.get(kind.plural, {}).get((namespace, name))
        if before is None:
            raise refusals.not_found(kind.plural, name)
        revision = self.revision + 1
        with self._transaction(revision):
            self._database.execute(
                "DELETE FROM objects WHERE plural=? AND namespace=? AND name=?", (kind.plural, namespace, name)
            )
        del self._objects[kind.plural][namespace, name]
        item = {**before.item, "metadata": {**before.item["metadata"], "resourceVersion": str(revision)}}
        self._tell(Change(revision, kind.plural, before, None, Stored(item, _encode(item))))
        return item

    def _write(self, kind: Kind, before: Stored | None, item: Json) -> Json:
        revision = self.revision + 1
        item = {
            "kind": kind.name,
            "apiVersion": "v1",
            **{key: value for key, value in item.items() if key not in ("kind", "apiVersion")},
            "metadata": {**item["metadata"], "resourceVersion": str(revision)},
        }
        namespace, name = item["metadata"].get("namespace", ""), item["metadata"]["name"]
        stored = Stored(item, _encode(item))
        with self._transaction(revision):
            self._database.execute(
                "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?)",
                (kind.plural, namespace, name, revision, stored.text),
            )
        self._objects.setdefault(kind.plural, {})[namespace, name] = stored
        self._tell(Change(revision, kind.plural, before, stored, stored))
        return item

    def _transaction(self, revision: int) -> _Transaction:
        return _Transaction(self._database, revision)

    # -- telling

    def listen(self, listener: Callable[[Change], None]) -> None:
        """Call `listener` after every write, in the writer's own turn: it must only take note."""
        self._listeners.append(listener)

    def subscribe(self, kind: Kind, since: int | None) -> Subscription:
        """The changes of `kind` after revision `since` (after now where it is None)."""
        if since is not None and since < self._oldest_watchable:
            raise refusals.expired(since, self._oldest_watchable)
        subscription = Subscription(kind.plural)
        if since is not None:
            missed = [change for change in self._history if change.revision > since and change.plural == kind.plural]
            if len(missed) > _QUEUE_CHANGES:
                raise refusals.expired(since, self._oldest_watchable)
            for change in missed:
                subscription.put(change)
        self._subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        self._subscriptions.discard(subscription)

    def _tell(self, change: Change) -> None:
        self.revision = change.revision
        if len(self._history) == _HISTORY_CHANGES:
            self._oldest_watchable = self._history[0].revision
        self._history.append(change)
        for subscription in self._subscriptions:
            if subscription.plural == change.plural:
                subscription.put(change)
        for listener in self._listeners:
            listener(change)


#: Metadata that only the server sets.
_SERVER_METADATA: Final = frozenset(
    {"uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation",
     "selfLink", "managedFields"}
)  # fmt: skip


class _Transaction:
    """Commits one write together with its revision, or neither."""

    def __init__(self, database: sqlite3.Connection, revision: int) -> None:
        self._database = database
        self._revision = revision

    def __enter__(self) -> None:
        self._database.execute("BEGIN")

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        if failure is None:
            self._database.execute("UPDATE revision SET value=?", (self._revision,))
            self._database.execute("COMMIT")
        else:
            self._database.execute("ROLLBACK")


def _encode(item: Any) -> str:
    return json.dumps(item, separators=(",", ":"), ensure_ascii=False)
