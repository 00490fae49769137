"""Whole runs at the ports: real threads and files; what becomes of each image, each lease and the run."""

from __future__ import annotations

import errno
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from tests.worker.engine.bed import (
    BedJob,
    BedPredictor,
    assignment,
    encoded,
    fetcher_of,
    jpeg,
    noise,
    settings,
    tasks_of,
    url_of,
)

from tidegate.core.contract import KIB, MIB, ExitCode, Suspect, WorkerReport
from tidegate.core.errors import FixConfig, RetryLater
from tidegate_worker import app
from tidegate_worker.cgroup import find_memory
from tidegate_worker.pipeline.drain import Drain
from tidegate_worker.ports import DecodedImage, Failure, JobProgress, JobState, Prediction, Task

IMAGES = {f"image-{number}": jpeg(seed=number) for number in range(20)}


def test_every_image_is_answered_once_and_nothing_is_left_on_disk(tmp_path: Path) -> None:
    job, predictor = BedJob(tasks_of([*IMAGES])), BedPredictor()
    report = app.run(assignment(), job, fetcher_of(IMAGES), predictor, settings(tmp_path))
    assert report.exit_code is ExitCode.DONE
    assert report.job_complete
    assert (report.acked, report.failed, report.in_flight) == (20, 0, ())
    assert sorted(answer.task.image_id for answer in job.answers) == sorted(IMAGES)
    assert all(shape == (3, 240, 320) for shape in predictor.seen.values())
    assert [path.name for path in (tmp_path / "staging").iterdir()] == [".lock"]
    assert job.closed


def test_the_last_words_on_disk_are_the_report(tmp_path: Path) -> None:
    report = app.run(assignment(), BedJob(tasks_of([*IMAGES])), fetcher_of(IMAGES), BedPredictor(), settings(tmp_path))
    text = (tmp_path / "termination-log").read_bytes()
    assert len(text) == 4096
    assert WorkerReport.from_json(text) == report


BAD = {
    "empty": b"",
    "page": b"<html>denied</html>",
    "cut": jpeg()[:4000],
    "cut-png": encoded(noise(64, 64), "PNG")[:900],
    "nothing": b"\xff\xd8\xff\xd9",
    "bomb": encoded(Image.new("1", (20000, 20000)), "PNG"),
}


def test_a_bad_image_is_its_own_failure_and_the_rest_is_done(tmp_path: Path) -> None:
    odd = {
        "progressive": jpeg(progressive=True),
        "cmyk": encoded(noise(64, 48).convert("CMYK"), "JPEG"),
        "one": jpeg(1, 1),
        "wide": encoded(Image.new("RGB", (65500, 3)), "JPEG"),
        "gif": encoded(noise(64, 48), "GIF", save_all=True, append_images=[noise(64, 48, 1)]),
    }
    images = {**BAD, **odd}
    job = BedJob(tasks_of([*images, "missing"]))
    report = app.run(assignment(), job, fetcher_of(images), BedPredictor(), settings(tmp_path, max_pixels=100_000_000))
    assert report.exit_code is ExitCode.DONE
    assert report.failed == len(BAD) + 1
    assert "web page" in job.reason("page")
    assert "empty" in job.reason("empty")
    assert "truncated" in job.reason("cut")
    assert "more than the limit" in job.reason("bomb")
    assert "404" in job.reason("missing")
    assert all(isinstance(job.outcome(name), Prediction) for name in odd)
    assert all("secret" not in answer.outcome.reason for answer in job.answers if isinstance(answer.outcome, Failure))


def test_what_a_model_does_to_one_image_is_that_images_failure(tmp_path: Path) -> None:
    def refuse(images: Sequence[DecodedImage]) -> None:
        if any(image.task.image_id == "image-3" for image in images):
            raise ValueError("cannot reshape https://images.test/x?X-Signature=secret")

    job = BedJob(tasks_of([*IMAGES]))
    report = app.run(assignment(), job, fetcher_of(IMAGES), BedPredictor(on_predict=refuse), settings(tmp_path))
    assert (report.acked, report.failed) == (20, 1)
    assert "cannot reshape" in job.reason("image-3")
    assert "secret" not in job.reason("image-3")


def test_images_go_into_a_batch_up_to_its_size_and_no_batch_waits_to_fill(tmp_path: Path) -> None:
    predictor = BedPredictor(seconds=0.05)
    job = BedJob(tasks_of([*IMAGES]))
    app.run(assignment(micro_batch_images=3), job, fetcher_of(IMAGES), predictor, settings(tmp_path))
    sizes = [len(batch) for batch in predictor.batches]
    assert max(sizes) == 3
    assert sum(sizes) == 20


def test_in_flight_never_costs_more_than_the_budget(tmp_path: Path) -> None:
    images = {f"image-{number}": jpeg(800, 600, number) for number in range(12)}
    most = 0

    def count(batch: Sequence[DecodedImage]) -> None:
        nonlocal most
        most = max(most, sum(image.pixels.numel() for image in batch))

    report = app.run(
        assignment(budget_bytes=7 * MIB, micro_batch_images=12, downloads_in_flight=4, staged_images=12),
        BedJob(tasks_of([*images])),
        fetcher_of(images),
        BedPredictor(seconds=0.02, on_predict=count),
        settings(tmp_path),
    )
    assert report.acked == 12
    # Each costs 3.1 MiB to decode and 1.4 MiB once decoded.
    assert 800 * 600 * 3 < most <= 7 * MIB


