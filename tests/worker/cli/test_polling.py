"""Serving whatever jobs are open: whose turn it is, and what a turn leaves to the next."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from tests.worker.cli.shell import worker
from tests.worker.jobs.demo_server import DemoServer, demo_server

from tidegate.core.contract import ExitCode
from tidegate.core.errors import FixConfig
from tidegate_worker.cli.composition import Parts
from tidegate_worker.cli.polling import OpenJobs, Turn, TurnRules
from tidegate_worker.jobs.antenna.job import AntennaLimits
from tidegate_worker.pipeline.drain import Drain
from tidegate_worker.ports import Answer, JobProgress, JobState, Task
from tidegate_worker.settings import AntennaSettings, Settings

PIPELINE = "tidegate_demo"
QUICK = TurnRules(patience_seconds=5.0, round_seconds=2.0, shortest_seconds=1.0, lease_seconds=0.5)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoServer]:
    folder = tmp_path_factory.mktemp("jobserver")
    with demo_server(folder, save_delay_seconds=0.0, empty_poll_seconds=0.05, collect_seconds=0.0) as running:
        ran = worker(
            "register", "--pipeline", PIPELINE, folder=folder,
            environment={"TIDEGATE_ANTENNA_URL": running.api_url, "TIDEGATE_ANTENNA_TOKEN": running.token},
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        yield running


def settings(demo: DemoServer, folder: Path, **more: str) -> Settings:
    values = {
        "TIDEGATE_ANTENNA_URL": demo.api_url,
        "TIDEGATE_ANTENNA_TOKEN": demo.token,
        "TIDEGATE_ALLOWED_NETWORKS": "127.0.0.0/8",
        "TIDEGATE_STAGING_DIR": str(folder / "staging"),
        "TIDEGATE_METRICS_PORT": "-1",
        "TIDEGATE_POLL_SECONDS": "0.1",
        **more,
    }
    file = folder / "settings.env"
    file.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    return Settings.read(file)


def serve(settings: Settings, *, probe: bool = True) -> int:
    return OpenJobs(settings, Parts(settings), Drain(), (PIPELINE,), probe=probe, rules=QUICK).serve(once=True)


def test_open_jobs_take_turns_and_no_image_is_computed_twice(
    demo: DemoServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = [demo.create_job(60, PIPELINE, kind="tiny") for _ in range(2)]
    for job in jobs:
        demo.wait_for(job, "STARTED")
    caplog.set_level(logging.INFO)
    assert serve(settings(demo, tmp_path, TIDEGATE_DEMO_INFER_SECONDS_PER_IMAGE="0.05")) == ExitCode.DONE
    assert [demo.status(job) for job in jobs] == ["SUCCESS", "SUCCESS"]
    assert "other jobs wait for their turn" in caplog.text
    for job in jobs:
        truth = demo.truth(job)
        assert {image["downloads"] for image in truth["images"]} == {1}
        assert truth["totals"]["answered_once"] == 60


def test_a_job_without_work_is_left_before_anything_is_planned_and_rests(
    demo: DemoServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    idle = demo.create_job(3, PIPELINE, kind="tiny", start=False)
    busy = demo.create_job(5, PIPELINE, kind="tiny")
    demo.wait_for(busy, "STARTED")
    caplog.set_level(logging.INFO)
    assert serve(settings(demo, tmp_path)) == ExitCode.DONE
    assert demo.status(busy) == "SUCCESS"
    assert demo.status(idle) == "CREATED"
    assert caplog.text.count("saturates") == 1
    # Looked at once; where starting takes long, the probe's own time is over before the patience with the job.
    assert caplog.text.count("other jobs may have some") <= 1


def test_a_token_that_may_not_lease_is_told_before_any_job_is_open(demo: DemoServer, tmp_path: Path) -> None:
    finished = demo.create_job(2, PIPELINE, kind="tiny")
    demo.wait_for(finished, "STARTED")
    serve(settings(demo, tmp_path), probe=False)
    assert demo.status(finished) == "SUCCESS"
    plain = demo.call("POST", "/demo/users/", {"email": "reader@example.org", "password": "p"})["token"]
    with pytest.raises(FixConfig, match="superuser"):
        serve(settings(demo, tmp_path, TIDEGATE_ANTENNA_TOKEN=plain))


class Scripted:
    """A job that leases what it is told."""

    lease_seconds = 300.0

    def __init__(self, *answers: int) -> None:
        self._answers = list(answers)
        self.waiting = 0

    def prove(self) -> None:
        pass

    def lease(self, at_most: int) -> Sequence[Task]:
        return [Task(str(number), "") for number in range(min(at_most, self._answers.pop(0)))]

    def progress(self) -> JobProgress:
        return JobProgress(JobState.OPEN)

    def answer(self, answers: Sequence[Answer], on_acked: Callable[[Answer], None]) -> None:
        pass

    def outstanding(self) -> int:
        return self.waiting

    def flush(self, timeout_seconds: float) -> bool:
        return timeout_seconds >= 0

    def close(self) -> None:
        pass


def test_a_turn_that_was_long_enough_ends_where_others_wait_and_leases_no_more() -> None:
    drain = Drain()
    turn = Turn(Scripted(4), drain, 0.0, 60.0, others_wait=lambda: True)
    assert len(turn.lease(4)) == 4
    assert not drain.asked
    assert list(turn.lease(4)) == []
    assert drain.asked


def test_a_turn_goes_on_where_nobody_waits() -> None:
    drain = Drain()
    turn = Turn(Scripted(4, 4), drain, 0.0, 60.0, others_wait=lambda: False)
    assert len(turn.lease(4)) == len(turn.lease(4)) == 4
    assert not drain.asked


def test_a_job_whose_answers_are_still_on_their_way_is_waited_for() -> None:
    drain = Drain()
    job = Scripted(0, 0)
    job.waiting = 1
    turn = Turn(job, drain, 60.0, 0.0, others_wait=lambda: True)
    turn.lease(1)
    assert not drain.asked
    job.waiting = 0
    turn.lease(1)
    assert drain.asked


def test_a_job_that_hangs_is_helped_within_the_patience_it_is_given() -> None:
    polls = 2 * AntennaSettings.model_fields["poll_seconds"].default
    assert TurnRules().patience_seconds > AntennaLimits().hang_seconds + polls


@pytest.mark.parametrize("jobs", [1, 2, 4])
def test_a_round_stays_within_what_antenna_allows_a_silent_job(jobs: int) -> None:
    rules = TurnRules()
    assert jobs * (rules.turn_seconds(jobs) + rules.lease_seconds) < 600
