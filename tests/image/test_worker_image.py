"""The worker image under the terms of the composed pod: read-only root, no rights, any uid, a real memory limit.

Against the demo job server on loopback; nothing is faked but the kubelet (`kubelet.py`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.image.engine import Engine
from tests.image.kubelet import Container, Ended

from tidegate.adapters.configuration import Configuration
from tidegate.adapters.pod_spec import Placement, worker_pod
from tidegate.core.contract import GIB, MIB, Assignment, IngestSettings, ProbeReport, Source, SourceKind, WorkerReport
from tidegate_local.jobserver.control import JobServerProcess

pytestmark = pytest.mark.image

LIMIT = 1 * GIB
INGEST = IngestSettings(
    budget_bytes=128 * MIB,
    micro_batch_images=2,
    downloads_in_flight=2,
    staged_images=8,
    staging_bytes=256 * MIB,
    decode_threads=1,
    lease_images=8,
)


class Pods:
    """Starts worker pods for jobs of the server."""

    def __init__(self, engine: Engine, image: str, jobs: JobServerProcess, folder: Path) -> None:
        self._engine, self._image, self._jobs, self._folder = engine, image, jobs, folder

    def start(
        self, command: str, job: int = 1, *, pipeline: str = "tidegate_demo", limit_bytes: int = LIMIT, **settings: Any
    ) -> Container:
        plain = {"TIDEGATE_ANTENNA_URL": self._jobs.api_url, "TIDEGATE_ALLOWED_NETWORKS": "127.0.0.0/8"}
        told = Configuration(
            **{
                "pod_env": plain | settings.pop("env", {}),
                "pod_secrets": {"TIDEGATE_ANTENNA_TOKEN": "antenna/token"},
                **settings,
            }
        )
        assignment = Assignment(
            run_id="nightly/1",
            slot=0,
            generation=1,
            source=Source(kind=SourceKind.ANTENNA, uri=self._jobs.api_url, job=str(job)),
            pipeline=pipeline,
            model_version="unknown",
            cap_bytes=limit_bytes,
            ingest=INGEST,
            grace_seconds=60.0,
        )
        pod = worker_pod(
            assignment, command=command, limit_bytes=limit_bytes, configuration=told, placement=Placement()
        )
        return Container(self._engine, self._image, pod, self._folder, {"antenna/token": self._jobs.token})

    def end(self, command: str, job: int = 1, **options: Any) -> Ended:
        with self.start(command, job, **options) as container:
            return container.ended()


@pytest.fixture
def pods(engine: Engine, worker_image: str, jobs: JobServerProcess, tmp_path: Path) -> Pods:
    return Pods(engine, worker_image, jobs, tmp_path)


@pytest.fixture(scope="module")
def registered(engine: Engine, worker_image: str, jobs: JobServerProcess) -> None:
    """The demo and its twins, known to the job server by the image's own `register`."""
    slugs = ("tidegate_demo", "tidegate_demo_slow", "tidegate_demo_leak")
    engine.run(
        *("--network", "host", "--read-only"),
        *("--env", f"TIDEGATE_ANTENNA_URL={jobs.api_url}", "--env", f"TIDEGATE_ANTENNA_TOKEN={jobs.token}"),
        *(worker_image, "register", *(word for slug in slugs for word in ("--pipeline", slug))),
    )


def until(holds: Callable[[], bool], container: Container) -> None:
    while not holds():
        assert container.is_running(), container.logs()
        time.sleep(0.1)


def answered(jobs: JobServerProcess, job: int) -> int:
    return sum(image.answers > 0 for image in jobs.truth(job).images)


def test_doctor_finds_nothing_wrong_in_the_pod(pods: Pods) -> None:
    ended = pods.end("doctor")
    assert ended.exit_code == 0, ended.logs
    assert "fail" not in {line.split()[0] for line in ended.logs.splitlines() if line.strip()}
    assert "memory: limit 1.0 GiB" in ended.logs


