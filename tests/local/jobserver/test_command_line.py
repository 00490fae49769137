"""The command line, as a person uses it beside a running server."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

from tidegate_local.jobserver.control import JobServer, JobServerProcess


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tidegate_local.jobserver", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_commands_make_a_job_switch_faults_and_show_the_truth(server: JobServerProcess) -> None:
    workdir = str(server.workdir)
    made = run("--workdir", workdir, "create-job", "--images", "2", "--job-lease-seconds", "5")
    job = json.loads(made.stdout)["job"]
    assert run("--workdir", workdir, "fault", "hang", "--job", str(job), "--times", "1").returncode == 0
    assert json.loads(run("--workdir", workdir, "faults").stdout)[0]["kind"] == "hang"
    assert json.loads(run("--workdir", workdir, "calm").stdout) == []
    assert json.loads(run("--workdir", workdir, "truth", str(job), "--totals").stdout)["images"] == 2
    assert job in json.loads(run("--workdir", workdir, "reap").stdout)


def test_a_command_without_a_server_says_how_to_start_one(tmp_path: Path) -> None:
    answer = run("--workdir", str(tmp_path), "faults")
    assert answer.returncode == 1
    assert "start one with" in answer.stderr


def test_a_second_server_on_the_same_workdir_is_refused(server: JobServerProcess) -> None:
    answer = run("--workdir", str(server.workdir))
    assert answer.returncode == 1
    assert "another job server runs" in answer.stderr
    assert server.is_healthy()


def test_an_empty_token_file_is_refused_with_advice(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("")
    answer = run("--workdir", str(tmp_path))
    assert answer.returncode == 1
    assert "is empty" in answer.stderr


def test_the_stacks_own_command_line_offers_the_job_server_too(server: JobServerProcess) -> None:
    command = [sys.executable, "-m", "tidegate_local", "jobserver", "--workdir", str(server.workdir), "faults"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (answer.returncode, json.loads(answer.stdout)) == (0, [])


def test_help_lists_the_commands_and_the_options_of_every_fault() -> None:
    assert "create-job" in run("--help").stdout
    assert "image_redirect" in run("--workdir", "x", "fault", "--help").stdout


def test_the_token_lies_where_it_was_asked_for_readable_by_its_owner_alone(tmp_path: Path) -> None:
    token_file = tmp_path / "elsewhere"
    with JobServerProcess(tmp_path / "work", token_file=token_file) as server:
        assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
        assert JobServer.of_workdir(tmp_path / "work").is_healthy()
        assert server.token not in (tmp_path / "work" / "jobserver.log").read_text()
