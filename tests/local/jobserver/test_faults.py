"""The switches: each fault does what it says, where it was told to, as often as it was told to."""

from __future__ import annotations

import io
import time

import pytest
import requests
from PIL import Image

from .conftest import Worker, success


def fetch(task: dict[str, str], timeout_seconds: float = 5.0) -> requests.Response:
    return requests.get(task["image_url"], timeout=timeout_seconds, allow_redirects=False)


@pytest.fixture
def task(worker: Worker) -> dict[str, str]:
    (task,) = worker.reserve(worker.start_job(images=1))
    return task


def test_an_unavailable_queue_answers_503_as_often_as_told_and_reserves_nothing(worker: Worker) -> None:
    job = worker.start_job(images=2)
    worker.server.add_fault("unavailable", endpoint="tasks", job=job, times=2)
    for _ in range(2):
        answer = worker.post(f"/jobs/{job}/tasks/", {"batch_size": 5})
        assert (answer.status_code, answer.json()) == (503, {"error": "Task queue temporarily unavailable"})
    assert len(worker.reserve(job)) == 2


def test_an_unavailable_broker_answers_503_to_results_in_their_own_words(worker: Worker) -> None:
    job = worker.start_job(images=1)
    (task,) = worker.reserve(job)
    worker.server.add_fault("unavailable", endpoint="result", times=1)
    answer = worker.deliver(job, [success(task)])
    detail = "Task queue temporarily unavailable"
    assert (answer.status_code, answer.json()) == (503, {"status": "error", "job_id": job, "detail": detail})


def test_a_fault_of_one_job_leaves_another_alone(worker: Worker) -> None:
    broken, sound = worker.start_job(images=1), worker.start_job(images=1)
    worker.server.add_fault("unavailable", endpoint="tasks", job=broken)
    assert len(worker.reserve(sound)) == 1
    assert worker.post(f"/jobs/{broken}/tasks/", {"batch_size": 1}).status_code == 503


def test_a_server_error_is_a_page_of_html(worker: Worker) -> None:
    worker.server.add_fault("server_error", endpoint="jobs", times=1)
    answer = worker.get("/jobs/")
    assert (answer.status_code, answer.headers["Content-Type"].partition(";")[0]) == (500, "text/html")


def test_a_slow_server_answers_late_and_rightly(worker: Worker) -> None:
    job = worker.start_job(images=1)
    worker.server.add_fault("slow", endpoint="tasks", times=1, options={"delay_seconds": 0.4})
    started = time.monotonic()
    assert len(worker.reserve(job)) == 1
    assert time.monotonic() - started >= 0.4


def test_a_trickled_answer_arrives_in_pieces_and_whole(worker: Worker) -> None:
    worker.server.add_fault("trickle", endpoint="jobs", times=1, options={"bytes_per_second": 400})
    started = time.monotonic()
    assert "results" in worker.get("/jobs/", ids_only=1).json()
    assert time.monotonic() - started >= 0.1


def test_a_timeout_ends_without_an_answer_and_without_effect(worker: Worker) -> None:
    job = worker.start_job(images=1)
    worker.server.add_fault("timeout", endpoint="tasks", times=1, options={"delay_seconds": 0.2})
    with pytest.raises(requests.ConnectionError):
        worker.reserve(job)
    assert len(worker.reserve(job)) == 1


def test_a_lost_response_to_results_comes_after_they_were_queued(worker: Worker) -> None:
    job = worker.start_job(images=1)
    tasks = worker.reserve(job)
    worker.server.add_fault("lost_response", endpoint="result", times=1)
    with pytest.raises(requests.ConnectionError):
        worker.answer(job, tasks)
    worker.server.wait_for_status(job, "SUCCESS")


def test_a_lost_response_to_a_reservation_leaves_its_tasks_reserved(worker: Worker) -> None:
    job = worker.start_job(images=2)
    worker.server.add_fault("lost_response", endpoint="tasks", times=1)
    with pytest.raises(requests.ConnectionError):
        worker.reserve(job, 1)
    assert len(worker.reserve(job)) == 1


def test_a_fault_by_chance_strikes_sometimes(worker: Worker) -> None:
    worker.server.add_fault("unavailable", endpoint="jobs", ratio=0.5)
    statuses = {worker.get("/jobs/", ids_only=1).status_code for _ in range(60)}
    assert statuses == {200, 503}