def test_doctor_is_content_whatever_uid_the_pod_has(pods: Pods) -> None:
    ended = pods.end("doctor", uid=1_000_680_000)
    assert ended.exit_code == 0, ended.logs


def test_doctor_says_where_a_pod_may_not_write(engine: Engine, worker_image: str) -> None:
    ran = engine.run(*engine.read_only, worker_image, "doctor", check=False)
    assert ran.returncode == 78
    assert "/staging/images" in ran.stdout
    assert "not writable" in ran.stdout


@pytest.mark.usefixtures("registered")
def test_probe_measures_and_answers_what_it_leased(pods: Pods, jobs: JobServerProcess) -> None:
    job = jobs.create_job("tiny", 40, "tidegate_demo")
    jobs.wait_until_collected(job)
    ended = pods.end("probe", job)
    assert ended.exit_code == 0, ended.logs
    report = ProbeReport.from_json(ended.last_words)
    assert report.images_measured > 0
    truth = jobs.wait_until_processed(job)
    delivered = [image for image in truth.images if image.deliveries]
    assert len(delivered) >= report.images_measured
    assert all(image.answers == 1 for image in delivered)


@pytest.mark.usefixtures("registered")
def test_run_answers_every_image_of_the_job(pods: Pods, jobs: JobServerProcess) -> None:
    job = jobs.create_job("typical", 40, "tidegate_demo")
    jobs.wait_until_collected(job)
    ended = pods.end("run", job)
    assert ended.exit_code == 0, ended.logs
    report = WorkerReport.from_json(ended.last_words)
    assert (report.phase, report.acked, report.failed) == ("finished", 40, 0)
    assert report.limit_bytes == LIMIT
    assert jobs.wait_until_processed(job).broken_promises() == []


@pytest.mark.usefixtures("registered")
def test_run_works_on_volumes_of_claims_and_under_any_uid(pods: Pods, jobs: JobServerProcess) -> None:
    job = jobs.create_job("tiny", 20, "tidegate_demo")
    jobs.wait_until_collected(job)
    ended = pods.end(
        "run", job, uid=1_000_680_000, staging_claim="fast", weights_claim="weights", results_claim="results"
    )
    assert ended.exit_code == 0, ended.logs
    assert jobs.wait_until_processed(job).broken_promises() == []


@pytest.mark.usefixtures("registered")
def test_sigterm_reaches_process_1_which_answers_what_it_leased_and_exits_75(
    pods: Pods, jobs: JobServerProcess
) -> None:
    job = jobs.create_job("tiny", 60, "tidegate_demo_slow")
    jobs.wait_until_collected(job)
    slow = {"TIDEGATE_DEMO_INFER_SECONDS_PER_IMAGE": "0.5"}
    with pods.start("run", job, pipeline="tidegate_demo_slow", env=slow) as container:
        until(lambda: answered(jobs, job) > 0, container)
        container.signal("TERM")
        # A pod that is deleted while it drains gets another.
        container.signal("TERM")
        ended = container.ended()
    assert ended.exit_code == 75, ended.logs
    truth = jobs.wait_until_processed(job)
    delivered = [image for image in truth.images if image.deliveries]
    assert 0 < len(delivered) < 60, "it went on leasing"
    assert all(image.answers == 1 for image in delivered)
    assert WorkerReport.from_json(ended.last_words).in_flight == ()


@pytest.mark.usefixtures("registered")
def test_a_leak_that_outruns_the_gate_ends_in_137_and_leaves_its_last_words(pods: Pods, jobs: JobServerProcess) -> None:
    job = jobs.create_job("tiny", 40, "tidegate_demo_leak")
    jobs.wait_until_collected(job)
    leak = {"TIDEGATE_DEMO_LEAK_BYTES_PER_IMAGE": "400MiB"}
    ended = pods.end("run", job, pipeline="tidegate_demo_leak", limit_bytes=700 * MIB, env=leak)
    assert ended.exit_code == 137, ended.logs
    report = WorkerReport.from_json(ended.last_words)
    assert report.phase == "running"
    assert report.in_flight, "suspects are read from the last words of a killed pod"


