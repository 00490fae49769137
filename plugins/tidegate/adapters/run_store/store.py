"""Reading and writing the run store: each method is one transaction, each write of a slot a compare-and-set.

Not here: what to write (`core`), when (`control`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

import sqlalchemy as sa

from tidegate.adapters.run_store import tables, totals
from tidegate.adapters.run_store.database import Database
from tidegate.adapters.run_store.readable import readable
from tidegate.adapters.run_store.records import Attempt, Run, RunState, StoredSlot, StoredTrip
from tidegate.adapters.run_store.totals import Totals
from tidegate.core.baseline import Baseline, BaselineKey, FinishedRun
from tidegate.core.contract import Plan, ProbeReport, Source, Suspect, Trip, WorkerReport
from tidegate.core.errors import FixConfig, NeedsHuman, RetryLater
from tidegate.core.slot import SlotState


class Conflict(RetryLater):
    """Somebody else has written since this was read: read again, decide again."""


class JobTaken(NeedsHuman):
    """Another run works on the job."""

    def __init__(self, job: str, run_id: str) -> None:
        super().__init__(
            f"job {job} is being run by {run_id}: clear that run instead of starting another. If it is gone for good,"
            f" start this one with resume_of = {run_id}"
        )
        self.run_id = run_id


class RunStore:
    """One database of runs. Safe to share between threads; each process opens its own."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, url: str, *, migrate: bool = True) -> Self:
        """The store at `url`, brought to the newest schema; without `migrate` an older one answers once others did."""
        return cls(Database.open(url, migrate=migrate))

    def close(self) -> None:
        self._database.close()

    @property
    def address(self) -> str:
        """Where it is, without its password."""
        return self._database.address

    @property
    def schema(self) -> str:
        return tables.NEWEST_REVISION

    # -- runs ----------------------------------------------------------------------------------------------------------

    def enter_run(self, run: Run) -> Run:
        """Store `run` as the one that works on its job, or reopen what is stored under its id.

        The run that it resumes is over thereby, whatever its record says; any other that is running keeps the job.
        """
        job = job_key(run.source)
        is_running = tables.runs.c.state == RunState.RUNNING.value
        with self._database.writing() as connection:
            self._database.lock_job(connection, job)
            if run.resume_of is not None:
                connection.execute(
                    sa.update(tables.runs)
                    .where(tables.runs.c.run_id == run.resume_of, tables.runs.c.job == job, is_running)
                    .values(state=RunState.FAILED.value, ended_at=run.created_at)
                )
            others = sa.select(tables.runs.c.run_id).where(
                tables.runs.c.job == job, is_running, tables.runs.c.run_id != run.run_id
            )
            if other := connection.execute(others).scalar():
                raise JobTaken(run.source.job, other)
            connection.execute(self._database.insert(tables.runs).values(_run_row(run)).on_conflict_do_nothing())
            mine = tables.runs.c.run_id == run.run_id
            connection.execute(sa.update(tables.runs).where(mine).values(state=RunState.RUNNING.value, ended_at=None))
            return _run(connection.execute(sa.select(tables.runs).where(mine)).one())

    def run(self, run_id: str) -> Run | None:
        with self._database.reading() as connection:
            row = connection.execute(sa.select(tables.runs).filter_by(run_id=run_id)).one_or_none()
        return _run(row) if row else None

    def runs(
        self,
        *,
        pipeline: str | None = None,
        source: Source | None = None,
        dag_run_id: str | None = None,
        at_most: int = 50,
    ) -> list[Run]:
        """The newest runs first."""
        query = sa.select(tables.runs).order_by(tables.runs.c.created_at.desc(), tables.runs.c.run_id).limit(at_most)
        if pipeline is not None:
            query = query.where(tables.runs.c.pipeline == pipeline)
        if source is not None:
            query = query.where(tables.runs.c.job == job_key(source))
        if dag_run_id is not None:
            query = query.where(tables.runs.c.dag_run_id == dag_run_id)
        with self._database.reading() as connection:
            return [_run(row) for row in connection.execute(query)]

    def recent_runs(self, ended_after: float) -> list[Run]:
        """Those that run and those that ended since, the newest first, without those whose record cannot be read."""
        is_recent = sa.or_(tables.runs.c.state == RunState.RUNNING.value, tables.runs.c.ended_at >= ended_after)
        query = sa.select(tables.runs).where(is_recent).order_by(tables.runs.c.created_at.desc())
        with self._database.reading() as connection:
            return list(readable(connection.execute(query), _run, lambda row: f"run {row.run_id}"))

    def totals(self) -> Totals:
        with self._database.reading() as connection:
            return totals.read(connection)

    def save_plan(self, run_id: str, plan: Plan, slots: Sequence[SlotState] = ()) -> None:
        """Store the plan with the first state of every slot; a slot that is stored already stays as it is."""
        with self._database.writing() as connection:
            _update_run(connection, run_id, plan=plan.to_json(), model_version=plan.model_version)
            for state in slots:
                row = {**_slot_row(state), "revision": 0, "changed_at": time.time()}
                connection.execute(self._database.insert(tables.slots).values(row).on_conflict_do_nothing())

    def save_offer(self, run_id: str, images: int | None) -> None:
        self._update_run(run_id, images_offered=images)

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

    def end_run(
        self, run_id: str, state: RunState, at: float, summary: str, lesson: tuple[BaselineKey, FinishedRun] | None
    ) -> None:
        """Store how a run ended; it teaches its baseline once, however often it is reopened and ended again."""
        with self._database.writing() as connection:
            _update_run(connection, run_id, state=state.value, ended_at=at, summary=summary)
            if lesson is None:
                return
            untaught = sa.update(tables.runs).where(tables.runs.c.run_id == run_id, tables.runs.c.taught_at.is_(None))
            if connection.execute(untaught.values(taught_at=at)).rowcount == 1:
                self._teach(connection, *lesson, at)

    def _run_column(self, run_id: str, column: sa.Column[Any]) -> Any:
        with self._database.reading() as connection:
            return connection.execute(sa.select(column).where(tables.runs.c.run_id == run_id)).scalar_one_or_none()

    def _update_run(self, run_id: str, **values: Any) -> None:
        with self._database.writing() as connection:
            _update_run(connection, run_id, **values)

    # -- slots ---------------------------------------------------------------------------------------------------------

    def slot(self, run_id: str, slot: int) -> StoredSlot | None:
        with self._database.reading() as connection:
            row = connection.execute(_slot_query(run_id, slot)).one_or_none()
        return _slot(row) if row else None

    def slots(self, run_id: str) -> list[StoredSlot]:
        with self._database.reading() as connection:
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
        with self._database.writing() as connection:
            changed = connection.execute(
                sa.update(tables.slots)
                .where(
                    tables.slots.c.run_id == after.run_id,
                    tables.slots.c.slot == after.slot,
                    tables.slots.c.revision == before.revision,
                )
                .values({**_slot_row(after), "revision": before.revision + 1, "changed_at": time.time()})
            )
            if changed.rowcount != 1:
                raise Conflict(f"slot {after.slot} of {after.run_id} has moved on from revision {before.revision}")
            if attempt is not None:
                row = _attempt_row(attempt)
                connection.execute(
                    self._database.insert(tables.attempts)
                    .values(row)
                    .on_conflict_do_update(index_elements=[tables.attempts.c.pod_uid], set_=row)
                )
            if trip is not None:
                row = _trip_row(trip)
                connection.execute(
                    self._database.insert(tables.trips)
                    .values(row)
                    .on_conflict_do_update(index_elements=list(tables.trips.primary_key), set_=row)
                )
            if (struck or cleared) and attempt is not None:
                self._note_suspects(connection, attempt.run_id, attempt.pod_uid, struck, cleared)
        return StoredSlot(after, before.revision + 1)

    def saw(self, run_id: str, at_by_slot: Mapping[int, float]) -> None:
        """Note when the breaker last saw each slot; whoever advances a slot meanwhile is not disturbed."""
        if not at_by_slot:
            return
        mine = sa.update(tables.slots).where(
            tables.slots.c.run_id == run_id, tables.slots.c.slot == sa.bindparam("seen_slot")
        )
        with self._database.writing() as connection:
            connection.execute(
                mine.values(seen_at=sa.bindparam("seen_at_now")),
                [{"seen_slot": slot, "seen_at_now": at} for slot, at in at_by_slot.items()],
            )

    # -- attempts, trips, suspects -------------------------------------------------------------------------------------

    def attempts(self, run_id: str, slot: int | None = None) -> list[Attempt]:
        query = sa.select(tables.attempts).filter_by(run_id=run_id).order_by(tables.attempts.c.created_at)
        if slot is not None:
            query = query.where(tables.attempts.c.slot == slot)
        with self._database.reading() as connection:
            return [_attempt(row) for row in connection.execute(query)]

    def placed(self, pod_uid: str, node: str) -> None:
        """Note the node of a pod, which nobody knew when it was created."""
        with self._database.writing() as connection:
            mine = sa.update(tables.attempts).where(tables.attempts.c.pod_uid == pod_uid)
            connection.execute(mine.values(node=node))

    def trips(self, run_id: str) -> list[StoredTrip]:
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(tables.trips).filter_by(run_id=run_id).order_by(tables.trips.c.at))
            return [StoredTrip(Trip.from_json(row.trip), row.remedy, row.remedy_reason) for row in rows]

    def suspects(self, source: Source) -> list[Suspect]:
        query = sa.select(tables.suspects).filter_by(job=job_key(source)).order_by(tables.suspects.c.noted_at)
        with self._database.reading() as connection:
            return [Suspect.model_validate_json(row.suspect) for row in connection.execute(query)]

    def strike(self, run_id: str, pod_uid: str, struck: Sequence[Suspect]) -> None:
        """Note the suspects of a pod that is no slot's, once however often its end is told."""
        with self._database.writing() as connection:
            self._note_suspects(connection, run_id, pod_uid, struck, ())

    def _note_suspects(
        self,
        connection: sa.Connection,
        run_id: str,
        pod_uid: str,
        struck: Sequence[Suspect],
        cleared: Sequence[str],
    ) -> None:
        source = Source.model_validate_json(
            connection.execute(sa.select(tables.runs.c.source).filter_by(run_id=run_id)).scalar_one()
        )
        job = job_key(source)
        for suspect in struck:
            row = {
                "job": job,
                "image_id": suspect.image_id,
                "suspect": suspect.model_dump_json(),
                "pod_uid": pod_uid,
                "noted_at": time.time(),
            }
            keys = [tables.suspects.c.job, tables.suspects.c.image_id]
            connection.execute(
                self._database.insert(tables.suspects)
                .values(row)
                .on_conflict_do_update(index_elements=keys, set_=row, where=tables.suspects.c.pod_uid != pod_uid)
            )
        if cleared:
            connection.execute(
                sa.delete(tables.suspects).where(tables.suspects.c.job == job, tables.suspects.c.image_id.in_(cleared))
            )

    # -- baselines -----------------------------------------------------------------------------------------------------

    def baseline(self, key: BaselineKey) -> Baseline | None:
        with self._database.reading() as connection:
            row = connection.execute(sa.select(tables.baselines).filter_by(**key.model_dump())).one_or_none()
        return Baseline.from_json(row.baseline) if row else None

    def baselines(self, pipeline: str | None = None) -> list[Baseline]:
        """Of every model version and kind of job, of one pipeline or of all, without those that cannot be read."""
        query = sa.select(tables.baselines).order_by(tables.baselines.c.updated_at.desc())
        if pipeline is not None:
            query = query.where(tables.baselines.c.pipeline == pipeline)
        with self._database.reading() as connection:
            return list(readable(connection.execute(query), _baseline, _baseline_name))

    def _teach(self, connection: sa.Connection, key: BaselineKey, run: FinishedRun, at: float) -> None:
        mine = [tables.baselines.c[name] == value for name, value in key.model_dump().items()]
        first = {**key.model_dump(), "baseline": Baseline(key=key).to_json(), "updated_at": at}
        connection.execute(self._database.insert(tables.baselines).values(first).on_conflict_do_nothing())
        # Locked: two runs that end at once teach one after the other.
        known = connection.execute(sa.select(tables.baselines.c.baseline).where(*mine).with_for_update()).scalar_one()
        learnt = Baseline.from_json(known).observe(run).to_json()
        connection.execute(sa.update(tables.baselines).where(*mine).values(baseline=learnt, updated_at=at))


