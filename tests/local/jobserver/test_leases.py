"""Reserving tasks: leases, redelivery, death, bounds, reply subjects."""

from __future__ import annotations

import re
import time

import pytest

from .conftest import Worker, success

REPLY = re.compile(r"\$JS\.ACK\.job_(\d+)\.job-(\d+)-consumer\.(\d+)\.(\d+)\.(\d+)\.(\d+)\.(\d+)")


def fields(reply_subject: str) -> tuple[int, int, int, int]:
    """delivered, stream sequence, consumer sequence, pending"""
    match = REPLY.fullmatch(reply_subject)
    assert match is not None
    return int(match[3]), int(match[4]), int(match[5]), int(match[7])


def test_a_task_names_one_image_with_a_presigned_url_and_a_reply_subject(worker: Worker) -> None:
    job = worker.start_job(images=1)
    (task,) = worker.reserve(job)
    assert set(task) == {"id", "image_id", "image_url", "reply_subject"}
    assert task["id"] == task["image_id"]
    assert "X-Amz-Signature=" in task["image_url"]
    assert fields(task["reply_subject"]) == (1, 1, 1, 0)


def test_sequence_numbers_count_deliveries_and_pending_counts_down(worker: Worker) -> None:
    job = worker.start_job(images=5)
    replies = [fields(task["reply_subject"]) for task in worker.reserve(job, 2) + worker.reserve(job, 3)]
    assert replies == [(1, n, n, 5 - n) for n in range(1, 6)]


def test_tasks_come_shuffled_unless_the_job_says_otherwise(worker: Worker) -> None:
    ordered = [int(task["id"]) for task in worker.reserve(worker.start_job(images=30, shuffle=False))]
    shuffled = [int(task["id"]) for task in worker.reserve(worker.start_job(images=30))]
    assert ordered == sorted(ordered)
    assert shuffled != sorted(shuffled)


def test_what_is_leased_is_not_handed_out_again(worker: Worker) -> None:
    job = worker.start_job(images=4)
    first, second = worker.reserve(job, 3), worker.reserve(job, 3)
    assert len({task["id"] for task in first + second}) == len(first + second) == 4
    assert worker.reserve(job) == []


def test_an_expired_lease_is_delivered_once_more_and_then_dead(worker: Worker) -> None:
    job = worker.start_job(images=2, lease_seconds=0.3)
    assert len(worker.reserve(job)) == 2
    time.sleep(0.35)
    again = worker.reserve(job)
    assert sorted(fields(task["reply_subject"])[:3] for task in again) == [(2, 1, 3), (2, 2, 4)]
    time.sleep(0.35)
    assert worker.reserve(job) == []
    truth = worker.server.truth(job)
    assert (truth.totals["redelivered"], truth.totals["lost"]) == (2, 2)
    assert truth.status == "STARTED"


def test_expired_tasks_come_before_new_ones(worker: Worker) -> None:
    job = worker.start_job(images=3, lease_seconds=0.3)
    (first,) = worker.reserve(job, 1)
    time.sleep(0.35)
    assert [task["id"] for task in worker.reserve(job, 1)] == [first["id"]]


def test_an_answered_task_is_not_delivered_again(worker: Worker) -> None:
    job = worker.start_job(images=2, lease_seconds=0.3)
    first, second = worker.reserve(job)
    worker.answer(job, [first])
    worker.server.wait_until_processed(job)
    time.sleep(0.35)
    assert [task["id"] for task in worker.reserve(job)] == [second["id"]]


def test_the_first_deliverys_reply_subject_acks_after_a_redelivery(worker: Worker) -> None:
    job = worker.start_job(images=2, lease_seconds=0.3)
    first, _ = worker.reserve(job)
    time.sleep(0.35)
    worker.reserve(job)
    worker.answer(job, [first])
    worker.server.wait_until_processed(job)
    truth = worker.server.truth(job)
    assert [image.lost for image in truth.images if image.image_id == first["id"]] == [False]


def test_no_more_than_max_ack_pending_tasks_are_out_and_dead_ones_count(worker: Worker) -> None:
    job = worker.start_job(images=5, max_ack_pending=3, lease_seconds=0.3)
    assert len(worker.reserve(job)) == 3
    assert worker.reserve(job) == []
    time.sleep(0.35)
    assert len(worker.reserve(job)) == 3, "redelivery is not bound: the tasks are pending already"
    time.sleep(0.35)
    assert worker.reserve(job) == [], "three dead tasks leave no room for the two new ones"


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ({}, {"batch_size": ["This field is required."]}),
        ({"batch_size": None}, {"batch_size": ["This field may not be null."]}),
        ({"batch_size": "many"}, {"batch_size": ["A valid integer is required."]}),
        ({"batch_size": 0}, {"batch_size": ["Ensure this value is greater than or equal to 1."]}),
        ({"batch_size": 1, "client_info": None}, {"client_info": ["This field may not be null."]}),
    ],
)
def test_a_reservation_that_is_wrong_in_form_is_refused(worker: Worker, body: object, complaint: object) -> None:
    answer = worker.post(f"/jobs/{worker.start_job()}/tasks/", body)
    assert (answer.status_code, answer.json()) == (400, complaint)


@pytest.mark.parametrize("batch_size", [5000, "5"])
def test_large_batches_and_numbers_as_text_are_taken(worker: Worker, batch_size: object) -> None:
    body = {"batch_size": batch_size, "client_info": {"hostname": "pod-0"}}
    assert worker.post(f"/jobs/{worker.start_job()}/tasks/", body).status_code == 200


def test_the_form_is_judged_before_the_job_is_looked_up(worker: Worker) -> None:
    assert worker.post("/jobs/999999/tasks/", {}).status_code == 400


def test_a_job_of_another_mode_has_no_fetchable_tasks(worker: Worker) -> None:
    job = worker.server.create_job(images=1, dispatch_mode="sync_api")
    answer = worker.post(f"/jobs/{job}/tasks/", {"batch_size": 1})
    assert (answer.status_code, answer.json()) == (400, ["Only async_api jobs have fetchable tasks"])


def test_a_job_without_a_pipeline_is_refused_once_it_serves(worker: Worker) -> None:
    job = worker.start_job(images=1, pipeline=None)
    answer = worker.post(f"/jobs/{job}/tasks/", {"batch_size": 1})
    assert (answer.status_code, answer.json()) == (400, ["This job does not have a pipeline configured"])


def test_a_job_that_was_not_started_answers_an_empty_list(worker: Worker) -> None:
    assert worker.reserve(worker.server.create_job(images=1, start=False)) == []


def test_a_started_job_has_no_tasks_until_its_images_are_collected(worker: Worker) -> None:
    job = worker.server.create_job(images=1)
    worker.server.wait_for_status(job, "STARTED")
    tasks: list[dict[str, str]] = []
    empty = 0
    deadline = time.monotonic() + 5
    while not tasks and time.monotonic() < deadline:
        tasks = worker.reserve(job)
        empty += not tasks
    assert len(tasks) == 1


def test_a_finished_job_answers_an_empty_list(worker: Worker) -> None:
    job = worker.start_job(images=1)
    worker.answer(job, worker.reserve(job))
    worker.server.wait_for_status(job, "SUCCESS")
    assert worker.reserve(job) == []


def test_a_made_up_reply_subject_is_taken_in_silence(worker: Worker) -> None:
    job = worker.start_job(images=1)
    (task,) = worker.reserve(job)
    worker.deliver(job, [success(task | {"reply_subject": "nonsense"})])
    worker.server.wait_for_status(job, "SUCCESS")
