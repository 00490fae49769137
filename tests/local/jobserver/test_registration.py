"""Registering pipelines: what is created, what is refused, what is ignored in silence."""

from __future__ import annotations

import secrets
from typing import Any

import pytest

from .conftest import Worker


def algorithm(key: str, **changes: Any) -> dict[str, Any]:
    return {"name": key, "key": key, "task_type": "localization"} | changes


def body(slug: str, *algorithms: dict[str, Any], **changes: Any) -> dict[str, Any]:
    pipeline = {"name": slug, "slug": slug, "version": 1, "algorithms": list(algorithms)} | changes
    return {"processing_service_name": "service (pod-0)", "pipelines": [pipeline]}


@pytest.fixture
def name() -> str:
    return f"p{secrets.token_hex(4)}"


def slugs(worker: Worker) -> list[str]:
    return [entry["slug"] for entry in worker.get("/projects/1/pipelines/", limit=500).json()["results"]]


def test_registration_echoes_the_pipelines_and_is_idempotent(worker: Worker, name: str) -> None:
    for created in ([name, f"{name}-d"], []):
        answer = worker.post("/projects/1/pipelines/", body(name, algorithm(f"{name}-d")))
        assert answer.status_code == 201
        told = answer.json()
        assert (told["success"], told["error"], told["algorithms_created"]) == (True, None, [])
        assert told["pipelines"][0]["slug"] == name
        assert told["pipelines_created"] == created
    assert slugs(worker).count(name) == 1


def test_projects_and_their_pipelines_are_listed_in_pages(worker: Worker) -> None:
    projects = worker.get("/projects/").json()
    assert (projects["count"], projects["results"][0]["id"], projects["next"]) == (1, 1, None)
    assert worker.get("/projects/1/pipelines/").json()["count"] >= 1


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"processing_service_name": None}, {"processing_service_name": ["This field may not be null."]}),
        ({"processing_service_name": " "}, {"processing_service_name": ["This field may not be blank."]}),
        (
            {"pipelines": [{"name": "x", "version": 1}]},
            {"pipelines": [{"loc": ["__root__", "0", "slug"], "msg": "field required", "type": "value_error.missing"}]},
        ),
    ],
)
def test_a_registration_that_is_wrong_in_form_is_refused(worker: Worker, change: Any, complaint: Any) -> None:
    answer = worker.post("/projects/1/pipelines/", body("unused") | change)
    assert (answer.status_code, answer.json()) == (400, complaint)


def test_an_empty_registration_names_both_missing_fields(worker: Worker) -> None:
    required = ["This field is required."]
    answer = worker.post("/projects/1/pipelines/", {})
    assert answer.json() == {"processing_service_name": required, "pipelines": required}


def test_an_unknown_project_is_not_found(worker: Worker) -> None:
    assert worker.post("/projects/77/pipelines/", body("unused")).status_code == 404


def test_a_classifier_without_a_category_map_breaks_the_whole_registration(worker: Worker, name: str) -> None:
    classifier = algorithm(f"{name}-c", task_type="classification")
    answer = worker.post("/projects/1/pipelines/", body(name, algorithm(f"{name}-d"), classifier))
    assert (answer.status_code, answer.headers["Content-Type"].partition(";")[0]) == (500, "text/html")
    assert name not in slugs(worker)
    assert worker.post("/projects/1/pipelines/", body(name, algorithm(f"{name}-d"))).json()["pipelines_created"]


@pytest.mark.parametrize("clash", [{"version": 2}, {"key": "another-key"}])
def test_the_same_key_or_the_same_name_and_version_twice_is_a_server_error(
    worker: Worker, name: str, clash: dict[str, Any]
) -> None:
    worker.post("/projects/1/pipelines/", body(name, algorithm(name)))
    answer = worker.post("/projects/1/pipelines/", body(f"{name}-2", algorithm(name) | clash))
    assert answer.status_code == 500


def test_another_slug_of_the_same_name_and_version_is_dropped_in_silence(worker: Worker, name: str) -> None:
    worker.post("/projects/1/pipelines/", body(name))
    assert worker.post("/projects/1/pipelines/", body(f"{name}-2", name=name)).status_code == 201
    assert f"{name}-2" not in slugs(worker)


def test_a_pipeline_of_a_job_that_came_first_gets_its_algorithms_when_a_worker_registers(
    worker: Worker, name: str
) -> None:
    job = worker.start_job(images=1, pipeline=name)
    tasks = worker.reserve(job)
    worker.answer(job, tasks, pipeline=name, detections=[])
    assert worker.server.wait_until_processed(job).images[0].save_failures == 1
    worker.post("/projects/1/pipelines/", body(name, algorithm(f"{name}-d")))
    worker.answer(job, tasks, pipeline=name, detections=[])
    worker.server.wait_for_status(job, "SUCCESS")
