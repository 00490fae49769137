"""The run store on real databases: nothing half written, nothing written over, whoever else writes or dies."""

from __future__ import annotations

import multiprocessing
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config as AlembicConfig
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from tests.adapters.examples import RUN_ID, SOURCE, attempt, moved, plan, planned, run, the_slot, trip
from tests.adapters.other_process import KEY, advance_and_die, count_up, entered, opened, taught

from tidegate.adapters.run_store import Conflict, JobTaken, RunState, RunStore, StoredTrip, tables
from tidegate.adapters.run_store.database import MIGRATIONS
from tidegate.core.contract import Suspect, TripCause
from tidegate.core.errors import FixConfig, RetryLater
from tidegate.core.slot import Phase, SlotState

InProcesses = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def in_processes() -> Iterator[InProcesses]:
    """Calls a function of `other_process` with each tuple of arguments at once, in a process each."""
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        yield lambda what, *each: pool.starmap(what, each, chunksize=1)


# -- the schema --------------------------------------------------------------------------------------------------------


def test_the_migrations_make_the_tables_that_the_code_describes(url: str) -> None:
    RunStore.open(url).close()
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        options = {"include_name": lambda name, kind, _: kind != "table" or name != tables.SCHEMA_TABLE}
        context = MigrationContext.configure(connection, opts={"compare_type": True, **options})
        assert compare_metadata(context, tables.metadata) == []
    engine.dispose()


def test_the_newest_revision_is_the_newest_migration() -> None:
    assert ScriptDirectory(str(MIGRATIONS)).get_current_head() == tables.NEWEST_REVISION


def test_many_processes_may_open_a_new_store_at_once(url: str, in_processes: InProcesses) -> None:
    assert in_processes(opened, *[(url,)] * 4) == [0] * 4


def test_who_only_reads_waits_until_others_have_migrated_the_store(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/runs.sqlite"
    config = AlembicConfig()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    reader = RunStore.open(url, migrate=False)
    for _ in range(2):
        with pytest.raises(RetryLater, match=r"schema 0001.*Airflow"):
            reader.totals()
    RunStore.open(url).close()
    assert reader.totals().kinds == []
    reader.close()
    engine.dispose()


def test_who_only_reads_finds_an_empty_store_set_up(tmp_path: Path) -> None:
    reader = RunStore.open(f"sqlite:///{tmp_path}/runs.sqlite", migrate=False)
    assert reader.runs() == []
    reader.close()


def test_a_store_of_a_newer_release_is_refused_with_what_to_do(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/runs.sqlite"
    RunStore.open(url).close()
    with sqlite3.connect(tmp_path / "runs.sqlite") as connection:
        connection.execute(f"UPDATE {tables.SCHEMA_TABLE} SET version_num = '9999'")
    with pytest.raises(FixConfig, match=r"schema 9999.*newest release"):
        RunStore.open(url)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite://", "in memory"),
        ("sqlite:////nowhere/at/all/runs.sqlite", "/nowhere/at/all"),
        ("mysql://somewhere/runs", "not mysql"),
        ("no url", "TIDEGATE_RUN_STORE_URL"),
        ("postgresql+nodriver://USER:hidden@host/runs", "TIDEGATE_RUN_STORE_URL"),
    ],
)
def test_a_url_that_cannot_be_opened_is_named_without_its_password(url: str, words: str) -> None:
    with pytest.raises(FixConfig, match=words) as refused:
        RunStore.open(url)
    assert "hidden" not in str(refused.value)


def test_a_database_that_is_away_is_asked_again_later(tmp_path: Path) -> None:
    (tmp_path / "runs.sqlite").mkdir()
    with pytest.raises(RetryLater, match="does not answer"):
        RunStore.open(f"sqlite:///{tmp_path}/runs.sqlite")


# -- slots -------------------------------------------------------------------------------------------------------------


def test_of_two_writers_of_one_revision_the_second_is_told(store: RunStore) -> None:
    planned(store)
    before = the_slot(store)
    store.advance(before, moved(before.state, reason="the first"))
    with pytest.raises(Conflict):
        store.advance(before, moved(before.state, reason="the second"))
    assert the_slot(store).state.reason == "the first"


def test_no_write_of_two_processes_is_lost(store: RunStore, url: str, in_processes: InProcesses) -> None:
    planned(store)
    in_processes(count_up, (url, 40), (url, 40))
    found = the_slot(store)
    assert (found.state.generation, found.revision) == (80, 80)


def test_a_conflict_writes_nothing_of_what_belongs_to_the_step(store: RunStore) -> None:
    planned(store)
    before = the_slot(store)
    store.advance(before, moved(before.state, reason="moved"))
    stale: dict[str, Any] = {"attempt": attempt(before.state), "trip": StoredTrip(trip(before.state), "resize", "why")}
    with pytest.raises(Conflict):
        store.advance(before, before.state, **stale, struck=[Suspect(image_id="image")])
    assert (store.attempts(RUN_ID), store.trips(RUN_ID), store.suspects(SOURCE)) == ([], [], [])


