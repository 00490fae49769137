"""One client, one job, one cage: what came of it, by the same rules for every client.

Images a second are counted by the server: images answered / (last answer - first request for tasks), so that nobody's
start-up counts and everybody's first batch does; wall time is told beside it. Memory is the peak of the cage.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.ingest.caged import Seen, cage, watched
from tidegate.core.contract import GIB, PLAN_ENV, Assignment, Plan, ProbeReport, Source, SourceKind
from tidegate.core.errors import FixConfig
from tidegate.core.sizing import Caps, Job, plan_run
from tidegate_local.jobserver.control import JobServerProcess

ROOT: Final = Path(__file__).parents[2]
WORKER_PYTHON: Final = ROOT / ".venv" / "worker" / "bin" / "python"
CATALOGUE: Final = Path(__file__).parent / "catalogue.yaml"
_PROBE_IMAGES: Final = 16
_POLL_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Client:
    """Who works a job; `seed` holds the options of the seed's loader, None means the worker."""

    name: str
    limit_bytes: int
    seed: tuple[str, ...] | None = None
    #: More options of the worker's `run`.
    run: tuple[str, ...] = ()
    most_seconds: float = 600.0


OURS: Final = Client("tidegate", 1 * GIB)
DEFAULT: Final = Client("seed default (bs24 w4 pf4 pin)", 12 * GIB, ())
WORKAROUND: Final = Client("seed work-around (bs4 w1)", 8 * GIB, ("--batch", "4", "--workers", "1"))


@dataclass
class Outcome:
    client: str
    limit_bytes: int
    kind: str
    images: int
    answered: int
    images_per_second: float | None
    seen: Seen

    @property
    def peak_gb(self) -> float:
        return self.seen.peak_bytes / 1e9

    @property
    def ended(self) -> str:
        if self.answered == self.images and self.seen.exit_code == 0:
            return "done"
        if self.seen.oom_kills:
            return f"OOM-killed after {self.seen.wall_seconds:.0f} s, {self.answered} images done"
        if self.seen.stopped:
            return f"stopped after {self.seen.wall_seconds:.0f} s, {self.answered} images done"
        return f"exit {self.seen.exit_code} after {self.seen.wall_seconds:.0f} s, {self.answered} images done"


@dataclass
class _Counted:
    """The server's own count of one job, looked at ten times a second."""

    server: JobServerProcess
    job: int
    looked_at: float = 0.0
    #: Unix seconds.
    first_lease_at: float | None = None
    last_answer_at: float = 0.0
    answered: int = 0

    def look(self) -> None:
        now = time.time()
        if now - self.looked_at < _POLL_SECONDS:
            return
        self.looked_at = now
        if self.first_lease_at is None:
            self.first_lease_at = self._first_lease()
        done = answered(self.server.job(self.job))
        if done > self.answered:
            self.answered, self.last_answer_at = done, time.time()

    def _first_lease(self) -> float | None:
        path = f"/api/v2/jobs/{self.job}/tasks/"
        asked = (seen["at"] for seen in self.server.requests("api", limit=200) if seen["path"] == path)
        return next(asked, None)

    @property
    def images_per_second(self) -> float | None:
        if self.first_lease_at is None or not self.answered:
            return None
        return self.answered / (self.last_answer_at - self.first_lease_at)


def answered(job: dict[str, Any]) -> int:
    """Images of a job that its server has processed."""
    stages = {stage["key"]: stage for stage in job["progress"]["stages"]}
    params = {param["key"]: param["value"] for param in stages["process"]["params"]}
    return int(params.get("processed") or 0)


