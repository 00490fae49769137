"""An Antenna job against a scripted server: leases, posts, refusals, redelivery, and kills between any two of them."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.worker.jobs.answers import CLASSIFIER, DETECTOR, PIPELINE, answered, detection, failed, large_pipeline
from tests.worker.jobs.antenna_host import JSON, AntennaHost, accept_all, named
from tests.worker.jobs.demo_server import wait_until
from tests.worker.jobs.http_host import Host, Request, response

from tidegate.core.errors import FixConfig, RetryLater
from tidegate_worker.jobs.antenna.api import AntennaAccess
from tidegate_worker.jobs.antenna.job import AntennaJob, AntennaLimits
from tidegate_worker.jobs.antenna.poster import PostLimits
from tidegate_worker.ports import Answer, Classification, Detection, Job, JobState, Prediction, Task

QUICK = PostLimits(linger_seconds=0.02, pause_seconds=0.02, pause_most_seconds=0.1, answer_seconds=2.0)
LIMITS = AntennaLimits(patience_seconds=1.0, hang_seconds=0.2, post=QUICK)


@pytest.fixture
def antenna(host: Host) -> AntennaHost:
    return AntennaHost(host)


@pytest.fixture
def job(antenna: AntennaHost, tmp_path: Path) -> Iterator[AntennaJob]:
    opened = opened_job(antenna, tmp_path)
    yield opened
    opened.close()


def opened_job(antenna: AntennaHost, state: Path, limits: AntennaLimits = LIMITS, **options: Any) -> AntennaJob:
    access = AntennaAccess(base_url=antenna.api_url, token="t" * 40)
    return AntennaJob(access, "1", options.pop("pipeline", PIPELINE), state, limits=limits, **options)


def lease(job: Job, count: int) -> list[Task]:
    tasks: list[Task] = []
    wait_until(lambda: tasks.extend(job.lease(count - len(tasks))) or len(tasks) >= count)  # type: ignore[func-returns-value]
    return tasks


def answer(job: Job, *answers: Answer) -> list[str]:
    acked: list[str] = []
    job.answer(answers, lambda each: acked.append(each.task.image_id))
    assert job.flush(10)
    return acked


def test_a_job_is_leased_answered_and_acked(job: AntennaJob, antenna: AntennaHost) -> None:
    for number in (1, 2, 3):
        antenna.task(number, sequence=number)
    tasks = lease(job, 3)
    assert [task.image_id for task in tasks] == ["1", "2", "3"]
    assert all(not task.last_delivery and task.delivery == 1 for task in tasks)
    assert all(299 < task.expires_at - task.leased_at <= 300 for task in tasks)
    assert sorted(answer(job, answered(tasks[0]), failed(tasks[1]), Answer(tasks[2], Prediction(())))) == [
        "1",
        "2",
        "3",
    ]
    assert antenna.errors() == {"2": "not an image"}
    assert antenna.subjects("1") == [tasks[0].reply_subject]
    assert job.outstanding() == 0


def test_who_asks_is_told_as_an_object(job: AntennaJob, antenna: AntennaHost) -> None:
    antenna.task(1)
    answer(job, answered(lease(job, 1)[0]))
    for request in antenna.host.requests:
        assert request.headers["authorization"] == "Token " + "t" * 40
        if request.method == "POST":
            assert isinstance(json.loads(request.body)["client_info"], dict)
            assert int(request.headers["content-length"]) == len(request.body)


def test_proof_hands_the_task_that_it_reserved_to_the_first_lease(job: AntennaJob, antenna: AntennaHost) -> None:
    antenna.task(1)
    antenna.task(2, sequence=2)
    job.prove()
    assert len(antenna.tasks) == 1
    assert [task.image_id for task in job.lease(5)] == ["1"]
    assert [task.image_id for task in job.lease(5)] == ["2"]


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        ("401 No", {"detail": "Invalid token."}, "superuser"),
        ("403 No", {"detail": "You do not have permission to perform this action."}, "superuser"),
        ("404 No", {"detail": "Not found."}, "does not exist"),
        ("400 Bad", ["Only async_api jobs have fetchable tasks"], "async_api"),
        ("400 Bad", ["This job does not have a pipeline configured"], "pipeline"),
    ],
)
def test_what_a_person_must_mend_is_told_before_work(
    job: AntennaJob, antenna: AntennaHost, status: str, body: Any, says: str
) -> None:
    antenna.host.serve("/api/v2/jobs/1/tasks/", json.dumps(body).encode(), status, JSON)
    with pytest.raises(FixConfig, match=says):
        job.prove()


def test_another_pipeline_s_job_is_refused(antenna: AntennaHost, tmp_path: Path) -> None:
    other = large_pipeline(2)
    job = opened_job(antenna, tmp_path, pipeline=type(other)(slug="other", name="o", algorithms=other.algorithms))
    with pytest.raises(FixConfig, match="asks for pipeline 'moths'"):
        job.prove()
    job.close()


@pytest.mark.parametrize(
    ("status", "body"),
    [("503 Busy", b'{"error":"Task queue temporarily unavailable"}'), ("500 Oops", b"<html>"), ("403 WAF", b"<html>"),
     ("404 default backend", b"default backend - 404"), ("200 OK", b"<html>log in</html>")],
)  # fmt: skip
def test_a_server_or_proxy_in_trouble_is_no_verdict(
    job: AntennaJob, antenna: AntennaHost, status: str, body: bytes
) -> None:
    antenna.host.serve("/api/v2/jobs/1/tasks/", body, status)
    with pytest.raises(RetryLater):
        job.lease(1)


def test_a_redirect_never_carries_the_token_elsewhere(job: AntennaJob, antenna: AntennaHost) -> None:
    antenna.host.serve("/api/v2/jobs/1/", b"", "301 Moved", "Location: http://127.0.0.1:1/other?x=1\r\n")
    with pytest.raises(FixConfig, match="base URL"):
        job.progress()


def test_a_slow_server_does_not_hold_the_pipeline_and_its_late_tasks_are_not_lost(
    antenna: AntennaHost, tmp_path: Path
) -> None:
    hold = threading.Event()
    antenna.before_tasks = lambda: hold.wait(10) and None
    antenna.task(1)
    job = opened_job(antenna, tmp_path, AntennaLimits(patience_seconds=0.1, post=QUICK))
    began = time.monotonic()
    for _ in range(3):
        with pytest.raises(RetryLater, match="has not answered"):
            job.lease(4)
    assert time.monotonic() - began < 2
    hold.set()
    assert [task.image_id for task in lease(job, 1)] == ["1"]
    assert antenna.host.count("/api/v2/jobs/1/tasks/") == 1
    job.close()


def test_odd_tasks_are_tolerated(job: AntennaJob, antenna: AntennaHost) -> None:
    antenna.tasks = [
        {"id": None, "image_id": None, "image_url": "http://h/", "reply_subject": "x"},
        {"id": 7, "image_id": None, "image_url": None, "reply_subject": None},
        {
            "id": "../../etc/passwd",
            "image_id": "../../etc/passwd",
            "image_url": "http://h/",
            "reply_subject": "garbage",
        },
        {"id": "a\ud800", "image_id": "a\ud800", "image_url": "http://h/", "reply_subject": "$JS.ACK.a.b.x.y.z"},
        {"id": "x" * 5000, "image_id": "x" * 5000},
        "no object",
        {"id": 9, "image_id": 8, "image_url": "http://h/", "reply_subject": "s"},
        {"id": 8, "image_id": "8", "image_url": "http://h/", "reply_subject": "again"},
    ]
    tasks = lease(job, 4)
    assert [task.image_id for task in tasks] == ["7", "../../etc/passwd", "a\ud800", "8"]
    assert tasks[0].url == ""
    assert len(answer(job, *(answered(task) for task in tasks))) == 4
    assert antenna.subjects("7") == [""]
    assert list(job.lease(4)) == []
    assert job.flush(5)
    assert antenna.subjects("8") == ["s", "again"]
    assert antenna.subjects("a\ud800") == ["$JS.ACK.a.b.x.y.z"]


@pytest.mark.parametrize(
    ("subject", "delivery"),
    [
        ("$JS.ACK.job_1.c.2.17.17.1776397669000000000.527", 2),
        ("$JS.ACK.hub.ACCHASH.job_1.c.2.17.17.1776397669000000000.527", 2),
        ("$JS.ACK.hub.ACCHASH.job_1.c.3.17.17.1776397669000000000.527.random", 3),
        ("$JS.ACK.job_1.c.1.17.17.1776397669000000000.527", 1),
        ("", 1),
    ],
)
def test_the_delivery_is_read_from_the_reply_subject(
    job: AntennaJob, antenna: AntennaHost, subject: str, delivery: int
) -> None:
    antenna.tasks = [{"id": "1", "image_id": "1", "image_url": "http://h/", "reply_subject": subject}]
    task = lease(job, 1)[0]
    assert task.delivery == delivery
    assert task.last_delivery == (delivery >= 2)


@pytest.mark.parametrize("trouble", ["503 Busy", "500 Oops", "reset", "429 Slow"])
def test_a_post_in_doubt_is_repeated_byte_by_byte(job: AntennaJob, antenna: AntennaHost, trouble: str) -> None:
    left = [trouble] * 3
    antenna.judge = lambda results, request: (left.pop(), {}) if left else accept_all(results, request)
    antenna.task(1)
    assert answer(job, answered(lease(job, 1)[0])) == ["1"]
    assert len(antenna.posts) == 4
    assert len(set(antenna.posts)) == 1


def test_a_lost_response_is_posted_again(job: AntennaJob, antenna: AntennaHost) -> None:
    def lose_first(results: list[dict[str, Any]], request: Request) -> tuple[str, Any]:
        if len(antenna.posts) == 1:
            antenna.accepted += [(item["reply_subject"], item["result"]) for item in results]
            return "reset", None
        return accept_all(results, request)

    antenna.judge = lose_first
    antenna.task(1)
    assert answer(job, answered(lease(job, 1)[0])) == ["1"]
    assert len(antenna.accepted) == 2
    assert antenna.accepted[0] == antenna.accepted[1]


@pytest.mark.parametrize("lie", [{"status": "ok"}, [], {"results_queued": 0}])
def test_a_200_that_does_not_name_the_results_is_no_acceptance(job: AntennaJob, antenna: AntennaHost, lie: Any) -> None:
    left = [lie]
    antenna.judge = lambda results, request: ("200 OK", left.pop()) if left else accept_all(results, request)
    antenna.task(1)
    assert answer(job, answered(lease(job, 1)[0])) == ["1"]
    assert len(antenna.posts) == 2


def refuse(*bad: str, status: str = "400 Bad") -> Any:
    def judge(results: list[dict[str, Any]], request: Request) -> tuple[str, Any]:
        if any("error" not in item["result"] and named(item["result"]) in bad for item in results):
            return status, {"results": [{"loc": ["__root__"], "msg": "none is not an allowed value"}]}
        return accept_all(results, request)

    return judge


@pytest.mark.parametrize("status", ["400 Bad", "413 Too large"])
def test_one_bad_result_is_found_and_drags_no_other_along(job: AntennaJob, antenna: AntennaHost, status: str) -> None:
    antenna.judge = refuse("7", "11", status=status)
    for number in range(20):
        antenna.task(number, sequence=number + 1)
    tasks = lease(job, 20)
    assert len(answer(job, *map(answered, tasks))) == 20
    assert set(antenna.errors()) == {"7", "11"}
    assert {named(result) for _, result in antenna.accepted} == {task.image_id for task in tasks}


def test_a_server_that_refuses_everything_makes_no_image_an_error(job: AntennaJob, antenna: AntennaHost) -> None:
    antenna.judge = refuse(*map(str, range(20)))
    for number in range(20):
        antenna.task(number, sequence=number + 1)
    tasks = lease(job, 20)
    job.answer(list(map(answered, tasks)), lambda _: None)
    assert not job.flush(5)
    assert antenna.accepted == []
    assert job.outstanding() == 20
    with pytest.raises(FixConfig, match="refuses"):
        job.lease(1)


def test_a_token_that_is_withdrawn_stops_the_job_and_keeps_the_answers(antenna: AntennaHost, tmp_path: Path) -> None:
    antenna.judge = lambda results, request: ("401 No", {"detail": "Invalid token."})
    antenna.task(1)
    job = opened_job(antenna, tmp_path)
    job.answer([answered(lease(job, 1)[0])], lambda _: None)
    assert not job.flush(5)
    with pytest.raises(FixConfig, match="token"):
        job.progress()
    job.close()
    antenna.judge = accept_all
    job = opened_job(antenna, tmp_path)
    assert job.flush(5)
    assert len(antenna.subjects("1")) == 1
    job.close()


def test_posts_are_split_by_bytes_and_by_number(antenna: AntennaHost, tmp_path: Path) -> None:
    limits = AntennaLimits(post=PostLimits(linger_seconds=0.5, request_bytes=3000, request_results=5))
    job = opened_job(antenna, tmp_path, limits)
    for number in range(30):
        antenna.task(number, sequence=number + 1)
    tasks = lease(job, 30)
    answer(job, *(answered(task, *([detection()] * 20)) for task in tasks[:5]))
    answer(job, *(failed(task) for task in tasks[5:]))
    sizes = [len(json.loads(post)["results"]) for post in antenna.posts]
    assert sizes[:5] == [1] * 5
    assert max(sizes) == 5
    assert sum(sizes) == 30
    job.close()


def test_an_answer_never_waits_long_for_company(antenna: AntennaHost, tmp_path: Path) -> None:
    job = opened_job(antenna, tmp_path, AntennaLimits())
    antenna.task(1)
    job.answer([answered(lease(job, 1)[0])], lambda _: None)
    wait_until(lambda: bool(antenna.accepted), seconds=3)
    job.close()


def test_answering_blocks_while_the_outbox_is_full_and_goes_on_when_it_drains(
    antenna: AntennaHost, tmp_path: Path
) -> None:
    hold = threading.Event()

    def slow(results: list[dict[str, Any]], request: Request) -> tuple[str, Any]:
        hold.wait(10)
        return accept_all(results, request)

    antenna.judge = slow
    post = PostLimits(threads=1, linger_seconds=0.0, waiting_results=3, answer_seconds=20)
    job = opened_job(antenna, tmp_path, AntennaLimits(post=post))
    for number in range(8):
        antenna.task(number, sequence=number + 1)
    tasks = lease(job, 8)
    acked: list[str] = []
    done = threading.Event()

    def answer_all() -> None:
        for task in tasks:
            job.answer([answered(task)], lambda each: acked.append(each.task.image_id))
        done.set()

    threading.Thread(target=answer_all, daemon=True).start()
    assert not done.wait(0.5)
    assert job.outstanding() == 3
    hold.set()
    assert done.wait(5)
    assert job.flush(5)
    assert len(acked) == 8
    job.close()


def test_a_successor_posts_what_a_killed_worker_left(antenna: AntennaHost, tmp_path: Path) -> None:
    """The worker is killed by SIGKILL with its answers taken over and the server down."""
    script = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from tests.worker.jobs.answers import PIPELINE, answered
        from tidegate_worker.jobs.antenna.api import AntennaAccess
        from tidegate_worker.jobs.antenna.job import AntennaJob
        job = AntennaJob(AntennaAccess(base_url=sys.argv[1], token="t"), "1", PIPELINE, Path(sys.argv[2]))
        tasks = job.lease(3)
        job.answer([answered(task) for task in tasks], lambda _: None)
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    antenna.judge = lambda results, request: ("503 Busy", {})
    for number in (1, 2, 3):
        antenna.task(number, sequence=number)
    root = Path(__file__).parents[3]
    killed = subprocess.run(
        [sys.executable, "-c", script, antenna.api_url, str(tmp_path)],
        cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, timeout=120, check=False,
    )  # fmt: skip
    assert killed.returncode == -9
    assert antenna.accepted == []
    antenna.judge = accept_all
    job = opened_job(antenna, tmp_path)
    assert job.flush(10)
    assert sorted(named(result) for _, result in antenna.accepted) == ["1", "2", "3"]
    assert all(subject for subject, _ in antenna.accepted)
    job.close()


def test_closing_while_a_post_is_under_way_leaves_the_log_to_the_successor(
    antenna: AntennaHost, tmp_path: Path
) -> None:
    hold, under_way = threading.Event(), threading.Event()

    def slow(results: list[dict[str, Any]], request: Request) -> tuple[str, Any]:
        under_way.set()
        hold.wait(10)
        return accept_all(results, request)

    antenna.judge = slow
    limits = AntennaLimits(post=PostLimits(threads=1, linger_seconds=0.0, answer_seconds=20))
    closed = opened_job(antenna, tmp_path, limits)
    antenna.task(1)
    antenna.task(2, sequence=2)
    first, second = lease(closed, 2)
    acked: list[str] = []
    closed.answer([answered(first)], lambda each: acked.append(each.task.image_id))
    assert under_way.wait(5)
    closed.answer([answered(second)], lambda each: acked.append(each.task.image_id))
    closed.close()
    antenna.judge = accept_all
    successor = opened_job(antenna, tmp_path)
    hold.set()
    assert successor.flush(5)
    wait_until(lambda: len(antenna.subjects("1")) == 2)
    assert len(antenna.subjects("2")) == 1
    successor.close()
    assert opened_job(antenna, tmp_path).outstanding() == 0


def test_a_redelivered_image_gets_its_answer_again_and_is_not_computed_again(
    job: AntennaJob, antenna: AntennaHost
) -> None:
    antenna.task(1, sequence=1)
    first = answered(lease(job, 1)[0])
    answer(job, first)
    antenna.task(1, sequence=1, delivered=2, consumer_sequence=9)
    antenna.task(2, sequence=2, consumer_sequence=10)
    assert [task.image_id for task in lease(job, 1)] == ["2"]
    assert job.flush(5)
    (_, once), (_, twice) = ((s, r) for s, r in antenna.accepted if named(r) == "1")
    assert once == twice
    assert ".2.1.9." in antenna.subjects("1")[1]


def test_a_successor_knows_the_answers_of_its_predecessor(antenna: AntennaHost, tmp_path: Path) -> None:
    job = opened_job(antenna, tmp_path)
    antenna.task(1)
    answer(job, answered(lease(job, 1)[0]))
    job.close()
    job = opened_job(antenna, tmp_path)
    antenna.task(1, delivered=2, consumer_sequence=5)
    assert list(job.lease(1)) == []
    assert job.flush(5)
    assert len(antenna.subjects("1")) == 2
    job.close()
    other_weights = opened_job(antenna, tmp_path, model_version="2")
    antenna.task(1, delivered=2, consumer_sequence=6)
    assert len(lease(other_weights, 1)) == 1
    other_weights.close()


def test_a_failure_is_repeated_for_the_same_message_and_tried_anew_for_another(
    job: AntennaJob, antenna: AntennaHost
) -> None:
    antenna.task(1, sequence=1)
    answer(job, failed(lease(job, 1)[0]))
    antenna.task(1, sequence=1, delivered=2, consumer_sequence=2)
    assert list(job.lease(1)) == []
    assert job.flush(10)
    antenna.task(1, sequence=3, consumer_sequence=3)
    assert answer(job, answered(lease(job, 1)[0])) == ["1"]
    assert "error" not in antenna.accepted[-1][1]


def test_an_image_computed_twice_is_answered_by_the_first_answer(antenna: AntennaHost, tmp_path: Path) -> None:
    job = opened_job(antenna, tmp_path, AntennaLimits(lease_seconds=1.0, post=QUICK))
    antenna.task(1, sequence=1)
    first = lease(job, 1)[0]
    time.sleep(1.1)
    antenna.task(1, sequence=1, delivered=2, consumer_sequence=2)
    second = lease(job, 1)[0]
    assert second.last_delivery
    assert answer(job, answered(first, detection(1, 1, 2, 2))) == ["1"]
    assert answer(job, answered(second, detection(3, 3, 4, 4))) == ["1"]
    assert [result["detections"][0]["bbox"]["x1"] for _, result in antenna.accepted] == [1, 1]
    assert antenna.subjects("1") == [first.reply_subject, second.reply_subject]
    job.close()


def test_a_cancelled_job_drops_leases_and_subjects(job: AntennaJob, antenna: AntennaHost) -> None:
    for number in (1, 2):
        antenna.task(number, sequence=number)
    job.prove()
    first = lease(job, 1)[0]
    antenna.status = "REVOKED"
    assert job.progress().state is JobState.INACTIVE
    antenna.status = "STARTED"
    assert answer(job, answered(first)) == ["1"]
    assert antenna.subjects("1") == [""]
    antenna.task(5, sequence=1)
    fresh = next(task for task in lease(job, 2) if task.image_id == "5")
    answer(job, answered(fresh))
    assert antenna.subjects("5") == [fresh.reply_subject]


def test_a_queue_made_anew_unseen_is_noticed_by_its_numbers(job: AntennaJob, antenna: AntennaHost) -> None:
    antenna.task(1, sequence=40)
    old = lease(job, 1)[0]
    antenna.task(2, sequence=1)
    fresh = lease(job, 1)[0]
    answer(job, answered(old), answered(fresh))
    assert antenna.subjects("1") == [""]
    assert antenna.subjects("2") == [fresh.reply_subject]


def test_a_queue_made_anew_unseen_is_noticed_though_it_has_overtaken_the_old_one(
    job: AntennaJob, antenna: AntennaHost
) -> None:
    antenna.task(1, sequence=2)
    old = lease(job, 1)[0]
    for number in (2, 3):
        antenna.task(number, sequence=number)
    fresh = lease(job, 2)
    answer(job, answered(old), *map(answered, fresh))
    assert antenna.subjects("1") == [""]
    assert antenna.subjects("2") + antenna.subjects("3") == [task.reply_subject for task in fresh]


@pytest.mark.parametrize(
    ("status", "state"),
    [("STARTED", JobState.OPEN), ("RETRY", JobState.OPEN), ("PENDING", JobState.INACTIVE),
     ("CREATED", JobState.INACTIVE),
     ("CANCELING", JobState.INACTIVE), ("REVOKED", JobState.INACTIVE), ("UNKNOWN", JobState.INACTIVE),
     ("SUCCESS", JobState.COMPLETE), ("FAILURE", JobState.COMPLETE)],
)  # fmt: skip
def test_progress_is_the_server_s_own(job: AntennaJob, antenna: AntennaHost, status: str, state: JobState) -> None:
    antenna.status, antenna.processed, antenna.total = status, 3, 10
    told = job.progress()
    assert (told.state, told.done, told.total) == (state, 3, 10)


@pytest.mark.parametrize(("status", "is_kept"), [("SUCCESS", False), ("STARTED", True), ("REVOKED", True)])
def test_what_is_kept_of_a_job_goes_when_the_job_has_ended(
    antenna: AntennaHost, tmp_path: Path, status: str, is_kept: bool
) -> None:
    job = opened_job(antenna, tmp_path)
    antenna.task(1)
    answer(job, answered(lease(job, 1)[0]))
    antenna.status = status
    job.progress()
    job.close()
    assert bool(list(tmp_path.iterdir())) is is_kept


def test_a_hanging_job_is_nudged_with_an_accepted_result(job: AntennaJob, antenna: AntennaHost) -> None:
    antenna.task(1)
    answer(job, answered(lease(job, 1)[0]))
    assert list(job.lease(1)) == []
    wait_until(lambda: job.progress().state is JobState.OPEN and len(antenna.subjects("1")) == 2, seconds=5)
    assert antenna.subjects("1")[1] == ""


def test_a_job_that_moves_or_still_has_leases_is_not_nudged(job: AntennaJob, antenna: AntennaHost) -> None:
    antenna.task(1)
    antenna.task(2, sequence=2)
    first, _held = lease(job, 2)
    answer(job, answered(first))
    assert list(job.lease(1)) == []
    for _ in range(10):
        job.progress()
        time.sleep(0.05)
    assert len(antenna.accepted) == 1
    job.answer([failed(_held)], lambda _: None)
    assert job.flush(5)
    for step in range(20):
        antenna.processed = step
        job.progress()
        time.sleep(0.03)
    assert len(antenna.accepted) == 2


def test_contract_breaks_are_raised_and_the_rest_is_taken_over(job: AntennaJob, antenna: AntennaHost) -> None:
    antenna.task(1)
    antenna.task(2, sequence=2)
    first, second = lease(job, 2)
    wrong = Answer(first, Prediction((Detection((0, 0, 1, 1), 0.5, "unknown"),)))
    with pytest.raises(FixConfig):
        job.answer([wrong, answered(second)], lambda _: None)
    assert job.flush(5)
    assert [named(result) for _, result in antenna.accepted] == ["2"]


def test_scores_are_not_held_in_memory_until_they_are_accepted(job: AntennaJob, antenna: AntennaHost) -> None:
    antenna.task(1)
    told: list[Answer] = []
    job.answer([answered(lease(job, 1)[0])], told.append)
    assert job.flush(5)
    outcome = told[0].outcome
    assert isinstance(outcome, Prediction)
    assert outcome.detections == ()
    assert outcome.infer_seconds == 0.25


def big_answer(task: Task, boxes: int, classes: int, flat: bool) -> Answer:
    labels = tuple(f"species {number}" for number in range(classes))
    vector = np.full(classes, 1 / classes, dtype=np.float32) if flat else np.zeros(classes, dtype=np.float32)
    vector[3] += 1 / classes
    found = Classification(CLASSIFIER.key, labels[3], vector, labels, terminal=True)
    return Answer(
        task, Prediction(tuple(Detection((n, 0, n + 1, 1), n / boxes, DETECTOR.key, (found,)) for n in range(boxes)))
    )


def test_500_boxes_of_29176_classes_go_out_in_one_request_and_in_little_memory(host: Host, tmp_path: Path) -> None:
    """The server reads and counts only, so that all memory seen is the worker's."""
    received = [0]

    def swallow(peer: socket.socket, request: Request) -> None:
        received[0] = len(request.body)
        request.body = b""
        peer.sendall(response(b'{"results_queued":1}', headers=JSON))

    antenna = AntennaHost(host)
    host.scripts["/api/v2/jobs/1/result/"] = swallow
    job = opened_job(antenna, tmp_path, AntennaLimits(), pipeline=large_pipeline(29_176))
    antenna.task(1)
    huge = big_answer(lease(job, 1)[0], 500, 29_176, flat=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    assert answer(job, huge) == ["1"]
    assert time.monotonic() - began < 30
    assert 70_000_000 < received[0] < 95_000_000
    # The scripted server holds the body once, and once more while it reads.
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 260
    job.close()


def test_an_answer_beyond_every_request_is_rounded_harder_and_then_cut_to_its_best_boxes(
    antenna: AntennaHost, tmp_path: Path
) -> None:
    limits = AntennaLimits(result_bytes=60_000, post=QUICK)
    job = opened_job(antenna, tmp_path, limits, pipeline=large_pipeline(1000))
    antenna.task(1)
    antenna.task(2, sequence=2)
    rounded, cut = lease(job, 2)
    answer(job, big_answer(rounded, 20, 1000, flat=True), big_answer(cut, 100, 1000, flat=True))
    results = {named(result): result for _, result in antenna.accepted}
    assert len(results["1"]["detections"]) == 20
    assert 10 < len(results["2"]["detections"]) < 100
    assert results["2"]["detections"][0]["bbox"]["x1"] == 99
    for result in results.values():
        scores = result["detections"][0]["classifications"][0]["scores"]
        assert len(scores) == 1000
        assert scores.index(max(scores)) == 3
    job.close()


def test_the_token_is_never_shown(host: Host, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    access = AntennaAccess(base_url=host.url("/api/v2"), token="s3cret-token")
    assert "s3cret" not in repr(access)
    job = AntennaJob(access, "1", PIPELINE, tmp_path, limits=LIMITS)
    for status in ("500 Oops", "401 No", "400 Bad"):
        host.serve("/api/v2/jobs/1/tasks/", b'{"detail":"no"}', status)
        with pytest.raises((RetryLater, FixConfig)) as caught:
            job.lease(1)
        assert "s3cret" not in str(caught.value)
    assert "s3cret" not in caplog.text
    job.close()


@pytest.mark.parametrize(
    ("url", "token"), [("ftp://x", "t"), ("nonsense", "t"), ("http://x", " "), ("http://x", "a\nb")]
)
def test_access_that_cannot_work_says_so(tmp_path: Path, url: str, token: str) -> None:
    with pytest.raises(FixConfig):
        AntennaJob(AntennaAccess(base_url=url, token=token), "1", PIPELINE, tmp_path)


@pytest.mark.parametrize("job_id", ["", "../1", "1/result", "x"])
def test_a_job_is_named_by_a_number(tmp_path: Path, job_id: str) -> None:
    with pytest.raises(FixConfig):
        AntennaJob(AntennaAccess(base_url="http://127.0.0.1:1/api/v2", token="t"), job_id, PIPELINE, tmp_path)
