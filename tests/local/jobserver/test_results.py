"""Delivering results: what is accepted, what is saved, what counts."""

from __future__ import annotations

import time
from typing import Any

import pytest

from .conftest import CLASSIFIER, DETECTOR, Worker, detection, failure, success


def test_two_hundred_means_queued_and_the_answer_names_a_task_each(worker: Worker) -> None:
    job = worker.start_job(images=2, save_delay_seconds=0.5)
    tasks = worker.reserve(job)
    answer = worker.deliver(job, [success(task) for task in tasks]).json()
    assert (answer["status"], answer["job_id"], answer["results_queued"]) == ("accepted", job, 2)
    assert [entry["reply_subject"] for entry in answer["tasks"]] == [task["reply_subject"] for task in tasks]
    assert all(entry["status"] == "queued" and len(entry["task_id"]) == 36 for entry in answer["tasks"])
    assert [image.saved for image in worker.server.truth(job).images] == [False, False]
    worker.server.wait_for_status(job, "SUCCESS")
    assert worker.server.truth(job).broken_promises() == []


def test_progress_follows_the_images_of_the_results(worker: Worker) -> None:
    job = worker.start_job(images=4)
    tasks = worker.reserve(job)
    worker.answer(job, tasks[:1])
    worker.server.wait_until_processed(job)
    stages = {stage["key"]: stage for stage in worker.server.job(job)["progress"]["stages"]}
    assert (stages["process"]["progress"], stages["results"]["progress"]) == (0.25, 0.25)
    assert worker.server.job(job)["status"] == "STARTED"


@pytest.mark.parametrize(
    ("results", "complaint"),
    [
        ("absent", {"results": ["This field is required."]}),
        (None, {"results": ["This field may not be null."]}),
        (
            [{"reply_subject": None, "result": {"error": "x"}}],
            {
                "results": [
                    {
                        "loc": ["__root__", "0", "reply_subject"],
                        "msg": "none is not an allowed value",
                        "type": "type_error.none.not_allowed",
                    }
                ]
            },
        ),
    ],
)
def test_a_delivery_that_is_wrong_in_form_is_refused(worker: Worker, results: Any, complaint: object) -> None:
    body = {} if results == "absent" else {"results": results}
    answer = worker.post(f"/jobs/{worker.start_job()}/result/", body)
    assert (answer.status_code, answer.json()) == (400, complaint)


def test_one_malformed_result_refuses_the_whole_delivery(worker: Worker) -> None:
    job = worker.start_job(images=2)
    first, second = worker.reserve(job)
    broken = success(second)
    del broken["result"]["total_time"]
    answer = worker.deliver(job, [success(first), broken])
    assert answer.status_code == 400
    places = [entry["loc"] for entry in answer.json()["results"]]
    assert ["__root__", "1", "result", "total_time"] in places
    assert ["__root__", "1", "result", "error"] in places
    assert worker.server.truth(job).totals["answered"] == 0


def test_a_malformed_success_with_an_error_key_becomes_an_error(worker: Worker) -> None:
    job = worker.start_job(images=1)
    (task,) = worker.reserve(job)
    broken = success(task, error="half broken", image_id=int(task["image_id"]))
    del broken["result"]["total_time"]
    assert worker.deliver(job, [broken]).status_code == 200
    (image,) = worker.server.wait_until_processed(job).images
    assert (image.errors, image.successes, image.failed) == (1, 0, True)


def test_a_complete_success_with_an_error_key_stays_a_success(worker: Worker) -> None:
    job = worker.start_job(images=1)
    worker.answer(job, worker.reserve(job), error="a remark")
    worker.server.wait_for_status(job, "SUCCESS")
    assert worker.server.truth(job).totals["failed"] == 0


def test_unknown_keys_null_boxes_and_empty_logits_are_taken(worker: Worker) -> None:
    job = worker.start_job(images=1)
    (task,) = worker.reserve(job)
    box = detection(task, logits=[]) | {"bbox": None}
    worker.answer(job, [task], detections=[box], config={"a": 1}, algorithms={})
    worker.server.wait_for_status(job, "SUCCESS")


