"""Whole runs of the command line against the demo job server: real HTTP, real images, the real engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.worker.cli.shell import worker
from tests.worker.cli.test_main import assignment
from tests.worker.jobs.demo_server import DemoServer, demo_server

from tidegate.core.contract import Plan, ProbeReport, Source, SourceKind, WorkerReport


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoServer]:
    folder = tmp_path_factory.mktemp("jobserver")
    with demo_server(folder, save_delay_seconds=0.0, empty_poll_seconds=0.05) as running:
        ran = worker("register", "--pipeline", "tidegate_demo", folder=folder, environment=reach(running))
        assert ran.returncode == 0, ran.stderr
        yield running


def reach(demo: DemoServer, **more: str) -> dict[str, str]:
    """As an existing worker's .env says it, with the one thing that is new: where images may come from."""
    return {
        "AMI_ANTENNA_API_BASE_URL": demo.api_url,
        "AMI_ANTENNA_API_AUTH_TOKEN": demo.token,
        "AMI_ANTENNA_IDLE_SLEEP_SECONDS": "0.2",
        "TIDEGATE_ALLOWED_NETWORKS": "127.0.0.0/8",
        "TIDEGATE_PIPELINES": "tidegate_demo",
        **more,
    }


def test_a_job_named_by_a_person_is_tuned_and_done(demo: DemoServer, tmp_path: Path) -> None:
    job = demo.create_job(24, "tidegate_demo", kind="tiny")
    ran = worker("run", "--antenna-job", job, folder=tmp_path, environment=reach(demo))
    assert ran.returncode == 0, ran.stderr
    assert demo.status(job) == "SUCCESS"
    assert "a budget of" in ran.stderr


def test_an_assignment_is_worked_and_its_last_words_are_written(demo: DemoServer, tmp_path: Path) -> None:
    job = demo.create_job(12, "tidegate_demo", kind="tiny")
    given = assignment().model_copy(
        update={"source": Source(kind=SourceKind.ANTENNA, uri=demo.api_url, job=job), "slot": 0}
    )
    last_words = tmp_path / "termination-log"
    environment = reach(demo, TIDEGATE_PLAN=given.to_json(), TIDEGATE_TERMINATION_LOG=str(last_words))
    ran = worker("run", folder=tmp_path, environment=environment)
    assert ran.returncode == 0, ran.stderr
    report = WorkerReport.from_json(last_words.read_text())
    assert (report.acked, report.job_complete, report.generation) == (12, True, 3)


def test_a_probe_reports_in_its_last_words_and_on_stdout_and_answers_what_it_leased(
    demo: DemoServer, tmp_path: Path
) -> None:
    job = demo.create_job(30, "tidegate_demo", kind="tiny")
    last_words = tmp_path / "termination-log"
    ran = worker(
        "probe", "--antenna-job", job, "--images", "6",
        folder=tmp_path, environment=reach(demo, TIDEGATE_TERMINATION_LOG=str(last_words)),
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    report = ProbeReport.from_json(ran.stdout)
    assert ProbeReport.from_json(last_words.read_text()) == report
    assert (report.images_measured, report.acked, report.images_total) == (6, 6, 30)
    assert report.pipeline == "tidegate_demo"
    assert report.floor_bytes > 0


def test_tune_measures_a_job_and_plans_within_the_cap(demo: DemoServer, tmp_path: Path) -> None:
    job = demo.create_job(20, "tidegate_demo", kind="tiny")
    ran = worker(
        "tune", "--antenna-job", job, "--images", "6", "--json",
        folder=tmp_path, environment=reach(demo, TIDEGATE_CAP_BYTES="4GiB"),
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    plan = Plan.from_json(ran.stdout)
    assert plan.evidence == "probe"
    assert plan.limit_bytes <= plan.cap_bytes == 4 * 1024**3


def test_without_a_job_every_open_one_is_served_with_an_existing_env(demo: DemoServer, tmp_path: Path) -> None:
    jobs = [demo.create_job(8, "tidegate_demo", kind="tiny") for _ in range(2)]
    ran = worker("run", "--once", folder=tmp_path, environment=reach(demo))
    assert ran.returncode == 0, ran.stderr
    assert [demo.status(job) for job in jobs] == ["SUCCESS", "SUCCESS"]


def test_a_bad_token_is_told_as_such(demo: DemoServer, tmp_path: Path) -> None:
    job = demo.create_job(2, "tidegate_demo", kind="tiny")
    ran = worker(
        "run", "--antenna-job", job, "--pipeline", "tidegate_demo",
        folder=tmp_path, environment=reach(demo, AMI_ANTENNA_API_AUTH_TOKEN="0" * 40),
    )  # fmt: skip
    assert ran.returncode == 78
    assert "token" in ran.stderr
    assert "0" * 40 not in ran.stderr


def test_a_manifest_is_worked_from_a_file_into_a_folder(tmp_path: Path) -> None:
    from PIL import Image

    images = tmp_path / "images"
    images.mkdir()
    for number in range(5):
        Image.new("RGB", (160, 120), (200, 200, 200)).save(images / f"{number}.jpg")
    rows = [json.dumps({"image_id": str(n), "uri": f"file://{images}/{n}.jpg"}) for n in range(5)]
    (tmp_path / "night.jsonl").write_text("\n".join(rows) + "\n")
    ran = worker(
        "run", "--manifest", "night.jsonl", "--output", "out", "--pipeline", "tidegate_demo",
        folder=tmp_path, environment={"TIDEGATE_IMAGE_ROOTS": str(tmp_path)},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    parts = sorted((tmp_path / "out").rglob("part-*.jsonl"))
    answered = [json.loads(line) for part in parts for line in part.read_text().splitlines()]
    assert len(answered) == 5


def test_a_profile_draws_a_flame_graph(demo: DemoServer, tmp_path: Path) -> None:
    pytest.importorskip("memray")
    job = demo.create_job(4, "tidegate_demo", kind="tiny")
    ran = worker(
        "run", "--antenna-job", job, "--no-probe", "--profile", "memray",
        folder=tmp_path, environment=reach(demo, TIDEGATE_PROFILE_DIR=str(tmp_path / "profile")),
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert list((tmp_path / "profile").glob("memray-*.html"))