@pytest.mark.parametrize(
    "wanted",
    [
        {"kind": "earthquake"},
        {"kind": "slow", "endpoint": "nowhere"},
        {"kind": "slow", "options": {"colour": "red"}},
        {"kind": "slow", "times": 0},
        {"kind": "slow", "ratio": 0},
        {"kind": "slow", "when": "later"},
    ],
)
def test_a_fault_that_does_not_exist_cannot_be_set(worker: Worker, wanted: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="answered 400"):
        worker.server.call("POST", "/demo/faults/", wanted)
    assert worker.server.faults() == []


def test_one_fault_can_be_removed_and_all_can_be_cleared(worker: Worker) -> None:
    (first,) = worker.server.add_fault("slow")
    worker.server.add_fault("hang")
    worker.server.call("DELETE", f"/demo/faults/{first}/")
    assert [fault["kind"] for fault in worker.server.faults()] == ["hang"]
    worker.server.clear_faults()
    assert worker.server.faults() == []


@pytest.mark.parametrize("status", [404, 403, 500])
def test_an_image_can_answer_any_status(worker: Worker, task: dict[str, str], status: int) -> None:
    worker.server.add_fault("image_status", images=[task["id"]], times=1, options={"status": status})
    assert [fetch(task).status_code, fetch(task).status_code] == [status, 200]


def test_an_image_can_be_a_page_of_html(worker: Worker, task: dict[str, str]) -> None:
    worker.server.add_fault("image_html", images=[task["id"]])
    answer = fetch(task)
    assert (answer.status_code, answer.headers["Content-Type"].partition(";")[0]) == (200, "text/html")


def test_an_image_can_break_off_before_its_announced_length(worker: Worker, task: dict[str, str]) -> None:
    worker.server.add_fault("image_truncated", images=[task["id"]])
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        fetch(task)


def test_an_image_can_be_cut_short_under_an_honest_length(worker: Worker, task: dict[str, str]) -> None:
    whole = fetch(task).content
    worker.server.add_fault("image_truncated", images=[task["id"]], options={"honest_length": True, "keep_ratio": 0.6})
    cut = fetch(task).content
    assert cut == whole[: int(len(whole) * 0.6)]
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(cut)).load()


def test_an_image_can_have_a_good_header_and_nothing_behind(worker: Worker, task: dict[str, str]) -> None:
    worker.server.add_fault("image_corrupt", images=[task["id"]])
    assert Image.open(io.BytesIO(fetch(task).content)).size == (320, 240)
    assert fetch(task).content[2048:] == bytes(len(fetch(task).content) - 2048)


def test_an_image_can_announce_a_size_that_no_machine_holds(worker: Worker, task: dict[str, str]) -> None:
    worker.server.add_fault("image_bomb", images=[task["id"]])
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(fetch(task).content))


def test_an_image_can_trickle(worker: Worker, task: dict[str, str]) -> None:
    worker.server.add_fault("image_trickle", images=[task["id"]], options={"bytes_per_second": 20_000})
    started = time.monotonic()
    assert Image.open(io.BytesIO(fetch(task).content)).size == (320, 240)
    assert time.monotonic() - started > 0.3


def test_an_image_can_stall_and_end_without_an_answer(worker: Worker, task: dict[str, str]) -> None:
    worker.server.add_fault("image_stall", images=[task["id"]], options={"delay_seconds": 0.2})
    with pytest.raises(requests.ConnectionError):
        fetch(task)


def test_an_image_can_redirect_to_where_no_worker_should_go(worker: Worker, task: dict[str, str]) -> None:
    worker.server.add_fault("image_redirect", images=[task["id"]])
    answer = fetch(task)
    assert (answer.status_code, answer.headers["Location"][:24]) == (302, "http://169.254.169.254/l")


def test_an_image_fault_of_a_job_reaches_all_of_its_images_and_no_others(worker: Worker, task: dict[str, str]) -> None:
    broken = worker.start_job(images=3, faults=[{"kind": "image_status"}])
    assert {fetch(broken_task).status_code for broken_task in worker.reserve(broken)} == {404}
    assert fetch(task).status_code == 200


def test_image_faults_can_name_positions_in_the_job(worker: Worker) -> None:
    job = worker.start_job(images=3, shuffle=False, faults=[{"kind": "image_status", "positions": [1]}])
    assert [fetch(task).status_code for task in worker.reserve(job)] == [200, 404, 200]