class Arena:
    """A job server, the pipelines registered with it, and folders; every contest gets a job of its own."""

    def __init__(self, server: JobServerProcess, folder: Path, say: Callable[[str], None]) -> None:
        self._server = server
        self._folder = folder
        self._say = say
        self._number = itertools.count(1)
        self._plans: dict[tuple[str, str, int], tuple[ProbeReport, Plan]] = {}
        register = [str(WORKER_PYTHON), "-m", "tidegate_worker", "register"]
        pipelines = [word for slug in ("bench_nothing", "bench_r50") for word in ("--pipeline", slug)]
        subprocess.run(
            [*register, *pipelines], env=self._environment("register"), check=True, stdout=subprocess.DEVNULL
        )

    def contest(self, client: Client, kind: str, images: int, pipeline: str = "bench_nothing") -> Outcome:
        """Let `client` work a new job of `images` images of `kind`."""
        plan = self.planned(kind, pipeline, client.limit_bytes)[1] if client.seed is None else None
        job = self._job(kind, images, pipeline)
        name = f"run-{next(self._number)}"
        command, environment = self._command(client, job, pipeline, name, plan)
        counted = _Counted(self._server, job)
        with cage(name, client.limit_bytes) as group:
            seen = watched(group, command, environment, self._log(name), counted.look, client.most_seconds)
        self._server.wait_until_processed(job)
        counted.looked_at = 0.0
        counted.look()
        self._server.cancel(job)
        shutil.rmtree(self._folder / name, ignore_errors=True)
        outcome = Outcome(
            client.name, client.limit_bytes, kind, images, counted.answered, counted.images_per_second, seen
        )
        rate = f"{outcome.images_per_second:.2f} images/s" if outcome.images_per_second else "no rate"
        self._say(f"{kind:8} {client.name:32} {outcome.ended:40} {rate}, peak {outcome.peak_gb:.2f} GB")
        return outcome

    def planned(self, kind: str, pipeline: str, limit_bytes: int) -> tuple[ProbeReport, Plan]:
        """As Airflow does it: a probe inside the same limit, and a plan from what it saw."""
        if (kind, pipeline, limit_bytes) not in self._plans:
            job = self._job(kind, _PROBE_IMAGES, pipeline)
            name = f"probe-{next(self._number)}"
            command = [str(WORKER_PYTHON), "-m", "tidegate_worker", "probe", "--antenna-job", str(job)]
            words = self._folder / f"{name}.json"
            environment = self._environment(name) | {"TIDEGATE_TERMINATION_LOG": str(words)}
            with cage(name, limit_bytes) as group:
                seen = watched(group, command, environment, self._log(name), lambda: None, 180)
            if seen.exit_code != 0:
                raise FixConfig(f"the probe of {kind} ended with {seen.exit_code}; see {self._log(name)}")
            report = ProbeReport.from_json(words.read_text())
            caps = Caps(cap_bytes=limit_bytes)
            plan = plan_run(Job(report.run_id, pipeline, report.model_version, time.time()), caps, report)
            if not isinstance(plan, Plan):
                raise FixConfig(f"no plan for {kind} under {limit_bytes} bytes: {plan.reason}")
            self._plans[kind, pipeline, limit_bytes] = report, plan
        return self._plans[kind, pipeline, limit_bytes]

    def _job(self, kind: str, images: int, pipeline: str) -> int:
        job = self._server.create_job(kind, images, pipeline)
        self._server.wait_until_collected(job)
        return job

    def _command(
        self, client: Client, job: int, pipeline: str, name: str, plan: Plan | None
    ) -> tuple[list[str], dict[str, str]]:
        environment = self._environment(name)
        if plan is None:
            seed = ["-m", "bench.ingest.clients.seed_loader", "--api", self._server.api_url, "--job", str(job)]
            rest = ["--token-file", str(self._token_file), "--pipeline", pipeline, *(client.seed or ())]
            return [str(WORKER_PYTHON), *seed, *rest], environment
        assignment = Assignment(
            run_id=name,
            slot=0,
            generation=0,
            source=Source(kind=SourceKind.ANTENNA, uri=self._server.api_url, job=str(job)),
            pipeline=pipeline,
            model_version=plan.model_version,
            cap_bytes=plan.cap_bytes,
            upper_bytes=plan.upper_bytes,
            ingest=plan.ingest,
            grace_seconds=plan.grace_seconds,
            images_per_second=plan.images_per_second,
        )
        return (
            [str(WORKER_PYTHON), "-m", "tidegate_worker", "run", *client.run],
            environment | {PLAN_ENV: assignment.to_json()},
        )

    def _environment(self, name: str) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TIDEGATE_CATALOGUE": str(CATALOGUE),
            "TIDEGATE_STAGING_DIR": str(self._folder / name),
            "TIDEGATE_PROFILE_DIR": str(self.profiles),
            "TIDEGATE_ANTENNA_URL": self._server.api_url,
            "TIDEGATE_ANTENNA_TOKEN_FILE": str(self._token_file),
            "TIDEGATE_ALLOWED_NETWORKS": "127.0.0.0/8",
            "TIDEGATE_METRICS_PORT": "-1",
            "TIDEGATE_DEVICE": "cpu",
        }

    @property
    def profiles(self) -> Path:
        """Where recordings of a profiled run lie."""
        return self._folder / "profiles"

    @property
    def _token_file(self) -> Path:
        return Path(json.loads((self._server.workdir / "server.json").read_text())["token_file"])

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"
