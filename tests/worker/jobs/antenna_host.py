"""A scripted Antenna of one job on a real socket: it hands out given tasks and judges posts as a test says."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from typing import Any

from tests.worker.jobs.http_host import Host, Request, response

Judge = Callable[[list[dict[str, Any]], Request], tuple[str, Any]]
JSON = "Content-Type: application/json\r\n"


def accept_all(results: list[dict[str, Any]], _: Request) -> tuple[str, Any]:
    return "200 OK", {"status": "accepted", "job_id": 1, "results_queued": len(results), "tasks": []}


class AntennaHost:
    def __init__(self, host: Host) -> None:
        self.host = host
        self.status = "STARTED"
        self.processed = 0
        self.total = 0
        self.tasks: list[dict[str, Any]] = []
        self.judge: Judge = accept_all
        self.before_tasks: Callable[[], None] = lambda: None
        #: (reply subject, result) of every POST that was answered 200, and of every POST at all.
        self.accepted: list[tuple[str, dict[str, Any]]] = []
        self.posts: list[bytes] = []
        self._lock = threading.Lock()
        host.scripts["/api/v2/jobs/1/"] = self._show
        host.scripts["/api/v2/jobs/1/tasks/"] = self._lease
        host.scripts["/api/v2/jobs/1/result/"] = self._take

    @property
    def api_url(self) -> str:
        return self.host.url("/api/v2")

    def task(self, image: Any, sequence: int = 1, delivered: int = 1, consumer_sequence: int | None = None) -> None:
        number = sequence if consumer_sequence is None else consumer_sequence
        subject = f"$JS.ACK.job_1.job-1-consumer.{delivered}.{sequence}.{number}.1776397669000000000.5"
        self.tasks.append({"id": image, "image_id": image, "image_url": "http://h/a.jpg?s=1", "reply_subject": subject})

    def subjects(self, image: str) -> list[str]:
        return [subject for subject, result in self.accepted if named(result) == image]

    def errors(self) -> dict[str, str]:
        return {result["image_id"]: result["error"] for _, result in self.accepted if "error" in result}

    def _show(self, peer: socket.socket, _: Request) -> None:
        params = [
            {"key": "processed", "value": self.processed},
            {"key": "remaining", "value": self.total - self.processed},
        ]
        stages = [{"key": "process", "progress": 0.5, "params": params}]
        body = {"id": 1, "status": self.status, "dispatch_mode": "async_api", "pipeline": {"slug": "moths"}}
        _reply(peer, "200 OK", body | {"progress": {"stages": stages}})

    def _lease(self, peer: socket.socket, request: Request) -> None:
        self.before_tasks()
        count = json.loads(request.body)["batch_size"]
        with self._lock:
            leased, self.tasks = self.tasks[:count], self.tasks[count:]
        _reply(peer, "200 OK", {"tasks": leased})

    def _take(self, peer: socket.socket, request: Request) -> None:
        posted = json.loads(request.body)["results"]
        with self._lock:
            self.posts.append(request.body)
        status, body = self.judge(posted, request)
        if status.startswith("200"):
            with self._lock:
                self.accepted += [(item["reply_subject"], item["result"]) for item in posted]
        if status == "reset":
            peer.shutdown(socket.SHUT_RDWR)
            return
        _reply(peer, status, body)


def named(result: dict[str, Any]) -> str:
    return str(result["image_id"] if "error" in result else result["source_images"][0]["id"])


def _reply(peer: socket.socket, status: str, body: Any) -> None:
    peer.sendall(response(json.dumps(body).encode(), status, JSON))
