"""What a shell sees: help, one line for each error, exit codes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.worker.cli.shell import worker

from tidegate.core.contract import GIB, MIB, Assignment, ExitCode, IngestSettings, Source, SourceKind, WorkerReport
from tidegate.core.errors import ContractMismatch, FixConfig, NeedsHuman, RetryLater
from tidegate_worker.cli.main import exit_code_of

VERBS = ["run", "probe", "tune", "doctor", "register", "weights"]


def assignment(pipeline: str = "tidegate_demo") -> Assignment:
    return Assignment(
        run_id="run-1",
        slot=2,
        generation=3,
        source=Source(kind=SourceKind.ANTENNA, uri="http://127.0.0.1:9/api/v2", job="88"),
        pipeline=pipeline,
        model_version="1",
        cap_bytes=4 * GIB,
        ingest=IngestSettings(
            budget_bytes=256 * MIB,
            micro_batch_images=1,
            downloads_in_flight=1,
            staged_images=1,
            staging_bytes=64 * MIB,
            decode_threads=1,
            lease_images=1,
        ),
        grace_seconds=30.0,
    )


@pytest.mark.parametrize("words", [[], *([verb] for verb in VERBS)])
def test_help_is_there_for_every_verb(tmp_path: Path, words: list[str]) -> None:
    told = worker(*words, "--help", folder=tmp_path)
    assert told.returncode == 0
    assert told.stdout.startswith("usage: tidegate-worker")


def test_a_worker_that_is_told_to_end_while_it_starts_ends_before_it_has_anything(tmp_path: Path) -> None:
    # Ignored at first, as for process 1 of a container.
    child = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "tidegate_worker", "run", "--manifest", "none.csv"],
        cwd=tmp_path,
        stderr=(tmp_path / "imported").open("w"),
        preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    )
    deadline = time.monotonic() + 60
    while child.poll() is None and time.monotonic() < deadline:
        child.terminate()
        time.sleep(0.005)
    assert child.wait(timeout=1) == ExitCode.DRAINED
    assert "torch" not in (tmp_path / "imported").read_text()


def test_help_and_parsing_import_nothing_heavy() -> None:
    program = (
        "import sys; from tidegate_worker.cli.main import main\n"
        "try: main(['run', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'requests', 'fsspec', 'PIL'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout.endswith("\n[]\n")


@pytest.mark.parametrize(
    ("words", "environment", "told"),
    [
        (["run", "--antenna-job", "x"], {}, "--antenna-job wants a number"),
        (["run", "--manifest", "m.csv"], {}, "--pipeline"),
        (["run", "--manifest", "m.csv", "--pipeline", "tidegate_demo"], {}, "--output"),
        (["tune"], {}, "name a job"),
        (["probe"], {}, "name a job"),
        (["tune", "--report", "nowhere.json"], {}, "nowhere.json cannot be read"),
        (["run"], {"TIDEGATE_LEASE_IMAGES": "0"}, "TIDEGATE_LEASE_IMAGES"),
        (["run"], {"TIDEGATE_PLAN": "{}"}, "Assignment."),
        (["run", "--antenna-job", "1"], {"TIDEGATE_PLAN": "{}"}, "Assignment."),
        (["weights", "--pipeline", "none_such"], {}, "none_such"),
        (["register", "--pipeline", "none_such"], {}, "none_such"),
        (["register", "--pipeline", "tidegate_demo"], {}, "no Antenna token"),
        (["weights"], {"TIDEGATE_CATALOGUE": "/none/such"}, "TIDEGATE_CATALOGUE"),
    ],
)
def test_what_a_person_must_change_is_told_in_one_line_with_exit_78(
    tmp_path: Path, words: list[str], environment: dict[str, str], told: str
) -> None:
    ran = worker(*words, folder=tmp_path, environment=environment)
    assert ran.returncode == 78
    (line,) = ran.stderr.splitlines()
    assert line.startswith("tidegate-worker: ")
    assert told in line


def test_errors_are_sorted_by_who_must_act() -> None:
    assert exit_code_of(RetryLater("later")) == 69
    assert {exit_code_of(error) for error in (FixConfig("x"), NeedsHuman("x"), ContractMismatch("P", "f", "x"))} == {78}


def test_a_named_job_beside_an_assignment_is_refused(tmp_path: Path) -> None:
    ran = worker("run", "--antenna-job", "1", folder=tmp_path, environment={"TIDEGATE_PLAN": assignment().to_json()})
    assert ran.returncode == 78
    assert "TIDEGATE_PLAN names a job already" in ran.stderr


@pytest.mark.parametrize("verb", ["run", "probe"])
def test_a_worker_that_cannot_begin_says_why_in_its_last_words(tmp_path: Path, verb: str) -> None:
    last_words = tmp_path / "termination-log"
    ran = worker(
        verb,
        folder=tmp_path,
        environment={
            "TIDEGATE_PLAN": assignment("none_such").to_json(),
            "TIDEGATE_TERMINATION_LOG": str(last_words),
        },
    )
    assert ran.returncode == 78
    report = WorkerReport.from_json(last_words.read_text())
    assert (report.run_id, report.slot, report.generation, report.phase) == ("run-1", 2, 3, "finished")
    assert report.exit_code == 78
    assert "none_such" in report.reason


def test_too_many_open_files_is_a_condition_with_a_remedy(tmp_path: Path) -> None:
    program = (
        "import errno, sys\n"
        "from tidegate_worker.cli import doctor, main\n"
        "def short(*_): raise OSError(errno.EMFILE, 'Too many open files')\n"
        "doctor.execute = short\n"
        "sys.exit(main.main(['doctor']))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False
    )
    assert ran.returncode == 78
    assert "too many open files" in ran.stderr
    assert "65536" in ran.stderr
