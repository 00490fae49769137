"""A real job server process for the tests, and a worker that speaks to it by plain HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from tidegate_local.jobserver.control import JobServerProcess

PIPELINE = "demo_pipeline"
DETECTOR = {"name": "Demo detector", "key": "demo_detector", "task_type": "localization"}
CLASSIFIER = {
    "name": "Demo classifier",
    "key": "demo_classifier",
    "task_type": "classification",
    "category_map": {
        "data": [{"index": 0, "label": "moth"}, {"index": 1, "label": "nonmoth"}],
        "labels": ["moth", "nonmoth"],
    },
}
FAST: dict[str, Any] = {
    "lease_seconds": 60.0,
    "collect_seconds": 0.05,
    "save_delay_seconds": 0.02,
    "empty_poll_seconds": 0.05,
}


@dataclass(frozen=True, slots=True)
class Worker:
    """What a worker does, one call at a time."""

    server: JobServerProcess

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Token {self.server.token}"}

    def get(self, path: str, **query: Any) -> requests.Response:
        return requests.get(
            f"{self.server.api_url}{path}", params=query, headers=self.headers, timeout=20, allow_redirects=False
        )

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> requests.Response:
        """Post as the administrator, or with just these headers."""
        return requests.post(
            f"{self.server.api_url}{path}",
            json=body,
            headers=self.headers if headers is None else headers,
            timeout=20,
            allow_redirects=False,
        )

    def start_job(self, images: int = 3, **options: Any) -> int:
        job = self.server.create_job(images=images, **options)
        self.server.wait_until_collected(job)
        return job

    def reserve(self, job: int, batch_size: int = 100) -> list[dict[str, str]]:
        response = self.post(f"/jobs/{job}/tasks/", {"batch_size": batch_size})
        assert response.status_code == 200, response.text
        return list(response.json()["tasks"])

    def deliver(self, job: int, results: list[dict[str, Any]]) -> requests.Response:
        return self.post(f"/jobs/{job}/result/", {"results": results})

    def answer(self, job: int, tasks: list[dict[str, str]], **changes: Any) -> None:
        response = self.deliver(job, [success(task, **changes) for task in tasks])
        assert response.status_code == 200, response.text

    def fail(self, job: int, tasks: list[dict[str, str]]) -> None:
        response = self.deliver(job, [failure(task) for task in tasks])
        assert response.status_code == 200, response.text


def success(task: dict[str, str], **changes: Any) -> dict[str, Any]:
    """An accepted result for a task, with one box; `changes` replace fields of the result."""
    result = {
        "pipeline": PIPELINE,
        "total_time": 0.5,
        "source_images": [{"id": task["image_id"], "url": task["image_url"]}],
        "detections": [detection(task)],
    }
    return {"reply_subject": task["reply_subject"], "result": result | changes}


def failure(task: dict[str, str]) -> dict[str, Any]:
    return {
        "reply_subject": task["reply_subject"],
        "result": {"error": "cannot be decoded", "image_id": task["image_id"]},
    }


def detection(task: dict[str, str], left: int = 10, **classification: Any) -> dict[str, Any]:
    """A box with one classification; `classification` replaces its fields."""
    now = "2026-01-01T00:00:00"
    return {
        "source_image_id": task["image_id"],
        "bbox": {"x1": left, "y1": 20, "x2": 110, "y2": 120},
        "algorithm": {"name": "Demo detector", "key": "demo_detector"},
        "timestamp": now,
        "classifications": [
            {
                "classification": "moth",
                "scores": [0.9, 0.1],
                "algorithm": {"name": "Demo classifier", "key": "demo_classifier"},
                "timestamp": now,
            }
            | classification
        ],
    }


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServerProcess]:
    workdir: Path = tmp_path_factory.mktemp("jobserver")
    with JobServerProcess(workdir, image_host="127.0.0.2", **FAST) as server:
        server.register(PIPELINE, [DETECTOR, CLASSIFIER])
        yield server


@pytest.fixture
def server(shared_server: JobServerProcess) -> Iterator[JobServerProcess]:
    """The shared server, with all faults off afterwards and no job left that another test would see as open."""
    yield shared_server
    shared_server.clear_faults()
    shared_server.reap(0.0)


@pytest.fixture
def worker(server: JobServerProcess) -> Worker:
    return Worker(server)
