"""Leases, drains and endings of whole runs: what is answered, what is left, and with which exit code."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.worker.engine.bed import (
    BedJob,
    BedPredictor,
    assignment,
    fetcher_of,
    jpeg,
    most_at_work,
    settings,
    tasks_of,
)

from tidegate.core.contract import ExitCode, WorkerReport
from tidegate.core.errors import FixConfig, RetryLater
from tidegate_worker import app
from tidegate_worker.pipeline.drain import Drain
from tidegate_worker.ports import DecodedImage, JobProgress, JobState, Task

IMAGES = {f"image-{number}": jpeg(seed=number) for number in range(20)}


def test_leases_start_small_and_never_exceed_the_plan(tmp_path: Path) -> None:
    job = BedJob(tasks_of([*IMAGES]))
    predictor = BedPredictor(seconds=0.02)
    app.run(assignment(lease_images=6), job, fetcher_of(IMAGES), predictor, settings(tmp_path))
    assert job.lease_sizes[0] <= 4
    assert most_at_work(job, predictor) <= 6


def test_a_slow_worker_leases_less_than_it_could_answer_in_a_third_of_the_lease(tmp_path: Path) -> None:
    job = BedJob(tasks_of([*IMAGES]), lease_seconds=6.0)
    predictor = BedPredictor(seconds=0.4)
    app.run(
        assignment(micro_batch_images=1, lease_images=20),
        job,
        fetcher_of(IMAGES),
        predictor,
        settings(tmp_path),
    )
    assert most_at_work(job, predictor) <= 6


def test_an_image_host_that_is_not_well_is_tried_again(tmp_path: Path) -> None:
    failures = {"image-1": 2, "image-2": 1}

    def stumble(url: str) -> None:
        name = url.split("/")[-1].split("?")[0]
        if failures.get(name, 0):
            failures[name] -= 1
            raise RetryLater("503", 0.01)

    fetcher = fetcher_of(IMAGES)
    fetcher.before_fetch = stumble
    report = app.run(assignment(), BedJob(tasks_of([*IMAGES])), fetcher, BedPredictor(), settings(tmp_path))
    assert (report.acked, report.failed) == (20, 0)


@pytest.mark.parametrize("last_delivery", [True, False])
def test_what_cannot_be_fetched_within_its_lease_fails_only_if_no_delivery_follows(
    tmp_path: Path, last_delivery: bool
) -> None:
    def away(url: str) -> None:
        raise RetryLater("connection refused")

    fetcher = fetcher_of(IMAGES)
    fetcher.before_fetch = away
    job = BedJob(tasks_of(["image-1"], last_delivery=last_delivery), lease_seconds=1.0)
    drain = Drain()
    threading.Timer(2.5, drain.ask, ("test is over",)).start()
    report = app.run(assignment(), job, fetcher, BedPredictor(), settings(tmp_path), drain)
    assert report.failed == last_delivery
    assert report.in_flight == ()


def test_running_out_of_file_handles_is_named_and_waited_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    seen: set[str] = set()

    def out_of_files(url: str) -> None:
        if url not in seen and len(seen) < 2:
            seen.add(url)
            raise RetryLater("connection failed") from OSError(errno.EMFILE, "Too many open files")

    fetcher = fetcher_of(IMAGES)
    fetcher.before_fetch = out_of_files
    report = app.run(assignment(), BedJob(tasks_of([*IMAGES])), fetcher, BedPredictor(), settings(tmp_path))
    assert (report.acked, report.failed) == (20, 0)
    assert "out of file handles" in caplog.text


def test_a_drain_answers_every_lease_and_takes_no_more(tmp_path: Path) -> None:
    drain, job = Drain(), BedJob(tasks_of([*IMAGES]))
    predictor = BedPredictor(seconds=0.05, on_predict=lambda images: drain.ask("asked to stop by a test"))
    report = app.run(assignment(), job, fetcher_of(IMAGES), predictor, settings(tmp_path), drain)
    assert report.exit_code is ExitCode.DRAINED
    assert report.reason == "asked to stop by a test"
    assert report.in_flight == ()
    assert report.acked == sum(len(batch) for batch in predictor.batches) == 20 - len(job.tasks)
    assert len(job.lease_sizes) == 1


def test_what_a_drain_cannot_answer_in_time_is_in_the_report(tmp_path: Path) -> None:
    drain, job = Drain(), BedJob(tasks_of([*IMAGES]))
    predictor = BedPredictor(seconds=30, on_predict=lambda images: drain.ask("stop"))
    started_at = time.monotonic()
    work = assignment().model_copy(update={"grace_seconds": 7.0})
    report = app.run(work, job, fetcher_of(IMAGES), predictor, settings(tmp_path), drain)
    assert time.monotonic() - started_at < 7
    assert report.exit_code is ExitCode.DRAINED
    assert len(report.in_flight) + report.acked == 20 - len(job.tasks)
    assert report.in_flight


def test_a_lease_call_that_hangs_does_not_outlive_the_grace_period(tmp_path: Path) -> None:
    drain = Drain()
    job = BedJob(tasks_of([*IMAGES]), before_lease=lambda: time.sleep(20))
    threading.Timer(0.3, drain.ask, ("stop",)).start()
    started_at = time.monotonic()
    work = assignment().model_copy(update={"grace_seconds": 6.0})
    report = app.run(work, job, fetcher_of(IMAGES), BedPredictor(), settings(tmp_path), drain)
    assert time.monotonic() - started_at < 5
    assert report.exit_code is ExitCode.DRAINED


def test_a_job_that_is_not_served_any_more_gets_no_answer(tmp_path: Path) -> None:
    job, drain = BedJob(tasks_of([*IMAGES])), Drain()

    def cancel(images: Sequence[DecodedImage]) -> None:
        job.state = JobState.INACTIVE

    threading.Timer(2.0, drain.ask, ("test is over",)).start()
    predictor = BedPredictor(seconds=0.5, on_predict=cancel)
    report = app.run(
        assignment(micro_batch_images=1),
        job,
        fetcher_of(IMAGES),
        predictor,
        settings(tmp_path, progress_seconds=0.1),
        drain,
    )
    assert job.answers == []
    assert report.in_flight == ()
    assert not report.job_complete
    assert len(predictor.batches) < 20 - len(job.tasks)


def test_an_empty_answer_is_not_the_end(tmp_path: Path) -> None:
    job = BedJob([], lease_seconds=300, expected=20)
    threading.Timer(0.6, lambda: job.tasks.extend(tasks_of([*IMAGES]))).start()
    report = app.run(assignment(), job, fetcher_of(IMAGES), BedPredictor(), settings(tmp_path))
    assert report.acked == 20
    assert report.job_complete


def test_a_job_that_brings_nothing_for_the_lease_time_is_over_and_not_called_complete(
    tmp_path: Path,
) -> None:
    job = BedJob([], lease_seconds=0.3, expected=5)
    report = app.run(assignment(), job, fetcher_of(IMAGES), BedPredictor(), settings(tmp_path, idle_margin_seconds=0.2))
    assert report.exit_code is ExitCode.DONE
    assert not report.job_complete


def test_the_time_in_which_an_owner_was_away_does_not_count_as_time_without_tasks(tmp_path: Path) -> None:
    calls: list[int] = []
    job = BedJob([], lease_seconds=2.0, expected=1)

    def away_then_empty_then_there() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise RetryLater("the queue is down", 3.5)
        if len(calls) == 3:
            job.tasks.extend(tasks_of(["image-1"]))

    job.before_lease = away_then_empty_then_there
    report = app.run(assignment(), job, fetcher_of(IMAGES), BedPredictor(), settings(tmp_path, idle_margin_seconds=1.0))
    assert report.job_complete
    assert report.acked == 1


def test_a_redelivered_image_is_answered_under_its_newest_delivery(tmp_path: Path) -> None:
    job = BedJob(tasks_of(["image-1"], reply_subject="first"), expected=1)

    def deliver_again(images: Sequence[DecodedImage]) -> None:
        job.tasks.extend(tasks_of(["image-1"], reply_subject="second", delivery=2))

    predictor = BedPredictor(seconds=0.6, on_predict=deliver_again)
    report = app.run(assignment(), job, fetcher_of(IMAGES), predictor, settings(tmp_path))
    assert [answer.task.reply_subject for answer in job.answers] == ["second"]
    assert (report.acked, report.redelivered) == (1, 1)


def test_too_many_failures_stop_the_run(tmp_path: Path) -> None:
    images = {f"bad-{number}": b"no image" for number in range(200)}
    job = BedJob(tasks_of([*images]))
    report = app.run(assignment(), job, fetcher_of(images), BedPredictor(), settings(tmp_path, failure_minimum=10))
    assert report.exit_code is ExitCode.FAILURE_BUDGET_SPENT
    assert job.tasks, "it went on to the end"
    assert report.in_flight == ()


def test_few_failures_in_a_small_job_do_not(tmp_path: Path) -> None:
    images = {f"bad-{number}": b"no image" for number in range(9)}
    report = app.run(
        assignment(),
        BedJob(tasks_of([*images])),
        fetcher_of(images),
        BedPredictor(),
        settings(tmp_path, failure_minimum=10),
    )
    assert report.exit_code is ExitCode.DONE


class LostOwner(BedJob):
    """Serves one lease and is away from then on; answers still go through."""

    def lease(self, at_most: int) -> Sequence[Task]:
        if self.lease_sizes:
            raise RetryLater("connection refused", 0.1)
        return super().lease(at_most)

    def progress(self) -> JobProgress:
        if self.lease_sizes:
            raise RetryLater("connection refused")
        return super().progress()


def test_an_owner_that_stays_away_ends_the_run_after_its_images_are_answered(tmp_path: Path) -> None:
    job = LostOwner(tasks_of([*IMAGES]))
    report = app.run(
        assignment(), job, fetcher_of(IMAGES), BedPredictor(), settings(tmp_path, upstream_silence_seconds=1.5)
    )
    assert report.exit_code is ExitCode.UPSTREAM_UNAVAILABLE
    assert report.acked == 20 - len(job.tasks) > 0
    assert report.in_flight == ()


def test_an_owner_that_stumbles_is_waited_for(tmp_path: Path) -> None:
    calls = [0]

    def stumble() -> None:
        calls[0] += 1
        if calls[0] in {1, 3}:
            raise RetryLater("503")

    job = BedJob(tasks_of([*IMAGES]), before_lease=stumble)
    report = app.run(assignment(), job, fetcher_of(IMAGES), BedPredictor(), settings(tmp_path))
    assert (report.exit_code, report.acked) == (ExitCode.DONE, 20)


class UnknownJob(BedJob):
    def prove(self) -> None:
        raise FixConfig("job 7 is not known: set TIDEGATE_JOB")


def test_a_wrong_setting_ends_with_its_own_words(tmp_path: Path) -> None:
    report = app.run(assignment(), UnknownJob([]), fetcher_of({}), BedPredictor(), settings(tmp_path))
    assert report.exit_code is ExitCode.CONFIGURATION
    assert "TIDEGATE_JOB" in report.reason
    assert WorkerReport.from_json((tmp_path / "termination-log").read_bytes()) == report


def test_a_memory_backed_staging_volume_is_refused(tmp_path: Path) -> None:
    shared = Path("/dev/shm")
    if not shared.is_dir():
        pytest.skip("no memory-backed volume here")
    report = app.run(
        assignment(),
        BedJob([]),
        fetcher_of({}),
        BedPredictor(),
        settings(tmp_path, staging_dir=shared / f"tidegate-{tmp_path.name}"),
    )
    assert report.exit_code is ExitCode.CONFIGURATION
    assert "memory-backed" in report.reason


def test_a_bug_in_a_port_is_raised_after_everything_is_stopped(tmp_path: Path) -> None:
    def break_off() -> None:
        raise ZeroDivisionError

    job = BedJob(tasks_of([*IMAGES]), before_lease=break_off)
    with pytest.raises(ZeroDivisionError):
        app.run(assignment(), job, fetcher_of(IMAGES), BedPredictor(), settings(tmp_path))
    assert job.closed


def test_an_image_that_comes_again_after_its_job_was_reopened_is_done(tmp_path: Path) -> None:
    job = BedJob(tasks_of(["image-1"]), expected=1)

    def cancel_and_reopen(images: Sequence[DecodedImage]) -> None:
        if job.lease_sizes and not reopened.is_set():
            job.state = JobState.INACTIVE
            time.sleep(0.5)
            job.tasks.extend(tasks_of(["image-1"], reply_subject="second"))
            job.state = JobState.OPEN
            reopened.set()
            time.sleep(0.5)

    reopened = threading.Event()
    predictor = BedPredictor(on_predict=cancel_and_reopen)
    report = app.run(assignment(), job, fetcher_of(IMAGES), predictor, settings(tmp_path, progress_seconds=0.1))
    assert report.acked == 1
    assert [answer.task.reply_subject for answer in job.answers] == ["second"]
    assert predictor.batches == [["image-1"], ["image-1"]]


def test_image_hosts_that_all_stay_away_end_the_run_and_fail_no_image(tmp_path: Path) -> None:
    def away(url: str) -> None:
        raise RetryLater("connection refused", 0.1)

    fetcher = fetcher_of(IMAGES)
    fetcher.before_fetch = away
    job = BedJob(tasks_of([*IMAGES]), lease_seconds=float("inf"))
    work = assignment().model_copy(update={"grace_seconds": 6.0})
    report = app.run(work, job, fetcher, BedPredictor(), settings(tmp_path, upstream_silence_seconds=1.5))
    assert report.exit_code is ExitCode.UPSTREAM_UNAVAILABLE
    assert "no image could be fetched" in report.reason
    assert (report.acked, report.failed) == (0, 0)
    assert len(report.in_flight) == 20 - len(job.tasks)


def test_the_last_image_to_stay_away_fails_alone_and_the_others_silence_is_not_held_against_the_run(
    tmp_path: Path,
) -> None:
    """All others have come, so there is nothing else to fetch for longer than silence is borne."""
    failed = threading.Event()
    waits = iter((0.5, 3.0))

    def away(url: str) -> None:
        if "image-0?" not in url:
            assert failed.wait(10)
            return
        failed.set()
        raise RetryLater("connection refused", next(waits, 0.1))

    fetcher = fetcher_of(IMAGES)
    fetcher.before_fetch = away
    job = BedJob(tasks_of([*IMAGES]), lease_seconds=float("inf"))
    report = app.run(assignment(), job, fetcher, BedPredictor(), settings(tmp_path, upstream_silence_seconds=2.0))
    assert (report.exit_code, report.acked, report.failed) == (ExitCode.DONE, 20, 1)
    assert "could not be fetched" in job.reason("image-0")


def test_one_image_that_stays_away_while_others_come_fails_alone_where_leases_do_not_end(tmp_path: Path) -> None:
    def away(url: str) -> None:
        if "image-0?" in url:
            raise RetryLater("connection refused", 0.1)

    images = {f"image-{number}": jpeg(seed=number % 3) for number in range(40)}
    fetcher = fetcher_of(images)
    fetcher.before_fetch = away
    job = BedJob(tasks_of([*images]), lease_seconds=float("inf"))
    report = app.run(
        assignment(micro_batch_images=1),
        job,
        fetcher,
        BedPredictor(seconds=0.2),
        settings(tmp_path, upstream_silence_seconds=2.0),
    )
    assert (report.exit_code, report.acked, report.failed) == (ExitCode.DONE, 40, 1)
    assert "could not be fetched" in job.reason("image-0")