def test_a_predictor_that_keeps_pixels_slows_the_run_and_does_not_stop_it(tmp_path: Path) -> None:
    images = {f"image-{number}": jpeg(800, 600, number) for number in range(6)}
    kept: list[object] = []
    report = app.run(
        assignment(budget_bytes=5 * MIB, micro_batch_images=1),
        BedJob(tasks_of([*images])),
        fetcher_of(images),
        BedPredictor(on_predict=lambda batch: kept.extend(image.pixels[:, :10, :10] for image in batch)),
        settings(tmp_path),
    )
    assert report.acked == 6


def test_an_image_larger_than_the_budget_runs_alone(tmp_path: Path) -> None:
    images = {**{f"small-{number}": jpeg(seed=number) for number in range(10)}, "large": jpeg(2000, 1500)}
    predictor = BedPredictor(seconds=0.01)
    report = app.run(
        assignment(budget_bytes=8 * MIB), BedJob(tasks_of([*images])), fetcher_of(images), predictor, settings(tmp_path)
    )
    assert report.acked == 11
    assert ["large"] in predictor.batches


def test_one_at_a_time_means_one_decoded_image(tmp_path: Path) -> None:
    predictor = BedPredictor(seconds=0.01)
    app.run(
        assignment(one_at_a_time=True), BedJob(tasks_of([*IMAGES])), fetcher_of(IMAGES), predictor, settings(tmp_path)
    )
    assert [len(batch) for batch in predictor.batches] == [1] * 20


def test_a_suspect_and_a_last_delivery_run_alone(tmp_path: Path) -> None:
    predictor = BedPredictor(seconds=0.01)
    tasks = tasks_of([*IMAGES])
    tasks[7] = replace(tasks[7], delivery=2, last_delivery=True)
    in_flight: list[tuple[str, list[dict[str, object]]]] = []

    def read_journal(batch: Sequence[DecodedImage]) -> None:
        words = json.loads((tmp_path / "termination-log").read_text())
        in_flight.extend((image.task.image_id, words["in_flight"]) for image in batch)

    predictor.on_predict = read_journal
    report = app.run(
        assignment(suspects=(Suspect(image_id="image-3", strikes=1),)),
        BedJob(tasks),
        fetcher_of(IMAGES),
        predictor,
        settings(tmp_path),
    )
    assert report.acked == 20
    assert report.redelivered == 1
    assert ["image-3"] in predictor.batches
    assert ["image-7"] in predictor.batches
    for image_id, listed in in_flight:
        assert image_id in {entry["image_id"] for entry in listed}, "an image was decoded before it was in the journal"
        if image_id in {"image-3", "image-7"}:
            assert [(entry["image_id"], entry["alone"]) for entry in listed] == [(image_id, True)]


@pytest.mark.parametrize(
    ("strikes", "alone", "quarantined"), [(1, 0, False), (1, 1, False), (2, 0, False), (2, 1, True), (3, 1, True)]
)
def test_only_two_kills_with_one_of_them_alone_quarantine(
    tmp_path: Path, strikes: int, alone: int, quarantined: bool
) -> None:
    job, predictor = BedJob(tasks_of([*IMAGES])), BedPredictor()
    fetcher = fetcher_of(IMAGES)
    report = app.run(
        assignment(suspects=(Suspect(image_id="image-3", strikes=strikes, strikes_alone=alone),)),
        job,
        fetcher,
        predictor,
        settings(tmp_path),
    )
    assert report.acked == 20
    assert report.quarantined == quarantined
    assert ("image-3" in predictor.seen) is not quarantined
    assert (url_of("image-3") in fetcher.fetched) is not quarantined
    if quarantined:
        assert "quarantined" in job.reason("image-3")


def test_an_image_above_the_cap_is_quarantined_and_says_what_it_needs(tmp_path: Path) -> None:
    floor = find_memory().read().nonreclaimable_bytes
    images = {**IMAGES, "huge": encoded(Image.new("L", (8000, 8000)), "PNG")}
    job = BedJob(tasks_of([*images]))
    report = app.run(
        assignment(cap_bytes=floor + 128 * MIB), job, fetcher_of(images), BedPredictor(), settings(tmp_path)
    )
    assert (report.acked, report.quarantined) == (21, 1)
    assert "cap of" in job.reason("huge")


def test_leases_start_small_and_never_exceed_the_plan(tmp_path: Path) -> None:
    job = BedJob(tasks_of([*IMAGES]))
    app.run(assignment(lease_images=6), job, fetcher_of(IMAGES), BedPredictor(seconds=0.02), settings(tmp_path))
    assert job.lease_sizes[0] <= 4
    assert job.most_leased <= 6


def test_a_slow_worker_leases_less_than_it_could_answer_in_a_third_of_the_lease(tmp_path: Path) -> None:
    job = BedJob(tasks_of([*IMAGES]), lease_seconds=6.0)
    app.run(
        assignment(micro_batch_images=1, lease_images=20),
        job,
        fetcher_of(IMAGES),
        BedPredictor(seconds=0.4),
        settings(tmp_path),
    )
    assert job.most_leased <= 6


def test_a_full_outbox_holds_up_answers_and_loses_none(tmp_path: Path) -> None:
    held = threading.Event()
    threading.Timer(0.7, held.set).start()

    def wait() -> None:
        held.wait(5)

    job = BedJob(tasks_of([*IMAGES]), ack_seconds=0.2, before_answer=wait)
    report = app.run(assignment(), job, fetcher_of(IMAGES), BedPredictor(), settings(tmp_path))
    assert report.acked == 20


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


def test_memory_that_runs_out_in_one_image_is_tried_alone_and_then_parked(tmp_path: Path) -> None:
    tries: list[list[str]] = []

    def run_out(images: Sequence[DecodedImage]) -> None:
        if any(image.task.image_id == "image-3" for image in images):
            tries.append([image.task.image_id for image in images])
            raise MemoryError

    job, drain = BedJob(tasks_of([*IMAGES])), Drain()
    threading.Timer(2.0, drain.ask, ("test is over",)).start()
    report = app.run(assignment(), job, fetcher_of(IMAGES), BedPredictor(on_predict=run_out), settings(tmp_path), drain)
    assert tries[-1] == ["image-3"]
    assert report.acked == 19
    assert report.failed == 0
    assert [entry.image_id for entry in report.in_flight] == ["image-3"]
    assert report.wanted_bytes > report.limit_bytes
    assert report.exit_code is ExitCode.DRAINED


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


def test_a_staging_disk_too_small_for_the_job_slows_it_and_stops_nothing(tmp_path: Path) -> None:
    images = {f"image-{number}": jpeg(640, 480, number) for number in range(12)}
    report = app.run(
        assignment(staging_bytes=200 * KIB, downloads_in_flight=4),
        BedJob(tasks_of([*images])),
        fetcher_of(images),
        BedPredictor(),
        settings(tmp_path),
    )
    assert (report.acked, report.failed) == (12, 0)


def test_a_file_larger_than_the_whole_staging_budget_fails_alone(tmp_path: Path) -> None:
    images = {**IMAGES, "large": jpeg(2000, 1500, quality=98)}
    job = BedJob(tasks_of([*images]))
    report = app.run(assignment(staging_bytes=200 * KIB), job, fetcher_of(images), BedPredictor(), settings(tmp_path))
    assert (report.acked, report.failed) == (21, 1)
    assert "larger than" in job.reason("large")


def test_a_probe_answers_what_it_leases_and_measures_each_step(tmp_path: Path) -> None:
    images = {f"image-{number}": jpeg(800, 600, number) for number in range(40)}
    job = BedJob(tasks_of([*images]), ack_seconds=0.01)
    report = app.probe(
        assignment(),
        job,
        fetcher_of(images),
        BedPredictor(seconds=0.01),
        settings(tmp_path),
        model_load_seconds=3.0,
    )
    assert len(job.answers) == report.acked == report.images_measured == report.images_sized == 16
    assert report.images_total == 40
    assert report.decoded_bytes is not None
    assert report.credit_bytes is not None
    assert report.decoded_bytes.p50 == 800 * 600 * 3
    assert report.credit_bytes.max > 800 * 600 * 3
    assert 0 < report.floor_bytes <= report.peak_bytes
    assert report.decode_seconds > 0
    assert report.infer_seconds >= 0.0025
    assert report.post_seconds >= 0.01
    assert report.model_load_seconds == 3.0
    assert report.growth_bytes_per_image < 1 * MIB


def test_a_probe_sees_what_each_image_leaves_behind(tmp_path: Path) -> None:
    leaked: list[bytearray] = []
    images = {f"image-{number}": jpeg(seed=number) for number in range(16)}
    report = app.probe(
        assignment(),
        BedJob(tasks_of([*images])),
        fetcher_of(images),
        BedPredictor(on_predict=lambda batch: leaked.extend(bytearray(4 * MIB) for _ in batch)),
        settings(tmp_path),
    )
    assert 3 * MIB < report.growth_bytes_per_image < 5 * MIB


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


def test_an_image_with_an_endless_name_is_done_like_any_other(tmp_path: Path) -> None:
    name = "x" * 3000
    suspects = (Suspect(image_id=name[:512], strikes=2, strikes_alone=1),)
    job = BedJob(tasks_of([name], reply_subject="y" * 3000))
    report = app.run(assignment(suspects=suspects), job, fetcher_of({name: jpeg()}), BedPredictor(), settings(tmp_path))
    assert (report.acked, report.quarantined) == (1, 1)
    job = BedJob(tasks_of([name], reply_subject="y" * 3000))
    report = app.run(assignment(), job, fetcher_of({name: jpeg()}), BedPredictor(), settings(tmp_path))
    assert (report.acked, report.failed) == (1, 0)


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
