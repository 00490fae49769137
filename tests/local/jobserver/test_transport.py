"""Authentication, bodies, redirects, filters and pages, as a client meets them."""

from __future__ import annotations

import gzip
import json
import secrets
from typing import Any

import pytest
import requests

from tidegate_local.jobserver.control import JobServerProcess

from .conftest import PIPELINE, Worker


def user(server: JobServerProcess, **rights: Any) -> dict[str, str]:
    email = f"{secrets.token_hex(4)}@demo.invalid"
    token = server.call("POST", "/demo/users/", {"email": email, "password": "secret", **rights})["token"]
    return {"Authorization": f"Token {token}"}


def test_login_gives_the_token_that_the_api_takes(server: JobServerProcess, worker: Worker) -> None:
    server.call("POST", "/demo/users/", {"email": "a@demo.invalid", "password": "right", "is_superuser": True})
    answer = worker.post("/auth/token/login/", {"email": "a@demo.invalid", "password": "right"}, headers={})
    assert answer.status_code == 200
    headers = {"Authorization": f"Token {answer.json()['auth_token']}"}
    job = worker.start_job()
    assert worker.post(f"/jobs/{job}/tasks/", {"batch_size": 1}, headers=headers).status_code == 200


def test_a_wrong_login_is_refused_without_saying_which_half_was_wrong(server: JobServerProcess, worker: Worker) -> None:
    server.call("POST", "/demo/users/", {"email": "b@demo.invalid", "password": "right"})
    for email, password in (("b@demo.invalid", "wrong"), ("nobody@demo.invalid", "right")):
        answer = worker.post("/auth/token/login/", {"email": email, "password": password}, headers={})
        assert (answer.status_code, answer.json()) == (
            400,
            {"non_field_errors": ["Unable to log in with provided credentials."]},
        )


def test_reserving_needs_a_token_that_exists_is_active_and_is_a_superusers(
    server: JobServerProcess, worker: Worker
) -> None:
    path, body = f"/jobs/{worker.start_job()}/tasks/", {"batch_size": 1}
    refusals = [
        ({}, 401, "Authentication credentials were not provided."),
        ({"Authorization": "Token " + "0" * 40}, 401, "Invalid token."),
        (user(server, is_active=False), 401, "User inactive or deleted."),
        (user(server), 403, "You do not have permission to perform this action."),
    ]
    for headers, status, detail in refusals:
        answer = worker.post(path, body, headers=headers)
        assert (answer.status_code, answer.json()) == (status, {"detail": detail})
        assert (answer.headers.get("WWW-Authenticate") == "Token") == (status == 401)
    assert worker.post(path, body, headers=user(server, is_superuser=True)).status_code == 200


def test_a_list_with_a_wrong_token_is_served_as_anonymous(worker: Worker) -> None:
    answer = requests.get(f"{worker.server.api_url}/jobs/", headers={"Authorization": "Token nonsense"}, timeout=5)
    assert answer.status_code == 200


def test_a_get_without_the_slash_is_redirected_relatively_with_its_query(worker: Worker) -> None:
    answer = worker.get("/jobs", ids_only=1)
    assert (answer.status_code, answer.headers["Location"]) == (301, "/api/v2/jobs/?ids_only=1")


def test_a_post_without_the_slash_reserves_nothing(worker: Worker) -> None:
    job = worker.start_job()
    assert worker.post(f"/jobs/{job}/tasks", {"batch_size": 1}).status_code == 301
    assert all(image.deliveries == 0 for image in worker.server.truth(job).images)


def test_unknown_jobs_and_ids_that_are_none_are_not_found(worker: Worker) -> None:
    for job in ("999999", "abc", "9" * 40, "-1"):
        assert worker.get(f"/jobs/{job}/").json() == {"detail": "Not found."}
        answer = worker.post(f"/jobs/{job}/tasks/", {"batch_size": 1})
        assert (answer.status_code, answer.json()) == (404, {"detail": "Not found."})


def test_a_method_that_is_not_served_is_named_in_the_refusal(worker: Worker) -> None:
    job = worker.start_job()
    answer = worker.get(f"/jobs/{job}/tasks/")
    assert (answer.status_code, answer.json()) == (405, {"detail": 'Method "GET" not allowed.'})


def test_a_body_that_is_not_json_by_its_type_is_unsupported(worker: Worker) -> None:
    answer = requests.post(
        f"{worker.server.api_url}/jobs/{worker.start_job()}/tasks/",
        data="batch_size=1",
        headers=worker.headers | {"Content-Type": "text/plain"},
        timeout=5,
    )
    assert (answer.status_code, answer.json()) == (
        415,
        {"detail": 'Unsupported media type "text/plain" in request.'},
    )


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_has_not_are_refused(worker: Worker, constant: str) -> None:
    answer = raw_post(worker, f'{{"batch_size": {constant}}}'.encode())
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("JSON parse error - ")


def test_broken_json_is_refused(worker: Worker) -> None:
    answer = raw_post(worker, b'{"batch_size": ')
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("JSON parse error - ")


def test_a_compressed_body_is_taken_for_broken_json(worker: Worker) -> None:
    answer = raw_post(worker, gzip.compress(b'{"batch_size": 1}'), {"Content-Encoding": "gzip"})
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("JSON parse error - ")


def test_a_body_without_a_length_reads_as_empty(worker: Worker) -> None:
    job = worker.start_job()
    answer = requests.post(
        f"{worker.server.api_url}/jobs/{job}/tasks/",
        data=iter([b'{"batch_size": 1}']),
        headers=worker.headers | {"Content-Type": "application/json"},
        timeout=5,
    )
    assert (answer.status_code, answer.json()) == (400, {"batch_size": ["This field is required."]})


