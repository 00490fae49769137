"""The demo job server as a process of its own, as a worker and an administrator reach it: over HTTP alone."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

CONTROL_PYTHON = Path(__file__).parents[3] / ".venv" / "control" / "bin" / "python"


class DemoServer:
    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self.token = token
        self._http = urllib3.PoolManager(retries=False)

    @property
    def api_url(self) -> str:
        return f"{self.url}/api/v2"

    def call(self, method: str, path: str, body: Any = None) -> Any:
        response = self._http.request(
            method, f"{self.url}{path}", json=body, headers={"Authorization": f"Token {self.token}"}, timeout=30.0
        )
        assert response.status < 400, (response.status, response.data)
        return response.json()

    def create_job(self, images: int, pipeline: str, **options: Any) -> str:
        return str(self.call("POST", "/demo/jobs/", {"images": images, "pipeline": pipeline, **options})["id"])

    def fault(self, kind: str, **reach: Any) -> None:
        self.call("POST", "/demo/faults/", {"kind": kind, **reach})

    def calm(self) -> None:
        self.call("DELETE", "/demo/faults/")

    def truth(self, job: str) -> dict[str, Any]:
        return dict(self.call("GET", f"/demo/jobs/{job}/truth/"))

    def status(self, job: str) -> str:
        return str(self.call("GET", f"/api/v2/jobs/{job}/")["status"])

    def wait_for(self, job: str, *statuses: str, seconds: float = 30.0) -> None:
        wait_until(lambda: self.status(job) in statuses, seconds)


def wait_until(holds: Callable[[], bool], seconds: float = 120.0) -> None:
    give_up_at = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up_at, "waited in vain"
        time.sleep(0.02)


@contextlib.contextmanager
def demo_server(workdir: Path, **settings: float) -> Iterator[DemoServer]:
    if not CONTROL_PYTHON.exists():
        pytest.skip("the demo job server runs in the control environment, which is not set up here")
    options = [text for name, value in settings.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    process = subprocess.Popen(
        [str(CONTROL_PYTHON), "-m", "tidegate_local.jobserver", "--workdir", str(workdir), *options],
        stdout=subprocess.PIPE,
        stderr=(workdir / "server.log").open("wb"),
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (workdir / "server.log").read_text()
        started = json.loads(line)
        yield DemoServer(started["url"], Path(started["token_file"]).read_text().strip())
    finally:
        process.terminate()
        process.wait(20)
