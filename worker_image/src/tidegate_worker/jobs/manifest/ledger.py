"""Who works on which chunk of a manifest, and which rows are answered: one transaction a step, several workers at once.

A chunk is claimed for a time by the database's clock and carries a fence that rises with every claim; every write names
the fence it was made under, so a worker that was stopped and comes back changes nothing that is no longer its own. An
answer is durable when `save` returns: its image is never handed out again, whoever comes next and whatever is killed.

SQLite serves workers on one host (it locks files, which network file systems do not do well); PostgreSQL serves any.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, and_, create_engine, delete, event, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from tidegate.core.errors import FixConfig, RetryLater
from tidegate_worker.jobs.manifest.rows import Row
from tidegate_worker.jobs.manifest.schema import answer, chunk, database_seconds, manifest, metadata

log = logging.getLogger(__name__)

_BUSY_SECONDS = 30.0
#: An arbitrary number of ours for PostgreSQL's advisory lock around the creation of tables.
_SCHEMA_LOCK = 7_146_320_151


@dataclass(frozen=True, slots=True)
class ManifestState:
    uri: str
    fingerprint: str
    output: str
    chunk_rows: int
    rows: int
    loaded: bool
    indexed: bool


@dataclass(frozen=True, slots=True)
class NewChunk:
    number: int
    first_row: int
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class ClaimedChunk:
    number: int
    fence: int
    first_row: int
    rows: tuple[Row, ...]
    answered: frozenset[int]
    #: How often a worker lost it without giving it back.
    lapses: int


@dataclass(frozen=True, slots=True)
class SavedAnswer:
    row: int
    failed: bool
    body: bytes


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    chunk: int
    first_row: int
    rows: int
    failed: int


@dataclass(frozen=True, slots=True)
class Counts:
    rows: int
    answered: int
    failed: int
    open_chunks: int


class Ledger:
    """All calls raise RetryLater while the database cannot be reached. Safe to use from any thread."""

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        self._insert = postgresql.insert if self._engine.dialect.name == "postgresql" else sqlite.insert

    def create(self) -> None:
        """Make the tables where they are missing."""
        with self._transaction() as db:
            if self._engine.dialect.name == "postgresql":
                db.execute(select(func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
            metadata.create_all(db)

    def enter(self, job: str, uri: str, fingerprint: str, output: str, chunk_rows: int) -> ManifestState:
        """The job's entry, made where it is new."""
        with self._transaction() as db:
            values = {"uri": uri, "fingerprint": fingerprint, "output": output, "chunk_rows": chunk_rows}
            db.execute(self._insert(manifest).values(job=job, **values).on_conflict_do_nothing())
        found = self.state(job)
        assert found is not None, "entered above"
        return found

    def state(self, job: str) -> ManifestState | None:
        with self._transaction() as db:
            row = db.execute(select(manifest).where(manifest.c.job == job)).mappings().one_or_none()
        if row is None:
            return None
        return ManifestState(
            row["uri"], row["fingerprint"], row["output"], row["chunk_rows"], row["rows"], row["loaded"], row["indexed"]
        )

    def claim_loading(self, job: str, owner: str, seconds: float) -> bool:
        """Become the one that fills the job's chunks; False where another is at it or all are filled."""
        with self._transaction() as db:
            free = or_(manifest.c.loader == owner, manifest.c.loader_until < database_seconds())
            claimed = db.execute(
                update(manifest)
                .where(manifest.c.job == job, manifest.c.loaded.is_(False), free)
                .values(loader=owner, loader_until=database_seconds() + seconds)
            )
            return claimed.rowcount == 1

    def add_chunks(self, job: str, owner: str, chunks: Sequence[NewChunk], seconds: float) -> bool:
        """Add the next chunks and go on being the loader; False where another has taken over."""
        rows = sum(len(each.rows) for each in chunks)
        with self._transaction() as db:
            moved = db.execute(
                update(manifest)
                .where(
                    manifest.c.job == job,
                    manifest.c.loader == owner,
                    manifest.c.loaded.is_(False),
                    manifest.c.rows == chunks[0].first_row,
                )
                .values(rows=manifest.c.rows + rows, loader_until=database_seconds() + seconds)
            )
            if moved.rowcount != 1:
                return False
            db.execute(
                insert(chunk),
                [
                    {
                        "job": job,
                        "number": each.number,
                        "first_row": each.first_row,
                        "rows": len(each.rows),
                        "packed": _pack(each.rows),
                    }
                    for each in chunks
                ],
            )
            return True

    def finish_loading(self, job: str, owner: str) -> bool:
        with self._transaction() as db:
            done = db.execute(
                update(manifest)
                .where(manifest.c.job == job, manifest.c.loader == owner)
                .values(loaded=True, loader=None)
            )
            return done.rowcount == 1

    def expire(self, job: str, owner_prefix: str) -> None:
        """End the leases of a predecessor that is known to be gone."""
        with self._transaction() as db:
            db.execute(
                update(chunk)
                .where(
                    chunk.c.job == job, chunk.c.part.is_(None), chunk.c.owner.startswith(owner_prefix, autoescape=True)
                )
                .values(lease_until=0.0)
            )
            db.execute(
                update(manifest)
                .where(manifest.c.job == job, manifest.c.loader.startswith(owner_prefix, autoescape=True))
                .values(loader_until=0.0)
            )

    def claim(self, job: str, owner: str, seconds: float) -> ClaimedChunk | None:
        """The first chunk that is neither done nor somebody's; None where there is none now."""
        with self._transaction() as db:
            free = (
                select(chunk)
                .where(chunk.c.job == job, chunk.c.part.is_(None), chunk.c.lease_until < database_seconds())
                .order_by(chunk.c.number)
                .limit(1)
                .with_for_update(skip_locked=True)
            )
            found = db.execute(free).mappings().one_or_none()
            if found is None:
                return None
            here = and_(chunk.c.job == job, chunk.c.number == found["number"])
            lapses = found["lapses"] + (found["owner"] is not None)
            db.execute(
                update(chunk)
                .where(here)
                .values(owner=owner, lease_until=database_seconds() + seconds, fence=found["fence"] + 1, lapses=lapses)
            )
            answered = db.execute(
                select(answer.c.row).where(answer.c.job == job, answer.c.chunk == found["number"])
            ).scalars()
            return ClaimedChunk(
                found["number"],
                found["fence"] + 1,
                found["first_row"],
                _unpack(found["packed"]),
                frozenset(answered),
                lapses,
            )

    def renew(self, job: str, fences: Mapping[int, int], seconds: float) -> set[int]:
        """Hold these chunks for longer; the numbers of those that are lost."""
        lost: set[int] = set()
        with self._transaction() as db:
            for number, fence in sorted(fences.items()):
                renewed = db.execute(
                    update(chunk).where(_held(job, number, fence)).values(lease_until=database_seconds() + seconds)
                )
                if renewed.rowcount != 1:
                    lost.add(number)
        return lost

    def release(self, job: str, fences: Mapping[int, int]) -> None:
        """Give these chunks back, so that a successor need not wait."""
        with self._transaction() as db:
            for number, fence in sorted(fences.items()):
                db.execute(update(chunk).where(_held(job, number, fence)).values(lease_until=0.0, owner=None))

    def save(self, job: str, number: int, fence: int, answers: Sequence[SavedAnswer]) -> bool:
        """Make answers of a chunk durable; False, and nothing written, where the chunk is lost."""
        with self._transaction() as db:
            if db.execute(select(chunk.c.number).where(_held(job, number, fence)).with_for_update()).first() is None:
                return False
            # The same rows again, after a commit whose outcome was not heard of, change nothing.
            db.execute(
                self._insert(answer).on_conflict_do_nothing(),
                [
                    {"job": job, "chunk": number, "row": each.row, "failed": each.failed, "body": each.body}
                    for each in answers
                ],
            )
            mine = and_(answer.c.job == job, answer.c.chunk == number)
            db.execute(
                update(chunk)
                .where(_held(job, number, fence))
                .values(
                    answered=select(func.count()).where(mine).scalar_subquery(),
                    failed=select(func.count()).where(mine, answer.c.failed.is_(True)).scalar_subquery(),
                )
            )
            return True

    def answers(self, job: str, number: int) -> list[bytes]:
        """The bodies of a chunk's answers by row."""
        with self._transaction() as db:
            return list(
                db.execute(
                    select(answer.c.body).where(answer.c.job == job, answer.c.chunk == number).order_by(answer.c.row)
                ).scalars()
            )

    def finish(self, job: str, number: int, fence: int, part: str) -> bool:
        """Declare the part that holds all of a chunk's answers; False where the chunk is lost."""
        with self._transaction() as db:
            # What was packed may hold signed URLs: it goes as soon as it is not needed.
            done = db.execute(update(chunk).where(_held(job, number, fence)).values(part=part, packed=b"", owner=None))
            if done.rowcount != 1:
                return False
            db.execute(delete(answer).where(answer.c.job == job, answer.c.chunk == number))
            return True

    def counts(self, job: str) -> Counts:
        columns = (
            func.coalesce(func.sum(chunk.c.rows), 0),
            func.coalesce(func.sum(chunk.c.answered), 0),
            func.coalesce(func.sum(chunk.c.failed), 0),
            func.count() - func.count(chunk.c.part),
        )
        with self._transaction() as db:
            return Counts(*map(int, db.execute(select(*columns).where(chunk.c.job == job)).one()))

    @contextmanager
    def indexing(self, job: str) -> Iterator[tuple[list[Part], bool]]:
        """The parts that stand, and whether they are all; until the block ends, no other worker writes an index."""
        with self._transaction() as db:
            entry = db.execute(select(manifest).where(manifest.c.job == job).with_for_update()).mappings().one()
            found = db.execute(
                select(chunk.c.part, chunk.c.number, chunk.c.first_row, chunk.c.rows, chunk.c.failed)
                .where(chunk.c.job == job, chunk.c.part.is_not(None))
                .order_by(chunk.c.number)
            )
            parts = [Part(*row) for row in found]
            whole = bool(entry["loaded"]) and sum(part.rows for part in parts) == entry["rows"]
            yield parts, whole
            if whole:
                db.execute(update(manifest).where(manifest.c.job == job).values(indexed=True))

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as db:
                yield db
        except (OperationalError, InterfaceError, PoolTimeout) as error:
            # Its text without SQL and parameters, which hold URLs.
            told = str(error.orig) if isinstance(error, DBAPIError) else "no connection was free"
            raise RetryLater(f"the manifest ledger does not answer: {told.strip()}") from None


