"""The job server from outside: start it as a process, make jobs, switch faults, ask what happened. For tests and demos.

Talks HTTP only, as everybody else does; the process can be killed and started again on the same workdir and port.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import requests

from tidegate.core.errors import FixConfig, RetryLater
from tidegate_local.jobserver.lifecycle import FINAL
from tidegate_local.jobserver.settings import ServerSettings

_CALL_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class ImageTruth:
    """What happened to one image; `lost` means that no answer came in time to count."""

    image_id: str
    deliveries: int
    downloads: int
    answers: int
    successes: int
    errors: int
    queued: int
    saved: bool
    save_failures: int
    repeated: int
    discarded: int
    failed: bool
    lost: bool
    detections: int


@dataclass(frozen=True, slots=True)
class JobTruth:
    """What happened to a job, image by image, with totals."""

    job_id: int
    status: str
    totals: Mapping[str, int]
    images: tuple[ImageTruth, ...]

    def broken_promises(self) -> list[str]:
        """Every image that was not answered exactly once and saved, in words; empty after a clean run."""
        return [
            f"image {image.image_id}: {image.answers} answers ({image.errors} errors), "
            f"saved={image.saved}, lost={image.lost}"
            for image in self.images
            if image.answers != 1 or not image.saved
        ]


class JobServer:
    """A client of a job server that runs already."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self.token = token
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers["Authorization"] = f"Token {token}"

    @classmethod
    def of_workdir(cls, workdir: Path) -> JobServer:
        """The server that runs on this workdir."""
        address_path = ServerSettings(workdir=workdir).address_path
        if not address_path.exists():
            raise FixConfig(f"no job server has started on {workdir}: start one with --workdir {workdir}")
        address = json.loads(address_path.read_text())
        return JobServer(address["url"], Path(address["token_file"]).read_text().strip())

    @property
    def api_url(self) -> str:
        """What a worker takes as its `antenna_api_base_url`."""
        return f"{self.url}/api/v2"

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """One call with the administrator's token; raises on any status from 400."""
        response = self._session.request(
            method, f"{self.url}{path}", json=body, params=query or None, timeout=_CALL_SECONDS
        )
        if response.status_code >= 400:
            raise ValueError(f"{method} {path} answered {response.status_code}: {response.text[:500]}")
        return response.json()

    def is_healthy(self) -> bool:
        try:
            return bool(self.call("GET", "/demo/health/")["status"] == "ok")
        except (requests.RequestException, ValueError):
            return False

    def create_job(
        self,
        kind: str = "tiny",
        images: int = 10,
        pipeline: str | None = "demo_pipeline",
        *,
        faults: Sequence[Mapping[str, Any]] = (),
        **options: Any,
    ) -> int:
        """Make and start a job; returns its id.

        Options: name, lease_seconds, shuffle, max_deliver, max_ack_pending, save_delay_seconds, dispatch_mode, start,
        image_ids (of another job). Faults are as in `add_fault`; `positions` names images by their place in the job.
        """
        body = {"kind": kind, "images": images, "pipeline": pipeline, "faults": list(faults), **options}
        return int(self.call("POST", "/demo/jobs/", body)["id"])

    def register(self, slug: str, algorithms: Sequence[Mapping[str, Any]], service: str = "demo service") -> Any:
        """Register a pipeline as a worker would."""
        pipeline = {"name": slug, "slug": slug, "version": 1, "algorithms": list(algorithms)}
        body = {"processing_service_name": service, "pipelines": [pipeline]}
        return self.call("POST", "/api/v2/projects/1/pipelines/", body)

    def add_fault(self, kind: str, **reach: Any) -> list[int]:
        """Switch a fault on; reach: endpoint, job, images, times, ratio, options. Returns the ids of the faults."""
        return [fault["id"] for fault in self.call("POST", "/demo/faults/", {"kind": kind, **reach})["faults"]]

    def clear_faults(self) -> None:
        self.call("DELETE", "/demo/faults/")

    def faults(self) -> list[dict[str, Any]]:
        return list(self.call("GET", "/demo/faults/")["faults"])

    def job(self, job_id: int) -> dict[str, Any]:
        """The job as `GET /jobs/{id}/` shows it."""
        return dict(self.call("GET", f"/api/v2/jobs/{job_id}/"))

    def cancel(self, job_id: int) -> None:
        self.call("POST", f"/api/v2/jobs/{job_id}/cancel/")

    def retry(self, job_id: int) -> None:
        self.call("POST", f"/api/v2/jobs/{job_id}/retry/")

    def reap(self, silent_seconds: float = 0.0) -> list[int]:
        """Run the reaper now; returns the jobs it ended."""
        return list(self.call("POST", "/demo/reap/", {"silent_seconds": silent_seconds})["jobs"])

    def truth(self, job_id: int) -> JobTruth:
        answer = self.call("GET", f"/demo/jobs/{job_id}/truth/")
        images = tuple(ImageTruth(**image) for image in answer["images"])
        return JobTruth(answer["job_id"], answer["status"], answer["totals"], images)

    def requests(self, role: str | None = None, limit: int = 1000) -> list[dict[str, Any]]:
        """What was asked of the server lately; roles: api, demo, image, manifests."""
        query: dict[str, Any] = {"limit": limit} | ({} if role is None else {"role": role})
        return list(self.call("GET", "/demo/requests/", **query)["requests"])

    def create_manifest(self, name: str, kind: str = "tiny", images: int = 10) -> dict[str, Any]:
        """Make a manifest of image URLs; returns its `csv` and `jsonl` addresses and the image ids."""
        return dict(self.call("POST", "/demo/manifests/", {"name": name, "kind": kind, "images": images}))

    def wait_for_status(self, job_id: int, *wanted: str, timeout_seconds: float = 30.0) -> dict[str, Any]:
        """The job once its status is one of `wanted` (or final, where none is named)."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            job = self.job(job_id)
            if job["status"] in (wanted or FINAL):
                return job
            if time.monotonic() > deadline:
                raise RetryLater(f"job {job_id} is {job['status']}, not {wanted or sorted(FINAL)}")
            time.sleep(0.02)

    def wait_until_collected(self, job_id: int, timeout_seconds: float = 30.0) -> None:
        """Return once the job's tasks can be reserved."""
        deadline = time.monotonic() + timeout_seconds
        while self.job(job_id)["progress"]["stages"][0]["status"] != "SUCCESS":
            if time.monotonic() > deadline:
                raise RetryLater(f"job {job_id} was not collected in {timeout_seconds} s")
            time.sleep(0.02)

    def wait_until_processed(self, job_id: int, timeout_seconds: float = 30.0) -> JobTruth:
        """The truth once no posted result waits for its saving."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            truth = self.truth(job_id)
            if not any(image.queued for image in truth.images):
                return truth
            if time.monotonic() > deadline:
                raise RetryLater(f"job {job_id} still has queued results")
            time.sleep(0.02)


class JobServerProcess(JobServer):
    """A job server of one's own, in a process that can be killed; use as a context manager."""

    def __init__(self, workdir: Path, **settings: Any) -> None:
        """`settings` are fields of `ServerSettings`."""
        self._settings = ServerSettings(workdir=workdir, **settings)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()
        super().__init__(self._wait_for_url(), self._settings.admin_token_path.read_text().strip())

    @property
    def workdir(self) -> Path:
        return self._settings.workdir

    def start(self) -> None:
        """Start the process; after a kill, on the port it had."""
        settings = self._settings
        address = settings.address_path
        port = settings.port
        if address.exists() and not port:
            port = int(json.loads(address.read_text())["url"].rpartition(":")[2])
        address.unlink(missing_ok=True)
        command = [
            sys.executable, "-m", "tidegate_local.jobserver",
            "--workdir", str(settings.workdir), "--host", settings.host, "--port", str(port),
            *(["--image-host", settings.image_host] if settings.image_host else []),
            *(["--token-file", str(settings.token_file)] if settings.token_file else []),
            "--lease-seconds", str(settings.lease_seconds), "--collect-seconds", str(settings.collect_seconds),
            "--save-delay-seconds", str(settings.save_delay_seconds),
            "--empty-poll-seconds", str(settings.empty_poll_seconds),
            "--reaper-period-seconds", str(settings.reaper_period_seconds),
            "--silent-job-seconds", str(settings.silent_job_seconds),
        ]  # fmt: skip
        settings.workdir.mkdir(parents=True, exist_ok=True)
        with (settings.workdir / "jobserver.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _wait_for_url(self, timeout_seconds: float = 30.0) -> str:
        deadline = time.monotonic() + timeout_seconds
        while not self._settings.address_path.exists():
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                log = (self._settings.workdir / "jobserver.log").read_text()[-2000:]
                raise RetryLater(f"the job server did not start:\n{log}")
            time.sleep(0.02)
        return str(json.loads(self._settings.address_path.read_text())["url"])

    def kill(self) -> None:
        """End the process as a power failure would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def restart(self) -> None:
        """Kill the process and start it again on the same state and port."""
        self.kill()
        self.start()
        self._wait_for_url()

    def stop(self) -> None:
        """End the process in order."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