def test_an_error_is_terminal_and_stays_counted_when_a_success_follows(worker: Worker) -> None:
    job = worker.start_job(images=3, lease_seconds=0.3)
    bad, *good = worker.reserve(job)
    worker.fail(job, [bad])
    worker.answer(job, [bad])
    worker.server.wait_until_processed(job)
    time.sleep(0.35)
    assert bad["id"] not in [task["id"] for task in worker.reserve(job)]
    worker.answer(job, good)
    worker.server.wait_for_status(job, "SUCCESS")
    assert worker.server.truth(job).totals["failed"] == 1


@pytest.mark.parametrize("result", [{"error": "no image"}, {"pipeline": "demo_pipeline", "total_time": 1.0,
                                                            "source_images": [], "detections": []}])  # fmt: skip
def test_a_result_that_names_no_image_is_acked_and_moves_nothing(worker: Worker, result: dict[str, Any]) -> None:
    job = worker.start_job(images=1, lease_seconds=0.3)
    (task,) = worker.reserve(job)
    worker.deliver(job, [{"reply_subject": task["reply_subject"], "result": result}])
    time.sleep(0.4)
    assert worker.reserve(job) == [], "acked, so never delivered again"
    assert worker.server.job(job)["status"] == "STARTED"
    assert worker.server.truth(job).totals["answers_without_image"] == 1


@pytest.mark.parametrize(("errors", "status"), [(5, "SUCCESS"), (6, "FAILURE")])
def test_a_job_fails_only_when_more_than_half_of_its_images_did(worker: Worker, errors: int, status: str) -> None:
    job = worker.start_job(images=10)
    tasks = worker.reserve(job)
    worker.answer(job, tasks[errors:])
    worker.fail(job, tasks[:errors])
    assert worker.server.wait_for_status(job)["status"] == status


def test_a_failing_job_leaves_the_incomplete_list_and_goes_on_serving(worker: Worker) -> None:
    job = worker.start_job(images=4, pipeline="failing_pipeline")
    worker.fail(job, worker.reserve(job, 3))
    worker.server.wait_until_processed(job)
    assert worker.get("/jobs/", incomplete_only=1, pipeline__slug="failing_pipeline").json()["count"] == 0
    shown = worker.server.job(job)
    assert shown["status"] == "STARTED"
    assert shown["progress"]["stages"][2]["status"] == "FAILURE"
    assert len(worker.reserve(job)) == 1


def broken_results(task: dict[str, str]) -> dict[str, dict[str, Any]]:
    stranger = {"name": "Stranger", "key": "stranger"}
    return {
        "an unknown detector": {"detections": [detection(task) | {"algorithm": stranger}]},
        "an unknown classifier": {"detections": [detection(task, algorithm=stranger)]},
        "empty scores": {"detections": [detection(task, scores=[])]},
        "an unknown pipeline": {"pipeline": "never_registered"},
        "an image that does not exist": {"detections": [detection(task) | {"source_image_id": "99999999"}]},
    }


@pytest.mark.parametrize("fault", list(broken_results({"image_id": "0"})))
def test_a_result_that_cannot_be_saved_is_redelivered_once_and_then_lost(worker: Worker, fault: str) -> None:
    job = worker.start_job(images=1, lease_seconds=0.4)
    for delivery in (1, 2):
        (task,) = worker.reserve(job)
        assert f".{delivery}." in task["reply_subject"]
        worker.answer(job, [task], **broken_results(task)[fault])
        worker.server.wait_until_processed(job)
        time.sleep(0.45)
    assert worker.reserve(job) == []
    (image,) = worker.server.truth(job).images
    assert (image.save_failures, image.saved, image.lost) == (2, False, True)
    assert worker.server.job(job)["status"] == "STARTED"
    assert any("Failed to save" in line for line in worker.server.job(job)["logs"]["stdout"])


def test_a_pipeline_without_exactly_one_detector_saves_nothing(worker: Worker) -> None:
    second = DETECTOR | {"name": "Second detector", "key": "second_detector", "task_type": "detection"}
    worker.server.register("two_detectors", [DETECTOR, second, CLASSIFIER])
    job = worker.start_job(images=1, pipeline="two_detectors")
    worker.answer(job, worker.reserve(job), pipeline="two_detectors")
    (image,) = worker.server.wait_until_processed(job).images
    assert image.save_failures == 1