def _held(job: str, number: int, fence: int) -> Any:
    return and_(chunk.c.job == job, chunk.c.number == number, chunk.c.fence == fence, chunk.c.part.is_(None))


def _pack(rows: Sequence[Row]) -> bytes:
    pairs = [row.uri if row.name is None else [row.uri, row.name] for row in rows]
    return zlib.compress(json.dumps(pairs, separators=(",", ":")).encode(), level=1)


def _unpack(packed: bytes) -> tuple[Row, ...]:
    pairs = json.loads(zlib.decompress(packed))
    return tuple(Row(pair, None) if isinstance(pair, str) else Row(*pair) for pair in pairs)


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "postgresql":
            driver = parsed.set(drivername="postgresql+psycopg")
            return create_engine(driver, pool_size=4, max_overflow=4, pool_pre_ping=True)
        if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
            raise FixConfig(
                "the manifest ledger is a file of SQLite or a PostgreSQL database; set its URL to one of them"
            )
        engine = create_engine(parsed, connect_args={"timeout": _BUSY_SECONDS, "check_same_thread": False})
    except ArgumentError:
        raise FixConfig("the URL of the manifest ledger cannot be read") from None
    except ModuleNotFoundError as error:
        raise FixConfig(f"the manifest ledger needs {error.name}: install tidegate-worker[postgresql]") from None

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A transaction that reads first and writes then would find its snapshot stale; so every one starts as a writer.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine
