"""Whole runs at the ports: real threads and files; what becomes of each image, and of memory and disk."""

from __future__ import annotations

import json
import threading
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
from tidegate_worker import app
from tidegate_worker.cgroup import own_bytes
from tidegate_worker.pipeline.drain import Drain
from tidegate_worker.ports import DecodedImage, Failure, Prediction

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


KILLER = Suspect(image_id="gone", reply_subject="$JS.ACK.s.c.2.1.1.1.1", strikes=2, strikes_alone=1)


def test_a_proven_killer_is_answered_though_it_is_never_leased_again(tmp_path: Path) -> None:
    job = BedJob(tasks_of([*IMAGES]))
    job.total = 21
    unproven = Suspect(image_id="perhaps", reply_subject="$JS.ACK.s.c.2.2.2.2.2", strikes=1)
    report = app.run(
        assignment(suspects=(KILLER, unproven)),
        job,
        fetcher_of(IMAGES),
        BedPredictor(),
        settings(tmp_path, settle_seconds=0.3),
    )
    assert (report.acked, report.quarantined) == (21, 1)
    assert "quarantined" in job.reason("gone")
    assert all(answer.task.image_id != "perhaps" for answer in job.answers)


def test_a_proven_killer_that_somebody_has_answered_gets_no_second_answer(tmp_path: Path) -> None:
    job = BedJob(tasks_of([*IMAGES]))
    report = app.run(
        assignment(suspects=(KILLER,)), job, fetcher_of(IMAGES), BedPredictor(), settings(tmp_path, settle_seconds=0.0)
    )
    assert (report.acked, report.quarantined) == (20, 0)


def test_what_killed_pods_held_for_the_last_time_is_answered_once_nothing_else_is_left(tmp_path: Path) -> None:
    job = BedJob(tasks_of([*IMAGES]))
    job.total = 22
    stranded = ("lost-1", "lost-2", "image-3")
    report = app.run(
        assignment().model_copy(update={"stranded": stranded}),
        job,
        fetcher_of(IMAGES),
        BedPredictor(),
        settings(tmp_path, settle_seconds=0.3),
    )
    assert (report.acked, report.failed, report.quarantined, report.job_complete) == (22, 2, 2, True)
    assert "retry of the job" in job.reason("lost-1")
    # That one was leased after all.
    assert not isinstance(job.outcome("image-3"), Failure)


def test_images_that_were_given_up_untried_spend_no_failure_budget(tmp_path: Path) -> None:
    job = BedJob(tasks_of([*IMAGES]))
    job.total = 50
    report = app.run(
        assignment().model_copy(update={"stranded": tuple(f"lost-{number}" for number in range(30))}),
        job,
        fetcher_of(IMAGES),
        BedPredictor(),
        settings(tmp_path, settle_seconds=0.3, failure_minimum=10),
    )
    assert (report.exit_code, report.acked, report.quarantined) == (ExitCode.DONE, 50, 30)
    assert report.job_complete


def test_the_journal_names_what_is_held_for_the_last_time_and_not_in_flight(tmp_path: Path) -> None:
    told: set[str] = set()

    def read_journal(_: Sequence[DecodedImage]) -> None:
        words = json.loads((tmp_path / "termination-log").read_text())
        told.update(words["held_last"])

    tasks = [*tasks_of(["image-0", "image-1"], delivery=2, last_delivery=True), *tasks_of(["image-2"])]
    images = {name: body for name, body in IMAGES.items() if name in ("image-0", "image-1", "image-2")}
    app.run(assignment(), BedJob(tasks), fetcher_of(images), BedPredictor(on_predict=read_journal), settings(tmp_path))
    # Alone means one after the other: while one is in flight the other is held.
    assert told
    assert told <= {"image-0", "image-1"}


def test_an_image_above_the_cap_is_quarantined_and_says_what_it_needs(tmp_path: Path) -> None:
    floor = own_bytes()
    images = {**IMAGES, "huge": encoded(Image.new("L", (8000, 8000)), "PNG")}
    job = BedJob(tasks_of([*images]))
    report = app.run(
        assignment(cap_bytes=floor + 128 * MIB), job, fetcher_of(images), BedPredictor(), settings(tmp_path)
    )
    assert (report.acked, report.quarantined) == (21, 1)
    assert "cap of" in job.reason("huge")


def test_a_full_outbox_holds_up_answers_and_loses_none(tmp_path: Path) -> None:
    held = threading.Event()
    threading.Timer(0.7, held.set).start()

    def wait() -> None:
        held.wait(5)

    job = BedJob(tasks_of([*IMAGES]), ack_seconds=0.2, before_answer=wait)
    report = app.run(assignment(), job, fetcher_of(IMAGES), BedPredictor(), settings(tmp_path))
    assert report.acked == 20


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


def test_an_image_with_an_endless_name_is_done_like_any_other(tmp_path: Path) -> None:
    name = "x" * 3000
    suspects = (Suspect(image_id=name[:512], strikes=2, strikes_alone=1),)
    job = BedJob(tasks_of([name], reply_subject="y" * 3000))
    report = app.run(assignment(suspects=suspects), job, fetcher_of({name: jpeg()}), BedPredictor(), settings(tmp_path))
    assert (report.acked, report.quarantined) == (1, 1)
    job = BedJob(tasks_of([name], reply_subject="y" * 3000))
    report = app.run(assignment(), job, fetcher_of({name: jpeg()}), BedPredictor(), settings(tmp_path))
    assert (report.acked, report.failed) == (1, 0)