def _baseline(row: sa.Row[Any]) -> Baseline:
    return Baseline.from_json(row.baseline)


def _baseline_name(row: sa.Row[Any]) -> str:
    return f"baseline of {row.pipeline} {row.model_version}, {row.job_kind}"


def job_key(source: Source) -> str:
    """What two runs of one job share: numbers are the source's own, so its address belongs to them."""
    return f"{source.kind}:{source.uri or ''}:{source.job}"[-253:]


def _update_run(connection: sa.Connection, run_id: str, **values: Any) -> None:
    changed = connection.execute(sa.update(tables.runs).where(tables.runs.c.run_id == run_id).values(**values))
    if changed.rowcount != 1:
        raise FixConfig(f"there is no run {run_id}; `tidegate runs` lists them")


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
        "images_offered": run.images_offered,
    }


def _run(row: sa.Row[Any]) -> Run:
    values = dict(row._mapping)
    for stored_beside in ("job", "probe_limit_bytes", "probe_report", "taught_at"):
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
    return StoredSlot(SlotState.from_json(row.state), row.revision, row.changed_at, row.seen_at)


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
        "cause": stored.trip.cause.value,
        "at": stored.trip.at,
        "trip": stored.trip.to_json(),
        "remedy": stored.remedy,
        "remedy_reason": stored.remedy_reason,
    }
