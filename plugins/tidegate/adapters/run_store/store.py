"""Reading and writing the run store: each method is one transaction, each write of a slot a compare-and-set.

Not here: what to write (`core`), when (`control`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from tidegate.adapters.run_store import tables
from tidegate.adapters.run_store.records import Attempt, Run, RunState, StoredSlot, StoredTrip
from tidegate.core.baseline import Baseline, BaselineKey
from tidegate.core.contract import Plan, ProbeReport, Source, Suspect, Trip, WorkerReport
from tidegate.core.errors import FixConfig, RetryLater
from tidegate.core.slot import SlotState

BUSY_SECONDS: Final = 30.0
MIGRATIONS: Final = Path(__file__).parent / "migrations"


class Conflict(RetryLater):
    """Somebody else has written since this was read: read again, decide again."""


class RunStore:
    """One database of runs. Safe to share between threads; each process opens its own."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, url: str) -> Self:
        """The store at `url`, brought to the newest schema."""
        try:
            engine = sa.create_engine(url, pool_pre_ping=True, **_options(url))
        except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ModuleNotFoundError) as error:
            raise FixConfig(
                f"the run store's URL is no database URL that can be opened here ({type(error).__name__});"
                " set TIDEGATE_RUN_STORE_URL, for example to sqlite:////var/lib/tidegate/runs.sqlite or to"
                " postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"
            ) from None
        if engine.dialect.name not in ("sqlite", "postgresql"):
            raise FixConfig(f"the run store speaks SQLite and PostgreSQL, not {engine.dialect.name}")
        if engine.dialect.name == "sqlite":
            sa.event.listen(engine, "connect", _set_up_sqlite)
            sa.event.listen(engine, "begin", _begin_immediate)
        _migrate(engine)
        return cls(engine)

    @property
    def on_one_host(self) -> bool:
        """Whether only processes of this host can share it."""
        return self._engine.dialect.name == "sqlite"

    def close(self) -> None:
        self._engine.dispose()

    # -- runs ----------------------------------------------------------------------------------------------------------

    def create_run(self, run: Run) -> Run:
        """Store `run`, or return what is stored under its id: a repeated task starts nothing twice."""
        values = _run_row(run)
        with self._begin() as connection:
            connection.execute(self._insert(tables.runs).values(values).on_conflict_do_nothing())
            return _run(connection.execute(sa.select(tables.runs).filter_by(run_id=run.run_id)).one())

    def run(self, run_id: str) -> Run | None:
        with self._begin() as connection:
            row = connection.execute(sa.select(tables.runs).filter_by(run_id=run_id)).one_or_none()
        return _run(row) if row else None

    def runs(self, *, pipeline: str | None = None, source: Source | None = None, at_most: int = 50) -> list[Run]:
        """The newest runs first."""
        query = sa.select(tables.runs).order_by(tables.runs.c.created_at.desc()).limit(at_most)
        if pipeline is not None:
            query = query.where(tables.runs.c.pipeline == pipeline)
        if source is not None:
            query = query.where(tables.runs.c.job == job_key(source))
        with self._begin() as connection:
            return [_run(row) for row in connection.execute(query)]

    def save_plan(self, run_id: str, plan: Plan) -> None:
        self._update_run(run_id, plan=plan.to_json(), model_version=plan.model_version)

    def save_probe_report(self, run_id: str, report: ProbeReport) -> None:
        self._update_run(run_id, probe_report=report.to_json())

    def probe_report(self, run_id: str) -> ProbeReport | None:
        text = self._run_column(run_id, tables.runs.c.probe_report)
        return ProbeReport.from_json(text) if text else None

    def save_probe_limit(self, run_id: str, limit_bytes: int) -> None:
        self._update_run(run_id, probe_limit_bytes=limit_bytes)

    def probe_limit(self, run_id: str) -> int | None:
        limit: int | None = self._run_column(run_id, tables.runs.c.probe_limit_bytes)
        return limit

    def end_run(self, run_id: str, state: RunState, at: float, summary: str) -> None:
        self._update_run(run_id, state=state.value, ended_at=at, summary=summary)

    def reopen_run(self, run_id: str) -> None:
        self._update_run(run_id, state=RunState.RUNNING.value, ended_at=None)

    def _run_column(self, run_id: str, column: sa.Column[Any]) -> Any:
        with self._begin() as connection:
            return connection.execute(sa.select(column).where(tables.runs.c.run_id == run_id)).scalar_one_or_none()

    def _update_run(self, run_id: str, **values: Any) -> None:
        with self._begin() as connection:
            changed = connection.execute(sa.update(tables.runs).where(tables.runs.c.run_id == run_id).values(**values))
            if changed.rowcount != 1:
                raise FixConfig(f"there is no run {run_id}; `tidegate runs` lists them")

    # -- slots ---------------------------------------------------------------------------------------------------------

    def create_slot(self, state: SlotState) -> StoredSlot:
        """Store the first state of a slot, or return what is stored already."""
        with self._begin() as connection:
            connection.execute(
                self._insert(tables.slots).values({**_slot_row(state), "revision": 0}).on_conflict_do_nothing()
            )
            return _slot(connection.execute(_slot_query(state.run_id, state.slot)).one())

    def slot(self, run_id: str, slot: int) -> StoredSlot | None:
        with self._begin() as connection:
            row = connection.execute(_slot_query(run_id, slot)).one_or_none()
        return _slot(row) if row else None

    def slots(self, run_id: str) -> list[StoredSlot]:
        with self._begin() as connection:
            rows = connection.execute(sa.select(tables.slots).filter_by(run_id=run_id).order_by(tables.slots.c.slot))
            return [_slot(row) for row in rows]

    def advance(
        self,
        before: StoredSlot,
        after: SlotState,
        *,
        attempt: Attempt | None = None,
        trip: StoredTrip | None = None,
        struck: Sequence[Suspect] = (),
        cleared: Sequence[str] = (),
    ) -> StoredSlot:
        """Replace a slot's state and, in the same transaction, note what belongs to the step.

        Raises Conflict where the slot has moved since `before` was read; then nothing is written.
        """
        with self._begin() as connection:
            changed = connection.execute(
                sa.update(tables.slots)
                .where(
                    tables.slots.c.run_id == after.run_id,
                    tables.slots.c.slot == after.slot,
                    tables.slots.c.revision == before.revision,
                )
                .values({**_slot_row(after), "revision": before.revision + 1})
            )
            if changed.rowcount != 1:
                raise Conflict(f"slot {after.slot} of {after.run_id} has moved on from revision {before.revision}")
            if attempt is not None:
                row = _attempt_row(attempt)
                connection.execute(
                    self._insert(tables.attempts)
                    .values(row)
                    .on_conflict_do_update(index_elements=[tables.attempts.c.pod_uid], set_=row)
                )
            if trip is not None:
                connection.execute(self._insert(tables.trips).values(_trip_row(trip)).on_conflict_do_nothing())
            if (struck or cleared) and attempt is not None:
                self._note_suspects(connection, attempt, struck, cleared)
        return StoredSlot(after, before.revision + 1)

    # -- attempts, trips, suspects -------------------------------------------------------------------------------------

    def attempts(self, run_id: str, slot: int | None = None) -> list[Attempt]:
        query = sa.select(tables.attempts).filter_by(run_id=run_id).order_by(tables.attempts.c.created_at)
        if slot is not None:
            query = query.where(tables.attempts.c.slot == slot)
        with self._begin() as connection:
            return [_attempt(row) for row in connection.execute(query)]

    def trips(self, run_id: str) -> list[StoredTrip]:
        with self._begin() as connection:
            rows = connection.execute(sa.select(tables.trips).filter_by(run_id=run_id).order_by(tables.trips.c.at))
            return [StoredTrip(Trip.from_json(row.trip), row.remedy, row.remedy_reason) for row in rows]

    def suspects(self, source: Source) -> list[Suspect]:
        query = sa.select(tables.suspects).filter_by(job=job_key(source)).order_by(tables.suspects.c.noted_at)
        with self._begin() as connection:
            return [Suspect.model_validate_json(row.suspect) for row in connection.execute(query)]

    def _note_suspects(
        self, connection: sa.Connection, attempt: Attempt, struck: Sequence[Suspect], cleared: Sequence[str]
    ) -> None:
        source = Source.model_validate_json(
            connection.execute(sa.select(tables.runs.c.source).filter_by(run_id=attempt.run_id)).scalar_one()
        )
        job = job_key(source)
        for suspect in struck:
            row = {
                "job": job,
                "image_id": suspect.image_id,
                "suspect": suspect.model_dump_json(),
                "pod_uid": attempt.pod_uid,
                "noted_at": time.time(),
            }
            keys = [tables.suspects.c.job, tables.suspects.c.image_id]
            connection.execute(
                self._insert(tables.suspects).values(row).on_conflict_do_update(index_elements=keys, set_=row)
            )
        if cleared:
            connection.execute(
                sa.delete(tables.suspects).where(tables.suspects.c.job == job, tables.suspects.c.image_id.in_(cleared))
            )

    # -- baselines -----------------------------------------------------------------------------------------------------

    def baseline(self, key: BaselineKey) -> Baseline | None:
        with self._begin() as connection:
            row = connection.execute(sa.select(tables.baselines).filter_by(**key.model_dump())).one_or_none()
        return Baseline.from_json(row.baseline) if row else None

    def save_baseline(self, before: Baseline | None, after: Baseline) -> None:
        """Replace the baseline that `after` was made from; raises Conflict where another run was quicker."""
        key = after.key.model_dump()
        row = {**key, "baseline": after.to_json(), "updated_at": time.time()}
        with self._begin() as connection:
            if before is None:
                made = connection.execute(self._insert(tables.baselines).values(row).on_conflict_do_nothing())
            else:
                same = [tables.baselines.c[name] == value for name, value in key.items()]
                made = connection.execute(
                    sa.update(tables.baselines)
                    .where(*same, tables.baselines.c.baseline == before.to_json())
                    .values(row)
                )
            if made.rowcount != 1:
                raise Conflict(f"another run has updated the baseline of {after.key.pipeline}")

    # -- the database --------------------------------------------------------------------------------------------------

    @contextmanager
    def _begin(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.OperationalError as error:
            # The message of the driver quotes neither values nor the URL's password.
            raise RetryLater(f"the run store does not answer: {error.orig}", delay_seconds=5.0) from None

    def _insert(self, table: sa.Table) -> Any:
        insert = sqlite.insert if self.on_one_host else postgresql.insert
        return insert(table)


def job_key(source: Source) -> str:
    """What two runs of one job share: numbers are the source's own, so its address belongs to them."""
    return f"{source.kind}:{source.uri or ''}:{source.job}"[-253:]


def _options(url: str) -> dict[str, Any]:
    if url.startswith("sqlite"):
        return {"connect_args": {"timeout": BUSY_SECONDS}}
    return {"pool_size": 2, "max_overflow": 4, "pool_recycle": 300}


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    # Transactions are begun by `_begin_immediate`, not by the driver at the first write, which could then be refused.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_immediate(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _migrate(engine: sa.Engine) -> None:
    if _is_newest(engine):
        return
    # Imported late: every task opens the store, and all but the first find it migrated.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            # Several tasks may open a new store at once; the second waits and finds it migrated.
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7146203)")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _is_newest(engine: sa.Engine) -> bool:
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table(tables.SCHEMA_TABLE):
            return False
        found = connection.execute(sa.text(f"SELECT version_num FROM {tables.SCHEMA_TABLE}")).scalar()  # noqa: S608
    return found == tables.NEWEST_REVISION


