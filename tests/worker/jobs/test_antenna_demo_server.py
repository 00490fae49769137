"""An Antenna job against the demo server, which keeps Antenna's real semantics: leases, saves, hangs and faults."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.worker.jobs.answers import CLASSIFIER, DETECTOR, PIPELINE, answered, failed
from tests.worker.jobs.demo_server import DemoServer, wait_until

from tidegate.core.errors import FixConfig, RetryLater
from tidegate_worker.jobs.antenna.api import AntennaAccess, AntennaApi
from tidegate_worker.jobs.antenna.job import AntennaJob, AntennaLimits
from tidegate_worker.jobs.antenna.pipeline import AntennaAlgorithm, AntennaPipeline
from tidegate_worker.jobs.antenna.poster import PostLimits
from tidegate_worker.jobs.antenna.registry import open_jobs, register
from tidegate_worker.ports import Answer, Job, JobState, Task

QUICK = PostLimits(linger_seconds=0.05, pause_seconds=0.05, pause_most_seconds=0.2, answer_seconds=5.0)
LIMITS = AntennaLimits(patience_seconds=2.0, hang_seconds=0.5, post=QUICK)


def api(demo: DemoServer, token: str | None = None) -> AntennaApi:
    return AntennaApi(AntennaAccess(base_url=demo.api_url, token=token or demo.token))


@pytest.fixture
def registered(demo: DemoServer) -> DemoServer:
    register(api(demo), "tidegate test", [PIPELINE])
    return demo


def opened(demo: DemoServer, job: str, state: Path, limits: AntennaLimits = LIMITS) -> AntennaJob:
    return AntennaJob(AntennaAccess(base_url=demo.api_url, token=demo.token), job, PIPELINE, state, limits=limits)


def serve(job: Job, seconds: float = 30.0, dropped: set[str] | None = None) -> list[str]:
    """Answer every task until the job is complete, as a pipeline would; the images that were computed."""
    job.prove()
    computed: list[str] = []
    give_up_at = time.monotonic() + seconds
    while job.progress().state is not JobState.COMPLETE:
        assert time.monotonic() < give_up_at, "the job does not end"
        try:
            tasks = job.lease(7)
        except RetryLater:
            continue
        done = [task for task in tasks if task.image_id not in (dropped or ())]
        computed += [task.image_id for task in done]
        job.answer([_outcome(task) for task in done], lambda _: None)
        time.sleep(0.05)
    assert job.flush(5)
    return computed


def _outcome(task: Task) -> Answer:
    return failed(task) if int(task.image_id) % 5 == 0 else answered(task)


def test_a_job_is_served_to_its_end_and_every_image_saved_once(registered: DemoServer, tmp_path: Path) -> None:
    number = registered.create_job(20, "moths")
    job = opened(registered, number, tmp_path)
    computed = serve(job)
    assert len(computed) == len(set(computed)) == 20
    truth = registered.truth(number)
    assert truth["status"] == "SUCCESS"
    assert truth["totals"]["answered_once"] == 20
    assert truth["totals"]["saved"] == 16
    assert truth["totals"]["failed"] == 4
    assert truth["totals"]["lost"] == 0
    progress = job.progress()
    assert (progress.done, progress.total) == (20, 20)
    job.close()


@pytest.mark.parametrize("fault", ["lost_response", "unavailable", "server_error"])
def test_trouble_with_posts_loses_nothing_and_computes_nothing_twice(
    registered: DemoServer, tmp_path: Path, fault: str
) -> None:
    number = registered.create_job(20, "moths", faults=[{"kind": fault, "endpoint": "result", "times": 3}])
    job = opened(registered, number, tmp_path)
    computed = serve(job)
    assert len(computed) == len(set(computed)) == 20
    totals = registered.truth(number)["totals"]
    assert (totals["saved"], totals["failed"], totals["lost"]) == (16, 4, 0)
    job.close()


def test_a_save_that_fails_is_answered_from_the_log(registered: DemoServer, tmp_path: Path) -> None:
    number = registered.create_job(
        6, "moths", lease_seconds=1.0, faults=[{"kind": "save_failure", "positions": [1, 3], "times": 1}]
    )
    job = opened(registered, number, tmp_path, replace(LIMITS, lease_seconds=1.0))
    computed = serve(job)
    assert len(computed) == len(set(computed)) == 6
    truth = registered.truth(number)
    assert truth["status"] == "SUCCESS"
    assert truth["totals"]["redelivered"] >= 1
    assert truth["totals"]["lost"] == 0
    job.close()


def test_a_job_that_its_server_leaves_hanging_is_finished(registered: DemoServer, tmp_path: Path) -> None:
    number = registered.create_job(8, "moths", faults=[{"kind": "hang", "times": 1}])
    job = opened(registered, number, tmp_path)
    serve(job)
    truth = registered.truth(number)
    assert truth["status"] == "SUCCESS"
    assert truth["totals"]["answered_more_than_once"] == 1
    job.close()


def test_a_server_that_hangs_over_a_lease_does_not_hold_us(registered: DemoServer, tmp_path: Path) -> None:
    number = registered.create_job(
        5, "moths", faults=[{"kind": "timeout", "endpoint": "tasks", "times": 1, "options": {"delay_seconds": 3.0}}]
    )
    job = opened(registered, number, tmp_path, replace(LIMITS, patience_seconds=0.3))
    began = time.monotonic()
    with pytest.raises(RetryLater):
        job.prove()
    assert time.monotonic() - began < 2
    wait_until(lambda: _proves(job))
    assert len(set(serve(job))) == 5
    job.close()


def _proves(job: AntennaJob) -> bool:
    try:
        job.prove()
    except RetryLater:
        return False
    return True


def test_a_cancelled_and_retried_job_is_served_anew(registered: DemoServer, tmp_path: Path) -> None:
    number = registered.create_job(10, "moths", shuffle=False)
    job = opened(registered, number, tmp_path)
    job.prove()
    registered.wait_for(number, "STARTED")
    held: list[Task] = []
    wait_until(lambda: bool(held.extend(job.lease(4)) or held))
    registered.call("POST", f"/api/v2/jobs/{number}/cancel/")
    registered.wait_for(number, "REVOKED")
    assert job.progress().state is JobState.INACTIVE
    registered.call("POST", f"/api/v2/jobs/{number}/retry/")
    registered.wait_for(number, "STARTED")
    job.answer([answered(task) for task in held if int(task.image_id) % 5], lambda _: None)
    serve(job)
    totals = registered.truth(number)["totals"]
    assert totals["saved"] + totals["failed"] == 10
    assert totals["lost"] == 0
    job.close()


def test_a_bad_token_is_told_before_work(registered: DemoServer, tmp_path: Path) -> None:
    number = registered.create_job(3, "moths")
    user = registered.call("POST", "/demo/users/", {"email": "plain@example.org", "password": "p"})
    for token in ("0" * 40, user["token"]):
        access = AntennaAccess(base_url=registered.api_url, token=token)
        job = AntennaJob(access, number, PIPELINE, tmp_path / token[:4], limits=LIMITS)
        registered.wait_for(number, "STARTED")
        with pytest.raises(FixConfig, match="token"):
            job.prove()
        job.close()


def test_registering_is_idempotent(registered: DemoServer) -> None:
    assert register(api(registered), "tidegate test", [PIPELINE]) == register(
        api(registered), "tidegate test", [PIPELINE]
    )
    listed = registered.call("GET", "/api/v2/projects/1/pipelines/")["results"]
    assert [item["slug"] for item in listed].count("moths") == 1


def test_a_slug_that_the_server_dropped_in_silence_is_told(registered: DemoServer) -> None:
    twin = AntennaPipeline(slug="moths-again", name="Moths", algorithms=(DETECTOR, CLASSIFIER))
    with pytest.raises(FixConfig, match="moths-again"):
        register(api(registered), "tidegate test", [twin])


@pytest.mark.parametrize(
    ("classifier", "told"),
    [
        (replace(CLASSIFIER, version=2), "in version 1: give version 2 another name"),
        (replace(CLASSIFIER, key="another_key"), f"under the key {CLASSIFIER.key!r}: choose another name"),
        (replace(CLASSIFIER, labels=(*CLASSIFIER.labels, "one more")), "keeps the first map"),
    ],
)
def test_what_antenna_will_not_have_of_an_algorithm_is_told_with_the_way_out(
    registered: DemoServer, classifier: AntennaAlgorithm, told: str
) -> None:
    """The first two are a page of HTML with 500 to the server, the third a 201."""
    changed = AntennaPipeline(slug="moths", name="Moths", algorithms=(DETECTOR, classifier))
    with pytest.raises(FixConfig, match=told):
        register(api(registered), "tidegate test", [changed])


def test_a_server_that_is_not_well_is_no_conflict(registered: DemoServer) -> None:
    registered.fault("server_error", endpoint="register", times=1)
    with pytest.raises(RetryLater, match="500"):
        register(api(registered), "tidegate test", [PIPELINE])
    assert register(api(registered), "tidegate test", [PIPELINE])


def test_open_jobs_are_found_and_finished_ones_are_not(registered: DemoServer, tmp_path: Path) -> None:
    numbers = {registered.create_job(2, "moths") for _ in range(4)}
    for number in numbers:
        registered.wait_for(number, "STARTED")
    found = open_jobs(api(registered), ["moths", "other"])
    assert numbers <= {job.job_id for job in found}
    assert {job.pipeline for job in found} == {"moths"}
    finished = numbers.pop()
    job = opened(registered, finished, tmp_path)
    serve(job)
    job.close()
    assert finished not in {job.job_id for job in open_jobs(api(registered), ["moths"])}
    assert open_jobs(api(registered), ["other"]) == []
