"""The command line against a real run store: what it shows, what it resets, and how it says what is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.adapters.examples import RUN_ID, SOURCE, attempt, moved, planned, run, the_slot, trip

from tidegate.adapters.configuration import configuration
from tidegate.adapters.run_store import JobTaken, RunState, RunStore, StoredTrip, tables
from tidegate.cli.command import main
from tidegate.core.baseline import BaselineKey, FinishedRun
from tidegate.core.contract import GIB, MIB, ExitCode
from tidegate.core.slot import Phase

DAY_SECONDS = 86_400.0
Tidegate = Callable[..., tuple[int, str, str]]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/runs.sqlite"


@pytest.fixture
def store(url: str) -> Iterator[RunStore]:
    opened = RunStore.open(url)
    yield opened
    opened.close()


@pytest.fixture
def tidegate(url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Tidegate]:
    """Calls the command line; its exit code, output and errors."""
    monkeypatch.setenv("TIDEGATE_RUN_STORE_URL", url)
    configuration.cache_clear()

    def called(*arguments: str) -> tuple[int, str, str]:
        try:
            code = main(arguments)
        except SystemExit as left:
            code = int(left.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    yield called
    configuration.cache_clear()


def locked_out(store: RunStore, slots: int = 1) -> None:
    """A run whose first slot is given up, with the pod and the trip that it came of."""
    planned(store, slots=slots)
    before = the_slot(store)
    shown = trip(before.state, evidence=("1.90 GiB of 2.00 GiB reaches the limit in 9 s",))
    store.advance(
        before,
        moved(before.state, phase=Phase.LOCKED_OUT, memory_ends=3, reason="2 remedies passed without a new ack"),
        attempt=attempt(before.state, ended_at=1_000_400.0, end="oom", exit_code=137, reason="killed\x1b[31m"),
        trip=StoredTrip(shown, "lock_out", "raise the cap"),
    )
    store.end_run(RUN_ID, RunState.LOCKED_OUT, 1_003_700.0, json.dumps({"oom_kills": 3}), None)


def test_runs_are_listed_newest_first(store: RunStore, tidegate: Tidegate) -> None:
    planned(store)
    store.enter_run(run("a/2", created_at=2_000_000.0, source=SOURCE.model_copy(update={"job": "8"})))
    code, out, _ = tidegate("runs")
    assert code == 0
    head, newest, oldest = out.splitlines()
    assert head.startswith("RUN ")
    assert newest.startswith("a/2 ")
    assert "2.00Gi" in oldest
    assert newest.index("running") == oldest.index("running") == head.index("STATE")


def test_runs_of_one_pipeline_as_json(store: RunStore, tidegate: Tidegate) -> None:
    planned(store)
    assert [each["run_id"] for each in json.loads(tidegate("runs", "--json", "--pipeline", "moths")[1])] == [RUN_ID]
    assert json.loads(tidegate("runs", "--json", "--pipeline", "flies")[1]) == []
    assert tidegate("runs", "--pipeline", "flies")[1] == "no runs\n"


@pytest.mark.parametrize("named", [RUN_ID, "manual__1"])
def test_a_run_is_shown_with_its_plan_slots_pods_trips_and_summary(
    store: RunStore, tidegate: Tidegate, named: str
) -> None:
    locked_out(store)
    code, out, _ = tidegate("show", named)
    assert code == 0
    for part in ("locked_out", "PLAN: limit 2.00Gi", "pod-0", "oom", "137", "reaches the limit in 9 s", "oom_kills  3"):
        assert part in out
    assert "\x1b" not in out


def test_a_run_as_json_holds_the_same(store: RunStore, tidegate: Tidegate) -> None:
    locked_out(store)
    shown = json.loads(tidegate("show", "--json", RUN_ID)[1])
    assert shown["slots"][0]["phase"] == "locked_out"
    assert shown["plan"]["limit_bytes"] == 2 * GIB
    assert shown["trips"][0]["remedy"] == "lock_out"
    assert shown["attempts"][0]["exit_code"] == 137


def test_a_run_that_was_never_planned_is_shown_too(store: RunStore, tidegate: Tidegate) -> None:
    store.enter_run(run())
    code, out, _ = tidegate("show", RUN_ID)
    assert code == 0
    assert "PLAN" not in out


def test_history_shows_percentiles_and_peaks_by_weekday(store: RunStore, tidegate: Tidegate) -> None:
    key = BaselineKey(pipeline="moths", model_version="v1", job_kind="antenna")
    for night in range(8):
        source = SOURCE.model_copy(update={"job": str(night)})
        store.enter_run(run(f"a/{night}", source=source))
        # 1970-01-01 was a Thursday.
        lesson = FinishedRun(at=night * DAY_SECONDS, images=10, peak_bytes=(night + 1) * GIB, floor_bytes=512 * MIB)
        store.end_run(f"a/{night}", RunState.DONE, night * DAY_SECONDS, "{}", (key, lesson))
    code, out, _ = tidegate("history", "moths")
    assert code == 0
    (thursday,) = [line.split() for line in out.splitlines() if line.startswith("Thu")]
    assert thursday == ["Thu", "2", "5.00Gi", "9.00Gi", "8.00Gi"] or thursday == [
        "Thu",
        "2",
        "4.50Gi",
        "8.00Gi",
        "8.00Gi",
    ]
    told = json.loads(tidegate("history", "moths", "--json")[1])["baselines"][0]
    assert told["healthy_runs"] == 8
    assert told["quantities"]["floor_bytes"]["p99"] == pytest.approx(512 * MIB, rel=0.06)
    assert told["peaks_by_weekday"]["3"]["max"] == 8 * GIB


def test_a_locked_out_slot_goes_on_with_a_new_cap_and_says_what_to_clear(store: RunStore, tidegate: Tidegate) -> None:
    locked_out(store, slots=2)
    code, out, _ = tidegate("reset", "manual__1", "--cap", "12Gi", "--limit", "10Gi", "--by", "ada")
    assert code == 0
    assert "clear the task group `inference` of DAG run manual__1 (tidegate_batch_inference)" in out
    state = the_slot(store).state
    assert (state.phase, state.cap_bytes, state.limit_bytes) == (Phase.CLOSED_WAITING, 12 * GIB, 10 * GIB)
    assert state.reason == "reset by ada"
    found = store.run(RUN_ID)
    assert found is not None
    assert (found.state, found.ended_at) == (RunState.RUNNING, None)
    # The slot that was not locked out is as it was.
    assert the_slot(store, 1).revision == 0


def test_nothing_is_reset_twice(store: RunStore, tidegate: Tidegate) -> None:
    locked_out(store)
    assert tidegate("reset", RUN_ID)[0] == 0
    code, out, err = tidegate("reset", RUN_ID)
    assert (code, out) == (ExitCode.CONFIGURATION, "")
    assert "slot 0 is closed_waiting" in err


def test_a_finished_slot_is_reset_only_by_its_number(store: RunStore, tidegate: Tidegate) -> None:
    planned(store)
    before = the_slot(store)
    store.advance(before, moved(before.state, phase=Phase.DONE))
    assert tidegate("reset", RUN_ID)[0] == ExitCode.CONFIGURATION
    assert tidegate("reset", RUN_ID, "--slot", "0", "--json")[0] == 0
    assert the_slot(store).state.phase is Phase.CLOSED_WAITING


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--cap", "64Gi"), "TIDEGATE_CAP_BYTES"),
        (("--cap", "8Gi", "--limit", "9Gi"), "raise the cap with the limit"),
        (("--slot", "7"), "nothing to reset"),
    ],
)
def test_a_reset_that_cannot_be_changes_nothing(
    store: RunStore, tidegate: Tidegate, arguments: tuple[str, ...], words: str
) -> None:
    locked_out(store)
    code, out, err = tidegate("reset", RUN_ID, *arguments)
    assert (code, out) == (ExitCode.CONFIGURATION, "")
    assert words in err
    assert the_slot(store).state.phase is Phase.LOCKED_OUT
    assert [each.state for each in store.runs()] == [RunState.LOCKED_OUT]


def test_a_job_that_another_run_has_taken_is_not_taken_back(store: RunStore, tidegate: Tidegate) -> None:
    locked_out(store)
    store.enter_run(run("a/2"))
    code, _, err = tidegate("reset", RUN_ID)
    assert code == 1
    assert "a/2" in err
    assert the_slot(store).state.phase is Phase.LOCKED_OUT
    with pytest.raises(JobTaken):
        store.enter_run(run())


@pytest.mark.parametrize("arguments", [("show", "nobody"), ("history", "nothing"), ("reset", "nobody", "--cap", "1Gi")])
def test_what_is_not_there_is_said_in_one_line_that_says_what_to_do(
    store: RunStore, tidegate: Tidegate, arguments: tuple[str, ...]
) -> None:
    code, out, err = tidegate(*arguments)
    assert (code, out) == (ExitCode.CONFIGURATION, "")
    assert err.startswith("tidegate: ")
    assert "`tidegate runs`" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [(), ("reset",), ("reset", RUN_ID, "--cap", "much"), ("reset", RUN_ID, "--cap", "0")]
)
def test_a_wrong_command_line_is_two(tidegate: Tidegate, arguments: tuple[str, ...]) -> None:
    assert tidegate(*arguments)[0] == 2


def test_a_dag_run_of_two_dags_must_be_named_in_full(store: RunStore, tidegate: Tidegate) -> None:
    for dag, job in (("one", "7"), ("two", "8")):
        store.enter_run(run(f"{dag}/manual__1", source=SOURCE.model_copy(update={"job": job})))
    code, _, err = tidegate("show", "manual__1")
    assert code == ExitCode.CONFIGURATION
    assert "one/manual__1" in err
    assert "two/manual__1" in err


def python_m_tidegate(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment: dict[str, Any] = {**os.environ, "TIDEGATE_RUN_STORE_URL": url}
    command = [sys.executable, "-m", "tidegate", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_the_schema_is_made_by_upgrade_and_the_module_is_a_command(url: str, tmp_path: Path) -> None:
    done = python_m_tidegate(url, "db", "upgrade")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{url} has schema {tables.NEWEST_REVISION}\n"
    assert (tmp_path / "runs.sqlite").exists()


def test_a_database_that_is_away_is_said_without_its_password() -> None:
    done = python_m_tidegate("postgresql+nodriver://tidegate:hidden@127.0.0.1:1/runs", "runs")
    assert done.returncode == ExitCode.CONFIGURATION
    assert "hidden" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