def test_a_list_as_body_is_not_an_object(worker: Worker) -> None:
    assert worker.post(f"/jobs/{worker.start_job()}/result/", []).json() == {
        "non_field_errors": ["Invalid data. Expected a dictionary, but got list."]
    }


def test_a_body_above_the_documented_hundred_megabytes_is_read(worker: Worker) -> None:
    job = worker.start_job(images=1)
    (task,) = worker.reserve(job)
    padding = "x" * (101 * 10**6)
    body = json.dumps({"results": [{"reply_subject": "", "result": {"error": padding, "image_id": task["image_id"]}}]})
    answer = requests.post(
        f"{worker.server.api_url}/jobs/{job}/result/",
        data=body,
        headers=worker.headers | {"Content-Type": "application/json"},
        timeout=60,
    )
    assert answer.status_code == 200


def raw_post(worker: Worker, body: bytes, headers: dict[str, str] | None = None) -> requests.Response:
    return requests.post(
        f"{worker.server.api_url}/jobs/{worker.start_job()}/tasks/",
        data=body,
        headers=worker.headers | {"Content-Type": "application/json"} | (headers or {}),
        timeout=5,
    )


def test_ids_only_lists_one_job_in_random_order_unless_a_limit_is_named(worker: Worker) -> None:
    jobs = {worker.start_job(images=1, pipeline="listed_pipeline") for _ in range(4)}
    query = {"ids_only": 1, "incomplete_only": 1, "pipeline__slug__in": "listed_pipeline,other"}
    picks = [worker.get("/jobs/", **query).json() for _ in range(30)]
    assert all(len(pick["results"]) == 1 and pick["count"] == 4 for pick in picks)
    assert len({pick["results"][0]["id"] for pick in picks}) > 1
    assert "limit=1&offset=1" in picks[0]["next"]
    full = worker.get("/jobs/", **query, limit=10).json()
    assert {entry["id"] for entry in full["results"]} == jobs
    assert full["results"][0] | {"id": 0} == {"id": 0, "pipeline_slug": "listed_pipeline", "user_permissions": []}


@pytest.mark.parametrize(("word", "is_true"), [("", True), ("1", True), ("yes", True), ("0", False), ("false", False)])
def test_booleans_of_the_query_are_read_as_antenna_reads_them(worker: Worker, word: str, is_true: bool) -> None:
    worker.start_job()
    entry = worker.get("/jobs/", ids_only=word).json()["results"][0]
    assert ("status" not in entry) == is_true


def test_the_full_list_is_paged_by_ten_newest_first(worker: Worker) -> None:
    newest = [worker.server.create_job(images=1) for _ in range(12)][-1]
    first = worker.get("/jobs/").json()
    assert len(first["results"]) == 10
    assert first["results"][0]["id"] == newest
    second = requests.get(first["next"], headers=worker.headers, timeout=5).json()
    assert second["results"][0]["id"] == newest - 10
    assert second["previous"] is not None


def test_filters_choose_by_pipeline_mode_and_status(worker: Worker) -> None:
    sync = worker.server.create_job(images=1, dispatch_mode="sync_api", pipeline="filtered_pipeline")
    query = {"pipeline__slug": "filtered_pipeline", "ids_only": 1, "limit": 50}
    assert [job["id"] for job in worker.get("/jobs/", **query).json()["results"]] == [sync]
    assert worker.get("/jobs/", **query, dispatch_mode="async_api").json()["count"] == 0
    assert worker.get("/jobs/", **query, status="SUCCESS").json()["count"] == 0


@pytest.mark.parametrize("field", ["dispatch_mode", "status"])
def test_an_unknown_choice_is_refused(worker: Worker, field: str) -> None:
    answer = worker.get("/jobs/", **{field: "bogus"})
    assert answer.status_code == 400
    assert answer.json() == {field: ["Select a valid choice. bogus is not one of the available choices."]}


def test_a_senseless_cutoff_is_refused(worker: Worker) -> None:
    assert worker.get("/jobs/", cutoff_hours="soon").json() == {"cutoff_hours": ["A valid integer is required."]}


def test_the_number_of_an_unknown_project_returns_everything(worker: Worker) -> None:
    worker.start_job()
    assert worker.get("/jobs/", project_id=4711).json()["count"] == worker.get("/jobs/").json()["count"] > 0


def test_jobs_that_have_not_started_are_listed_as_incomplete(worker: Worker) -> None:
    job = worker.server.create_job(images=1, start=False, pipeline="unstarted_pipeline")
    query = {"pipeline__slug__in": "unstarted_pipeline", "ids_only": 1, "incomplete_only": 1}
    assert [entry["id"] for entry in worker.get("/jobs/", **query).json()["results"]] == [job]


def test_a_list_of_ids_keeps_the_services_of_its_pipelines_alive(worker: Worker) -> None:
    worker.get("/jobs/", ids_only=1, pipeline__slug__in=PIPELINE)
    services = worker.server.call("GET", "/demo/services/")["services"]
    assert any(service["last_seen_live"] for service in services)


def test_nothing_under_demo_answers_without_the_administrators_token(worker: Worker) -> None:
    for path in ("/demo/health/", "/demo/faults/", "/demo/requests/", "/demo/jobs/1/truth/"):
        assert requests.get(f"{worker.server.url}{path}", timeout=5).status_code == 401
    answer = requests.post(
        f"{worker.server.url}/demo/faults/", json={"kind": "hang"}, headers=user(worker.server), timeout=5
    )
    assert answer.status_code == 403
