"""Jobs from start to end: hanging, reaping, cancelling, retrying, and a server that is killed between any two steps."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from tidegate_local.jobserver.control import JobServerProcess

from .conftest import CLASSIFIER, DETECTOR, FAST, PIPELINE, Worker, success


def test_a_job_without_images_succeeds_at_once(worker: Worker) -> None:
    worker.server.wait_for_status(worker.server.create_job(images=0), "SUCCESS")


def test_a_hanging_job_has_everything_saved_and_is_finished_by_any_repeated_answer(worker: Worker) -> None:
    job = worker.start_job(images=3, faults=[{"kind": "hang", "times": 1}])
    tasks = worker.reserve(job)
    worker.answer(job, tasks)
    truth = worker.server.wait_until_processed(job)
    time.sleep(0.1)
    assert worker.server.job(job)["status"] == "STARTED"
    assert truth.totals["saved"] == 3
    assert worker.reserve(job) == []
    worker.answer(job, tasks[:1])
    worker.server.wait_for_status(job, "SUCCESS")


def test_only_as_many_jobs_hang_as_were_told_to(worker: Worker) -> None:
    worker.server.add_fault("hang", times=1)
    jobs = [worker.start_job(images=1) for _ in range(3)]
    for job in jobs:
        worker.answer(job, worker.reserve(job))
        worker.server.wait_until_processed(job)
    time.sleep(0.1)
    assert sorted(worker.server.job(job)["status"] for job in jobs) == ["STARTED", "SUCCESS", "SUCCESS"]


def test_the_reaper_marks_pending_images_lost_and_applies_the_fifty_per_cent_rule(worker: Worker) -> None:
    for answered, status in ((6, "SUCCESS"), (3, "FAILURE")):
        job = worker.start_job(images=10)
        worker.answer(job, worker.reserve(job)[:answered])
        worker.server.wait_until_processed(job)
        assert job in worker.server.reap(0.0)
        assert worker.server.job(job)["status"] == status
        assert worker.server.truth(job).totals["lost"] == 10 - answered


def test_a_job_that_nobody_leased_is_failed_by_the_reaper(worker: Worker) -> None:
    job = worker.start_job(images=2)
    worker.server.reap(0.0)
    assert worker.server.job(job)["status"] == "FAILURE"


def test_a_job_that_counts_nothing_yet_is_revoked_by_the_reaper(tmp_path: Path) -> None:
    with JobServerProcess(tmp_path, **FAST | {"collect_seconds": 60.0}) as server:
        job = server.create_job(images=1)
        server.wait_for_status(job, "STARTED")
        server.reap(0.0)
        assert server.job(job)["status"] == "REVOKED"


def test_leasing_is_no_news_to_the_reaper_and_a_processed_result_is(tmp_path: Path) -> None:
    times = {"silent_job_seconds": 1.0, "reaper_period_seconds": 0.1}
    with JobServerProcess(tmp_path, **FAST | times) as server:
        server.register(PIPELINE, [DETECTOR, CLASSIFIER])
        worker = Worker(server)
        busy, idle = worker.start_job(images=20), worker.start_job(images=20)
        tasks = worker.reserve(busy, 4)
        for task in tasks:
            time.sleep(0.4)
            worker.reserve(idle, 1)
            worker.answer(busy, [task])
        server.wait_for_status(idle, "FAILURE")
        assert server.job(busy)["status"] == "STARTED"
        server.wait_for_status(busy, "FAILURE", timeout_seconds=5)


def test_a_cancelled_job_serves_nothing_and_discards_what_was_in_flight(worker: Worker) -> None:
    job = worker.start_job(images=3)
    tasks = worker.reserve(job, 2)
    worker.server.cancel(job)
    assert worker.server.job(job)["status"] in ("CANCELING", "REVOKED")
    assert worker.reserve(job) == []
    worker.server.wait_for_status(job, "REVOKED")
    worker.answer(job, tasks)
    truth = worker.server.wait_until_processed(job)
    assert (truth.totals["saved"], sum(image.discarded for image in truth.images)) == (0, 2)


def test_a_retry_serves_only_the_images_that_were_not_processed(worker: Worker) -> None:
    job = worker.start_job(images=4)
    worker.answer(job, worker.reserve(job, 3))
    worker.server.wait_until_processed(job)
    worker.server.cancel(job)
    worker.server.wait_for_status(job, "REVOKED")
    worker.server.retry(job)
    worker.server.wait_for_status(job, "STARTED")
    worker.server.wait_until_collected(job)
    (task,) = worker.reserve(job)
    worker.answer(job, [task])
    worker.server.wait_for_status(job, "SUCCESS")
    assert worker.server.truth(job).broken_promises() == []


def test_a_retry_of_a_running_job_queues_every_image_twice(worker: Worker) -> None:
    job = worker.start_job(images=3)
    worker.server.retry(job)
    worker.server.wait_for_status(job, "STARTED")
    worker.server.wait_until_collected(job)
    served = [task["id"] for task in worker.reserve(job)]
    assert Counter(served).most_common() == [(image, 2) for image in dict.fromkeys(served)]
    assert len(set(served)) == 3


def test_an_old_reply_subject_acks_another_image_after_the_streams_name_is_used_again(worker: Worker) -> None:
    job = worker.start_job(images=2, shuffle=False, lease_seconds=0.3)
    old = worker.reserve(job)
    worker.server.cancel(job)
    worker.server.wait_for_status(job, "REVOKED")
    worker.server.retry(job)
    worker.server.wait_for_status(job, "STARTED")
    worker.server.wait_until_collected(job)
    new = worker.reserve(job)
    assert [task["id"] for task in new] == [task["id"] for task in old]
    worker.deliver(job, [success(new[1] | {"reply_subject": old[0]["reply_subject"]})])
    worker.server.wait_until_processed(job)
    time.sleep(0.35)
    assert [task["id"] for task in worker.reserve(job)] == [new[1]["id"]], "the ack went to the first image"


def test_leases_queued_results_faults_and_jobs_outlive_a_kill(tmp_path: Path) -> None:
    with JobServerProcess(tmp_path, **FAST) as server:
        server.register(PIPELINE, [DETECTOR, CLASSIFIER])
        worker = Worker(server)
        job = worker.start_job(images=4, save_delay_seconds=1.0)
        first, second = worker.reserve(job, 2)
        worker.answer(job, [first])
        server.add_fault("save_failure", job=job, images=[second["id"]], times=1)
        server.restart()
        assert [fault["kind"] for fault in server.faults()] == ["save_failure"]
        rest = worker.reserve(job)
        assert {task["id"] for task in rest}.isdisjoint({first["id"], second["id"]})
        worker.answer(job, [second, *rest])
        truth = server.wait_until_processed(job)
        assert (truth.totals["saved"], sum(image.save_failures for image in truth.images)) == (3, 1)
        server.restart()
        worker.answer(job, [second])
        server.wait_for_status(job, "SUCCESS")


def test_a_job_that_was_starting_when_the_server_was_killed_is_collected_after_it(tmp_path: Path) -> None:
    with JobServerProcess(tmp_path, **FAST | {"collect_seconds": 0.5}) as server:
        job = server.create_job(images=2)
        server.restart()
        server.wait_until_collected(job)
        assert len(Worker(server).reserve(job)) == 2