def test_a_result_may_name_another_registered_pipeline(worker: Worker) -> None:
    worker.server.register("other_registered", [DETECTOR, CLASSIFIER])
    job = worker.start_job(images=1)
    worker.answer(job, worker.reserve(job), pipeline="other_registered")
    worker.server.wait_for_status(job, "SUCCESS")


def test_a_save_that_failed_can_be_mended_by_posting_the_same_answer_again(worker: Worker) -> None:
    job = worker.start_job(images=1, faults=[{"kind": "save_failure", "positions": [0], "times": 1}])
    tasks = worker.reserve(job)
    worker.answer(job, tasks)
    assert worker.server.wait_until_processed(job).images[0].save_failures == 1
    worker.answer(job, tasks)
    worker.server.wait_for_status(job, "SUCCESS")


def test_repeated_answers_count_once_and_exact_boxes_are_kept_once(worker: Worker) -> None:
    job = worker.start_job(images=2)
    first, second = worker.reserve(job)
    worker.answer(job, [first, first, first])
    truth = worker.server.wait_until_processed(job)
    (image,) = [image for image in truth.images if image.image_id == first["id"]]
    assert (image.answers, image.repeated, image.detections) == (3, 2, 1)
    assert worker.server.job(job)["progress"]["stages"][1]["progress"] == 0.5
    worker.answer(job, [second])
    worker.server.wait_for_status(job, "SUCCESS")


def test_a_box_that_moved_by_a_pixel_is_kept_twice(worker: Worker) -> None:
    job = worker.start_job(images=2)
    first, _ = worker.reserve(job)
    for left in (10, 11):
        worker.answer(job, [first], detections=[detection(first, left=left)])
    worker.server.wait_until_processed(job)
    assert worker.server.truth(job).totals["detections"] == 2


def test_late_answers_count_after_both_leases_expired_even_with_an_empty_reply_subject(worker: Worker) -> None:
    job = worker.start_job(images=1, lease_seconds=0.2)
    worker.reserve(job)
    time.sleep(0.25)
    (task,) = worker.reserve(job)
    time.sleep(0.25)
    assert worker.server.truth(job).totals["lost"] == 1
    worker.deliver(job, [success(task | {"reply_subject": ""})])
    worker.server.wait_for_status(job, "SUCCESS")
    assert worker.server.truth(job).broken_promises() == []


def test_answers_after_the_end_are_taken_and_thrown_away(worker: Worker) -> None:
    job = worker.start_job(images=1)
    tasks = worker.reserve(job)
    worker.answer(job, tasks)
    worker.server.wait_for_status(job, "SUCCESS")
    assert worker.deliver(job, [failure(tasks[0])]).status_code == 200
    (image,) = worker.server.wait_until_processed(job).images
    assert (image.discarded, image.failed) == (1, False)


def test_detections_of_another_image_and_inverted_boxes_are_taken_in_silence(worker: Worker) -> None:
    job = worker.start_job(images=2)
    first, second = worker.reserve(job)
    box = detection(second, scores=[0.5]) | {"bbox": {"x1": 9, "y1": 9, "x2": 1, "y2": 1}}
    worker.answer(job, [first], detections=[box])
    truth = worker.server.wait_until_processed(job)
    assert {image.image_id: image.detections for image in truth.images} == {first["id"]: 0, second["id"]: 1}


def test_an_image_on_which_nothing_was_found_is_skipped_by_later_jobs(worker: Worker) -> None:
    job = worker.start_job(images=1)
    tasks = worker.reserve(job)
    worker.answer(job, tasks, detections=[])
    worker.server.wait_for_status(job, "SUCCESS")
    assert worker.server.truth(job).totals["detections"] == 0
    again = worker.server.create_job(image_ids=[tasks[0]["image_id"]])
    worker.server.wait_for_status(again, "SUCCESS")
    assert worker.server.truth(again).totals["answered"] == 0


def test_an_image_id_that_no_database_can_hold_blocks_nobody(worker: Worker) -> None:
    job = worker.start_job(images=1)
    (task,) = worker.reserve(job)
    for image_id in ("9" * 30, "²", "", "-1"):
        result = {"error": "odd", "image_id": image_id}
        assert worker.deliver(job, [{"reply_subject": "", "result": result}]).status_code == 200
    worker.answer(job, [task])
    worker.server.wait_for_status(job, "SUCCESS")