def _run_row(run: Run) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "dag_run_id": run.dag_run_id,
        "job": job_key(run.source),
        "source": run.source.model_dump_json(),
        "pipeline": run.pipeline,
        "model_version": run.model_version,
        "slots": run.slots,
        "request": run.request,
        "resume_of": run.resume_of,
        "state": run.state.value,
        "created_at": run.created_at,
        "ended_at": run.ended_at,
        "plan": run.plan.to_json() if run.plan else None,
        "summary": run.summary,
    }


def _run(row: sa.Row[Any]) -> Run:
    values = dict(row._mapping)
    for stored_beside in ("job", "probe_limit_bytes", "probe_report"):
        del values[stored_beside]
    return Run(
        **{
            **values,
            "source": Source.model_validate_json(row.source),
            "state": RunState(row.state),
            "plan": Plan.from_json(row.plan) if row.plan else None,
        }
    )


def _slot_query(run_id: str, slot: int) -> sa.Select[Any]:
    return sa.select(tables.slots).filter_by(run_id=run_id, slot=slot)


def _slot_row(state: SlotState) -> dict[str, Any]:
    return {
        "run_id": state.run_id,
        "slot": state.slot,
        "generation": state.generation,
        "phase": state.phase.value,
        "state": state.to_json(),
    }


def _slot(row: sa.Row[Any]) -> StoredSlot:
    return StoredSlot(SlotState.from_json(row.state), row.revision)


def _attempt_row(attempt: Attempt) -> dict[str, Any]:
    names = [column.name for column in tables.attempts.columns if column.name != "report"]
    return {
        **{name: getattr(attempt, name) for name in names},
        "report": attempt.report.to_json() if attempt.report else None,
    }


def _attempt(row: sa.Row[Any]) -> Attempt:
    values = dict(row._mapping)
    return Attempt(**{**values, "report": WorkerReport.from_json(row.report) if row.report else None})


def _trip_row(stored: StoredTrip) -> dict[str, Any]:
    return {
        "run_id": stored.trip.run_id,
        "slot": stored.trip.slot,
        "generation": stored.trip.generation,
        "at": stored.trip.at,
        "trip": stored.trip.to_json(),
        "remedy": stored.remedy,
        "remedy_reason": stored.remedy_reason,
    }
