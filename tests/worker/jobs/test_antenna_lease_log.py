"""What a worker was lent and did not answer: on disk, until the server or an answer says that it is over."""

from __future__ import annotations

import stat
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.worker.jobs.answers import PIPELINE, answered
from tests.worker.jobs.demo_server import DemoServer, wait_until

from tidegate_worker.jobs.antenna.api import AntennaAccess, AntennaApi
from tidegate_worker.jobs.antenna.job import AntennaJob, AntennaLimits
from tidegate_worker.jobs.antenna.lease_log import LeaseLog, LoggedLease
from tidegate_worker.jobs.antenna.poster import PostLimits
from tidegate_worker.jobs.antenna.registry import register
from tidegate_worker.ports import JobState, Task

QUICK = PostLimits(linger_seconds=0.05, pause_seconds=0.05, pause_most_seconds=0.2, answer_seconds=5.0)
LIMITS = AntennaLimits(lease_seconds=1.0, patience_seconds=2.0, hang_seconds=0.5, post=QUICK)


def lease(image_id: str, **more: object) -> LoggedLease:
    known = LoggedLease(image_id, f"http://images/{image_id}.jpg?Signature=x", "$JS.ACK.s.c.1.2.3.4.5", 1, 1000.0)
    return replace(known, **more)  # type: ignore[arg-type]


def reopened(log: LeaseLog, directory: Path) -> LeaseLog:
    log.close()
    return LeaseLog(directory)


def test_what_is_lent_and_not_answered_outlives_its_process(tmp_path: Path) -> None:
    log = LeaseLog(tmp_path)
    log.leased([lease("a"), lease("b"), lease("c")])
    log.leased([lease("c", delivery=2)])
    log.done(["b", "unknown"])
    log = reopened(log, tmp_path)
    assert log.open == [lease("a"), lease("c", delivery=2)]


def test_only_its_owner_may_read_the_signed_urls(tmp_path: Path) -> None:
    LeaseLog(tmp_path).leased([lease("a")])
    assert stat.S_IMODE((tmp_path / "leases.jsonl").stat().st_mode) == 0o600


def test_a_torn_line_costs_itself_alone(tmp_path: Path) -> None:
    log = LeaseLog(tmp_path)
    log.leased([lease("a"), lease("b")])
    with (tmp_path / "leases.jsonl").open("ab") as file:
        file.write(b'{"leased": {"image_id": "c", "ur')
    log = reopened(log, tmp_path)
    log.leased([lease("d")])
    assert [each.image_id for each in reopened(log, tmp_path).open] == ["a", "b", "d"]


def test_what_is_done_does_not_pile_up(tmp_path: Path) -> None:
    log = LeaseLog(tmp_path)
    log.leased([lease("stays")])
    for number in range(6000):
        log.done([str(number)])
        log.leased([lease(str(number))])
        log.done([str(number)])
    assert (tmp_path / "leases.jsonl").stat().st_size < 2_000_000
    assert reopened(log, tmp_path).open == [lease("stays")]


def test_a_cleared_log_is_empty_for_a_successor(tmp_path: Path) -> None:
    log = LeaseLog(tmp_path)
    log.leased([lease("a")])
    log.clear()
    assert reopened(log, tmp_path).open == []


@pytest.fixture
def registered(demo: DemoServer) -> DemoServer:
    register(AntennaApi(AntennaAccess(base_url=demo.api_url, token=demo.token)), "tidegate test", [PIPELINE])
    return demo


def opened(demo: DemoServer, job: str, state: Path) -> AntennaJob:
    return AntennaJob(AntennaAccess(base_url=demo.api_url, token=demo.token), job, PIPELINE, state, limits=LIMITS)


def leased_and_abandoned(demo: DemoServer, job: str, state: Path, count: int) -> list[Task]:
    """A worker that leases and ends without a word."""
    worker = opened(demo, job, state)
    tasks: list[Task] = []
    wait_until(lambda: bool(tasks.extend(worker.lease(count)) or len(tasks) >= count))
    worker.close()
    return tasks


def answers_all(job: AntennaJob, seconds: float = 15.0) -> list[Task]:
    """Every task that comes until the job is complete."""
    seen: list[Task] = []
    give_up_at = time.monotonic() + seconds
    while job.progress().state is not JobState.COMPLETE:
        assert time.monotonic() < give_up_at, f"the job does not end; seen {len(seen)}"
        tasks = job.lease(4)
        seen += tasks
        job.answer([answered(task) for task in tasks], lambda _: None)
        time.sleep(0.05)
    return seen


def test_a_task_that_was_delivered_for_the_last_time_to_a_dead_worker_is_finished(
    registered: DemoServer, tmp_path: Path
) -> None:
    number = registered.create_job(6, "moths", lease_seconds=1.0)
    leased_and_abandoned(registered, number, tmp_path, 6)
    time.sleep(1.2)
    # The leases of the first have run out: the server delivers all of them for the second and last time.
    worker = opened(registered, number, tmp_path)
    worker.prove()
    worker.close()
    leased_and_abandoned(registered, number, tmp_path, 6)
    time.sleep(1.5)
    job = opened(registered, number, tmp_path)
    seen = answers_all(job)
    assert {task.image_id for task in seen} == {image["image_id"] for image in registered.truth(number)["images"]}
    totals = registered.truth(number)["totals"]
    assert (totals["saved"], totals["lost"]) == (6, 0)
    job.close()


def test_a_lease_that_still_runs_is_taken_up_at_once(registered: DemoServer, tmp_path: Path) -> None:
    number = registered.create_job(3, "moths", lease_seconds=60.0)
    access = AntennaAccess(base_url=registered.api_url, token=registered.token)
    limits = replace(LIMITS, lease_seconds=60.0)
    first = AntennaJob(access, number, PIPELINE, tmp_path, limits=limits)
    held: list[Task] = []
    wait_until(lambda: bool(held.extend(first.lease(3)) or len(held) == 3))
    first.close()
    second = AntennaJob(access, number, PIPELINE, tmp_path, limits=limits)
    again = second.lease(3)
    assert {task.image_id for task in again} == {task.image_id for task in held}
    second.answer([answered(task) for task in again], lambda _: None)
    registered.wait_for(number, "SUCCESS", seconds=10)
    assert registered.truth(number)["totals"]["answered_once"] == 3
    second.close()


def test_leases_of_a_cancelled_job_are_forgotten(registered: DemoServer, tmp_path: Path) -> None:
    number = registered.create_job(4, "moths", lease_seconds=60.0)
    leased_and_abandoned(registered, number, tmp_path, 4)
    registered.call("POST", f"/api/v2/jobs/{number}/cancel/")
    registered.wait_for(number, "REVOKED")
    job = opened(registered, number, tmp_path)
    assert job.progress().state is JobState.INACTIVE
    assert job.lease(4) == []
    job.close()