def test_a_kill_in_the_middle_of_a_step_leaves_nothing_of_it(store: RunStore, url: str) -> None:
    planned(store)
    process = multiprocessing.get_context("spawn").Process(target=advance_and_die, args=(url,))
    process.start()
    process.join(30)
    assert process.exitcode == -9
    assert (the_slot(store).revision, the_slot(store).state.reason) == (0, "")
    assert (store.attempts(RUN_ID), store.trips(RUN_ID), store.suspects(SOURCE)) == ([], [], [])
    # The dead writer's lock is gone with it.
    store.advance(the_slot(store), moved(the_slot(store).state, reason="on"))


def test_a_plan_comes_with_all_its_slots_and_twice_with_the_same(store: RunStore) -> None:
    made = planned(store, slots=3)
    before = the_slot(store, 1)
    store.advance(before, moved(before.state, limit_bytes=4 * made.limit_bytes))
    store.save_plan(RUN_ID, made, [SlotState.first(made, slot) for slot in range(3)])
    assert [slot.state.limit_bytes // made.limit_bytes for slot in store.slots(RUN_ID)] == [1, 4, 1]


# -- what belongs to a step --------------------------------------------------------------------------------------------


def test_an_attempt_is_opened_and_closed_as_one_record(store: RunStore) -> None:
    planned(store)
    made = attempt(the_slot(store).state)
    store.advance(the_slot(store), the_slot(store).state, attempt=made)
    closed = replace(made, ended_at=1_000_050.0, end="oom", exit_code=137, node="node-1", reason="killed")
    store.advance(the_slot(store), the_slot(store).state, attempt=closed)
    assert store.attempts(RUN_ID) == [closed]
    assert store.attempts(RUN_ID, slot=1) == []


def test_a_changed_answer_replaces_the_first_and_a_later_kill_stands_beside_it(store: RunStore) -> None:
    planned(store)
    state = the_slot(store).state
    held = trip(state)
    killed = trip(state, cause=TripCause.OOM, at=held.at + 5)
    for stored in (
        StoredTrip(held, "resize", "first"),
        StoredTrip(held, "relaunch_larger", "the resize was refused"),
        StoredTrip(killed, "relaunch_larger", "killed"),
    ):
        store.advance(the_slot(store), state, trip=stored)
    assert [(each.trip.cause, each.remedy_reason) for each in store.trips(RUN_ID)] == [
        ("velocity", "the resize was refused"),
        ("oom", "killed"),
    ]


def test_a_probe_strikes_its_suspects_once_however_often_its_end_is_told(store: RunStore) -> None:
    store.enter_run(run())
    for strikes in (1, 2):
        store.strike(RUN_ID, "probe-1", [Suspect(image_id="image", strikes=strikes)])
    assert store.suspects(SOURCE) == [Suspect(image_id="image", strikes=1)]
    store.strike(RUN_ID, "probe-2", [Suspect(image_id="image", strikes=2)])
    assert store.suspects(SOURCE) == [Suspect(image_id="image", strikes=2)]


def test_suspects_belong_to_the_job_and_outlive_the_run(store: RunStore) -> None:
    planned(store)
    state = the_slot(store).state
    one, two = Suspect(image_id="one"), Suspect(image_id="two", strikes=2, strikes_alone=1)
    store.advance(the_slot(store), state, attempt=attempt(state), struck=[one, two])
    store.advance(the_slot(store), state, attempt=attempt(state), cleared=["one"])
    assert store.suspects(SOURCE) == [two]
    assert store.suspects(SOURCE.model_copy(update={"job": "8"})) == []


# -- runs --------------------------------------------------------------------------------------------------------------


def test_a_repeated_task_finds_the_run_that_it_made(store: RunStore) -> None:
    first = store.enter_run(run())
    assert store.enter_run(run(created_at=2_000_000.0)) == first


def test_a_run_comes_back_as_it_was_stored(store: RunStore) -> None:
    made = planned(store)
    found = store.run(RUN_ID)
    assert found == replace(run(), plan=made, model_version="v1")


def test_a_job_that_is_being_run_is_not_given_to_a_second_run(store: RunStore) -> None:
    store.enter_run(run("a/1"))
    with pytest.raises(JobTaken, match="a/1"):
        store.enter_run(run("a/2"))
    assert store.run("a/2") is None


def test_another_job_and_an_ended_run_do_not_stand_in_the_way(store: RunStore) -> None:
    store.enter_run(run("a/1"))
    store.enter_run(run("a/2", source=SOURCE.model_copy(update={"job": "8"})))
    store.end_run("a/1", RunState.FAILED, 1_000_001.0, "{}", None)
    assert store.enter_run(run("a/3")).state is RunState.RUNNING


def test_a_run_that_resumes_another_ends_it(store: RunStore) -> None:
    store.enter_run(run("a/1"))
    store.enter_run(run("a/2", resume_of="a/1"))
    ended = store.run("a/1")
    assert ended is not None
    assert ended.state is RunState.FAILED


def test_of_runs_started_at_once_one_gets_the_job(store: RunStore, url: str, in_processes: InProcesses) -> None:
    assert sorted(in_processes(entered, *((url, f"a/{number}") for number in range(4)))) == [False] * 3 + [True]


def test_writing_to_a_run_that_is_not_there_says_so(store: RunStore) -> None:
    with pytest.raises(FixConfig, match="tidegate runs"):
        store.save_plan("nobody", plan("nobody"))


def test_runs_are_listed_newest_first_and_by_pipeline(store: RunStore) -> None:
    for number, pipeline in enumerate(("moths", "flies", "moths")):
        source = SOURCE.model_copy(update={"job": str(number)})
        store.enter_run(run(f"a/{number}", pipeline=pipeline, source=source, created_at=1_000_000.0 + number))
    assert [each.run_id for each in store.runs()] == ["a/2", "a/1", "a/0"]
    assert [each.run_id for each in store.runs(pipeline="moths", at_most=1)] == ["a/2"]


# -- baselines ---------------------------------------------------------------------------------------------------------


def test_runs_that_end_at_once_all_teach(store: RunStore, url: str, in_processes: InProcesses) -> None:
    for number in range(4):
        store.enter_run(run(f"a/{number}", source=SOURCE.model_copy(update={"job": str(number)})))
    in_processes(taught, *((url, f"a/{number}") for number in range(4)))
    learnt = store.baseline(KEY)
    assert learnt is not None
    assert (learnt.healthy_runs, len(learnt.recent)) == (4, 4)


def test_a_run_teaches_once_however_often_it_ends(store: RunStore, url: str) -> None:
    store.enter_run(run("a/1"))
    store.end_run("a/1", RunState.FAILED, 1_000_000.0, "{}", None)
    assert store.baseline(KEY) is None
    for _ in range(2):
        store.enter_run(run("a/1"))
        taught(url, "a/1")
    learnt = store.baseline(KEY)
    assert learnt is not None
    assert learnt.healthy_runs == 1


def test_a_locked_out_slot_reads_back_with_its_phase(store: RunStore) -> None:
    planned(store)
    before = the_slot(store)
    store.advance(before, moved(before.state, phase=Phase.LOCKED_OUT, reason="given up"))
    assert the_slot(store).state.phase is Phase.LOCKED_OUT


# -- what the exporter reads -------------------------------------------------------------------------------------------


def test_sums_are_kept_by_pipeline_and_model_version(store: RunStore) -> None:
    planned(store)
    before = the_slot(store)
    told = StoredTrip(trip(before.state), "resize", "it grows")
    store.advance(before, before.state, attempt=attempt(before.state, ended_at=2_000_000.0, end="oom"), trip=told)
    numbers = '{"allocated_gib_hours": 2.0, "maq": 0.5, "images_redone": 3, "pause_seconds": 20.0}'
    store.end_run(RUN_ID, RunState.FAILED, 2_000_000.0, numbers, None)
    totals = store.totals()
    assert totals.kinds == [("moths", "v1")]
    assert totals.runs[("moths", "v1", "failed")] == 1
    assert totals.trips[("moths", "v1", "velocity")] == 1
    assert totals.oom_kills[("moths", "v1")] == 1
    assert totals.images_redone[("moths", "v1")] == 3
    assert totals.used_byte_seconds[("moths", "v1")] == 2**30 * 3600.0


def test_recent_runs_are_those_that_run_and_those_that_ended_since(store: RunStore) -> None:
    planned(store)
    assert [each.run_id for each in store.recent_runs(3_000_000.0)] == [RUN_ID]
    store.end_run(RUN_ID, RunState.DONE, 2_000_000.0, "{}", None)
    assert store.recent_runs(2_000_001.0) == []
    assert store.totals().images_redone[("moths", "v1")] == 0
    assert [each.run_id for each in store.recent_runs(1_999_999.0)] == [RUN_ID]


def test_what_the_breaker_saw_disturbs_nobody_who_writes(store: RunStore) -> None:
    planned(store)
    before = the_slot(store)
    store.saw(RUN_ID, {0: 1_000_500.0})
    after = store.advance(before, moved(before.state, reason="moved"))
    assert (the_slot(store).revision, the_slot(store).seen_at) == (after.revision, 1_000_500.0)