@pytest.mark.usefixtures("registered")
def test_too_many_failures_end_in_65(pods: Pods, jobs: JobServerProcess) -> None:
    faults = [{"kind": "image_corrupt"}]
    # A small job is answered, with errors, before the budget of failures is looked at, and ends in 0.
    job = jobs.create_job("tiny", 300, "tidegate_demo", faults=faults)
    jobs.wait_until_collected(job)
    ended = pods.end("run", job, env={"TIDEGATE_FAILURE_MINIMUM": "5"})
    assert ended.exit_code == 65, ended.logs


def test_an_upstream_that_stays_away_ends_in_69(pods: Pods) -> None:
    away = {"TIDEGATE_ANTENNA_URL": "http://127.0.0.1:9/api/v2", "TIDEGATE_UPSTREAM_SILENCE_SECONDS": "2"}
    assert pods.end("register", env=away).exit_code == 69


def test_a_wrong_setting_ends_in_78_and_says_so_in_its_last_words(pods: Pods) -> None:
    ended = pods.end("run", env={"TIDEGATE_DEVICE": "abacus"})
    assert ended.exit_code == 78
    assert "TIDEGATE_DEVICE" in WorkerReport.from_json(ended.last_words).reason


@pytest.mark.parametrize(("poison", "codes"), [("segfault", {139}), ("abort", {134, 139})])
@pytest.mark.usefixtures("registered")
def test_a_crash_of_process_1_is_told_from_other_ends(
    pods: Pods, jobs: JobServerProcess, poison: str, codes: set[int]
) -> None:
    job = jobs.create_job("tiny", 10, "tidegate_demo")
    jobs.wait_until_collected(job)
    victims = ",".join(image.image_id for image in jobs.truth(job).images)
    ended = pods.end("run", job, env={"TIDEGATE_DEMO_CRASH_ON": victims, "TIDEGATE_DEMO_POISON": poison})
    assert ended.exit_code in codes, ended.logs


def test_the_image_says_what_it_is_and_runs_as_a_number(engine: Engine, worker_image: str) -> None:
    config = engine.inspect(worker_image)["Config"]
    assert config["User"] == "65532:65532", "runAsNonRoot is checked by the number"
    assert config["Entrypoint"] == ["tidegate-worker"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == "tidegate-worker"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.version"] in engine.run(worker_image, "--version").stdout


def test_the_image_holds_the_core_and_the_catalogue_and_nothing_of_the_builder(
    engine: Engine, worker_image: str
) -> None:
    look = """
import importlib.util, json, os, pathlib, shutil, tidegate, tidegate_worker
home = pathlib.Path(tidegate.__file__).parent
print(json.dumps({
    "tidegate": sorted(path.name for path in home.iterdir() if path.name != "__pycache__"),
    "pipelines": sorted(path.name for path in (pathlib.Path(tidegate_worker.__file__).parent / "pipelines").iterdir()),
    "programs": [name for name in ("pip", "tidegate", "gcc", "uv") if shutil.which(name)],
    "modules": [name for name in ("pip", "hatchling", "airflow") if importlib.util.find_spec(name)],
    "configured": [name for name in ("/etc/pip.conf", "/root/.config", "/run/secrets/ca-certificates")
                   if os.path.exists(name)],
    "compiled": pathlib.Path(tidegate_worker.__file__).with_name("__pycache__").is_dir(),
}))
"""
    ran = engine.run("--user", "0", "--entrypoint", "python", worker_image, "-c", look)
    found = json.loads(ran.stdout)
    assert found == {
        "tidegate": ["__init__.py", "core"],
        "pipelines": ["ami.yaml", "demo.yaml"],
        "programs": [],
        "modules": [],
        "configured": [],
        "compiled": True,
    }
    # A number that changes with the lock: shown, not judged.
    print(f"{worker_image}: {engine.inspect(worker_image)['Size'] / GIB:.2f} GiB")
