"""A manifest job on real ledgers (SQLite, and PostgreSQL where it is installed) and real files; kills included."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.worker.jobs.answers import answered, classification, detection, failed
from tests.worker.jobs.demo_server import wait_until
from tests.worker.jobs.manifest_setting import (
    assert_whole,
    index,
    opened,
    outcome,
    output_rows,
    row_of,
    serve,
    write_manifest,
)

from tidegate.core.errors import FixConfig, RetryLater
from tidegate_worker.jobs.manifest.ledger import Ledger, NewChunk, SavedAnswer
from tidegate_worker.jobs.manifest.loading import load
from tidegate_worker.jobs.manifest.rows import Manifest, Row
from tidegate_worker.net.http_fetcher import HttpFetcher
from tidegate_worker.net.uris import UriRules
from tidegate_worker.ports import Answer, Failure, JobState, Prediction

ROOT = Path(__file__).parents[3]


def test_a_manifest_is_served_to_its_end(ledger_url: str, tmp_path: Path, job_name: str) -> None:
    write_manifest(tmp_path, 45)
    job = opened(ledger_url, tmp_path, job_name)
    acked: list[str] = []
    serve(job, acked.append)
    assert sorted(acked) == sorted(f"{n}:image {n}" for n in range(45))
    progress = job.progress()
    assert (progress.state, progress.done, progress.total) == (JobState.COMPLETE, 45, 45)
    assert job.outstanding() == 0
    assert job.flush(5)
    job.close()
    assert_whole(tmp_path, 45)
    row = output_rows(tmp_path)[1]
    assert row["id"] == "image 1"
    assert row["uri"] == "https://host/1.jpg?..."
    assert (row["pipeline"], row["model_version"], row["quarantined"]) == ("moths", "1", False)
    assert row["detections"][0]["box"] == [1, 2, 30, 40]
    assert row["detections"][0]["classifications"][0]["label"] == "moth"
    assert "secret" not in "".join(map(json.dumps, output_rows(tmp_path)))


def test_tasks_say_what_the_pipeline_needs(ledger_url: str, tmp_path: Path, job_name: str) -> None:
    write_manifest(tmp_path, 10)
    job = opened(ledger_url, tmp_path, job_name)
    job.prove()
    tasks = job.lease(3)
    assert [task.url for task in tasks] == [f"https://host/{n}.jpg?signature=secret" for n in range(3)]
    assert {task.delivery for task in tasks} == {1}
    assert not any(task.last_delivery for task in tasks)
    assert all(task.expires_at == job.lease_seconds == float("inf") for task in tasks)
    assert [row_of(task) for task in job.lease(100)] == list(range(3, 8))
    assert [row_of(task) for task in job.lease(100)] == [8, 9]
    assert list(job.lease(100)) == []
    assert job.progress().state is JobState.OPEN
    job.close()


def test_an_empty_manifest_is_complete(ledger_url: str, tmp_path: Path, job_name: str) -> None:
    write_manifest(tmp_path, 0)
    job = opened(ledger_url, tmp_path, job_name)
    serve(job, seconds=5)
    job.close()
    assert index(tmp_path)["rows"] == 0


def test_rows_that_repeat_are_answered_each(ledger_url: str, tmp_path: Path, job_name: str) -> None:
    (tmp_path / "manifest.csv").write_text("id,uri\n" + "same,https://host/same.jpg\n" * 20)
    job = opened(ledger_url, tmp_path, job_name)
    serve(job)
    job.close()
    assert_whole(tmp_path, 20)
    assert {row["id"] for row in output_rows(tmp_path)} == {"same"}


def test_parts_can_be_parquet(tmp_path: Path, job_name: str) -> None:
    write_manifest(tmp_path, 20)
    job = opened(f"sqlite:///{tmp_path}/l", tmp_path, job_name, part_format="parquet")
    serve(job)
    job.close()
    (home,) = (tmp_path / "out").iterdir()
    table = pq.read_table([home / part["name"] for part in index(tmp_path)["parts"]])
    assert sorted(table["row"].to_pylist()) == list(range(20))
    found = {row["row"]: row for row in table.to_pylist()}
    assert found[0]["error"] == "not an image"
    assert found[1]["detections"][0]["classifications"][0]["top"][0]["label"] == "moth"


def test_quarantined_and_unsound_answers_are_rows_with_their_reason(tmp_path: Path, job_name: str) -> None:
    write_manifest(tmp_path, 4)
    job = opened(f"sqlite:///{tmp_path}/l", tmp_path, job_name)
    job.prove()
    quarantined, not_finite, outside, none = job.lease(4)
    acked: list[Answer] = []
    job.answer(
        [
            Answer(quarantined, Failure("two memory kills, GET https://h/a?token=x", quarantined=True)),
            answered(not_finite, detection(classifications=(classification(np.nan, 0.5, 0.1),))),
            answered(outside, detection(0, 0, 641, 10)),
            Answer(none, Prediction(())),
        ],
        acked.append,
    )
    serve(job)
    job.close()
    rows = output_rows(tmp_path)
    assert (rows[0]["quarantined"], rows[0]["error"]) == (True, "two memory kills, GET https://h/a?...")
    assert "not a number" in rows[1]["error"]
    assert "does not lie" in rows[2]["error"]
    assert (rows[3]["error"], rows[3]["detections"]) == (None, [])
    assert [isinstance(answer.outcome, Failure) for answer in acked] == [True, True, True, False]
    assert index(tmp_path)["failed"] == 3


def test_a_successor_in_the_same_place_goes_on_at_once_after_the_last_ack(
    ledger_url: str, tmp_path: Path, job_name: str
) -> None:
    write_manifest(tmp_path, 16)
    killed = opened(ledger_url, tmp_path, job_name, lease_seconds=600.0)
    killed.prove()
    tasks = killed.lease(8)
    acked: list[str] = []
    killed.answer([outcome(task) for task in tasks[:5]], lambda answer: acked.append(answer.task.image_id))
    assert len(acked) == 5
    # As a kill would have it: nothing is closed or given back.
    successor = opened(ledger_url, tmp_path, job_name, lease_seconds=600.0)
    successor.prove()
    again = successor.lease(100)
    assert [row_of(task) for task in again] == [5, 6, 7]
    assert {task.delivery for task in again} == {2}
    # The killed one turns out to be alive: what it says of the chunk it lost changes nothing.
    killed.answer([failed(task, "zombie") for task in tasks[5:]], lambda _: None)
    successor.answer([outcome(task) for task in again], lambda _: None)
    serve(successor)
    successor.close()
    killed.close()
    assert_whole(tmp_path, 16)
    assert "zombie" not in {row["error"] for row in output_rows(tmp_path)}


def test_what_is_given_back_counts_as_no_failed_delivery(ledger_url: str, tmp_path: Path, job_name: str) -> None:
    write_manifest(tmp_path, 8)
    drained = opened(ledger_url, tmp_path, job_name, owner="run/0", lease_seconds=600.0)
    drained.prove()
    drained.answer([outcome(task) for task in drained.lease(3)], lambda _: None)
    drained.close()
    other = opened(ledger_url, tmp_path, job_name, owner="run/1", lease_seconds=600.0)
    other.prove()
    tasks = other.lease(100)
    assert [row_of(task) for task in tasks] == [3, 4, 5, 6, 7]
    assert {task.delivery for task in tasks} == {1}
    other.close()


def test_another_place_waits_until_the_lease_has_run_out_and_no_longer(
    ledger_url: str, tmp_path: Path, job_name: str
) -> None:
    write_manifest(tmp_path, 8)
    ledger = Ledger(ledger_url)
    gone = opened(ledger_url, tmp_path, job_name, owner="run/0")
    gone.prove()
    ledger.claim(job_name, "run/0#dead", 1.0)
    other = opened(ledger_url, tmp_path, job_name, owner="run/1")
    other.prove()
    assert list(other.lease(100)) == []
    wait_until(lambda: bool(other.lease(100)), seconds=5)
    gone.close()
    other.close()
    ledger.close()


def test_leases_are_renewed_while_their_worker_lives(ledger_url: str, tmp_path: Path, job_name: str) -> None:
    write_manifest(tmp_path, 8)
    slow = opened(ledger_url, tmp_path, job_name, owner="run/0", lease_seconds=0.8)
    slow.prove()
    tasks = slow.lease(8)
    other = opened(ledger_url, tmp_path, job_name, owner="run/1", lease_seconds=0.8)
    other.prove()
    ends = time.monotonic() + 2.0
    while time.monotonic() < ends:
        assert list(other.lease(8)) == []
        time.sleep(0.1)
    slow.answer([outcome(task) for task in tasks], lambda _: None)
    serve(slow)
    slow.close()
    other.close()
    assert_whole(tmp_path, 8)


def test_an_answer_given_twice_is_acked_twice_and_kept_once(ledger_url: str, tmp_path: Path, job_name: str) -> None:
    write_manifest(tmp_path, 8)
    job = opened(ledger_url, tmp_path, job_name)
    job.prove()
    tasks = job.lease(2)
    acked: list[str] = []
    for answers in ([outcome(tasks[0])], [failed(tasks[0], "later"), outcome(tasks[1])]):
        job.answer(answers, lambda answer: acked.append(answer.task.image_id))
    assert len(acked) == 3
    assert job.progress().done == 2
    job.close()


def test_an_index_is_there_before_the_end_and_names_whole_parts_only(tmp_path: Path, job_name: str) -> None:
    write_manifest(tmp_path, 24)
    job = opened(f"sqlite:///{tmp_path}/l", tmp_path, job_name, index_seconds=0.0)
    job.prove()
    for _ in range(2):
        job.answer([outcome(task) for task in job.lease(8)], lambda _: None)
    assert job.flush(5)
    wait_until(lambda: (tmp_path / "out").exists() and bool(list((tmp_path / "out").glob("*/_index.json"))))
    wait_until(lambda: index(tmp_path)["rows"] == 16)
    assert index(tmp_path)["complete"] is False
    assert len(output_rows(tmp_path)) == 16
    serve(job)
    job.close()
    assert_whole(tmp_path, 24)


def test_stray_parts_are_neither_named_nor_left(tmp_path: Path, job_name: str) -> None:
    write_manifest(tmp_path, 16)
    job = opened(f"sqlite:///{tmp_path}/l", tmp_path, job_name)
    job.prove()
    job.answer([outcome(task) for task in job.lease(8)], lambda _: None)
    assert job.flush(5)
    (home,) = (tmp_path / "out").iterdir()
    (home / "parts" / "part-0000001-0001.jsonl").write_text('{"row": 8}\n')
    serve(job)
    job.close()
    assert_whole(tmp_path, 16)


def test_results_can_go_to_a_bucket(tmp_path: Path, job_name: str) -> None:
    write_manifest(tmp_path, 20)
    job = opened(f"sqlite:///{tmp_path}/l", tmp_path, job_name)
    job.close()
    from tidegate_worker.jobs.manifest.job import ManifestJob, ManifestLimits

    bucket = f"memory://bucket-{job_name.split()[1]}/results"
    job = ManifestJob(
        job_name, f"file://{tmp_path}/manifest.csv", f"sqlite:///{tmp_path}/l", bucket, owner="o", pipeline="p",
        model_version="1", rules=UriRules.parse([f"file://{tmp_path}"]), http=HttpFetcher(),
        limits=ManifestLimits(chunk_rows=8),
    )  # fmt: skip
    serve(job)
    job.close()
    files = fsspec.filesystem("memory")
    told = json.loads(files.cat(f"{job._output.uri}/_index.json"))
    lines = [line for part in told["parts"] for line in files.cat(f"{job._output.uri}/{part['name']}").splitlines()]
    assert sorted(json.loads(line)["row"] for line in lines) == list(range(20))


def test_an_output_that_cannot_be_written_holds_back_completion_and_loses_nothing(
    tmp_path: Path, job_name: str
) -> None:
    write_manifest(tmp_path, 8)
    (tmp_path / "out").write_text("a file where the directory should be")
    job = opened(f"sqlite:///{tmp_path}/l", tmp_path, job_name)
    job.prove()
    acked: list[Any] = []
    job.answer([outcome(task) for task in job.lease(8)], acked.append)
    assert len(acked) == 8
    assert not job.flush(0.5)
    assert job.progress().state is JobState.OPEN
    (tmp_path / "out").unlink()
    serve(job, seconds=10)
    job.close()
    assert_whole(tmp_path, 8)


@pytest.mark.parametrize("name", ["../../escape", "a/b", ".", "..", "%2e%2e", "näme"])
def test_no_job_name_climbs_out_of_the_output(tmp_path: Path, name: str) -> None:
    write_manifest(tmp_path, 3)
    job = opened(f"sqlite:///{tmp_path}/l", tmp_path, name)
    serve(job)
    job.close()
    assert_whole(tmp_path, 3)


def test_one_job_name_stands_for_one_manifest_and_one_output(ledger_url: str, tmp_path: Path, job_name: str) -> None:
    path = write_manifest(tmp_path, 8)
    job = opened(ledger_url, tmp_path, job_name)
    job.prove()
    job.close()
    path.unlink()
    # Once it is in the ledger, the manifest itself is not needed any more.
    job = opened(ledger_url, tmp_path, job_name)
    job.prove()
    job.close()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_manifest(elsewhere, 8)
    with pytest.raises(FixConfig, match="another job name"):
        opened(ledger_url, elsewhere, job_name).prove()


class Torn(Manifest):
    """A manifest whose reading ends by a kill after some rows."""

    def __init__(self, whole: Manifest, after: int) -> None:
        self.__dict__.update(whole.__dict__)
        self._after = after

    def rows(self) -> Any:
        for number, row in enumerate(super().rows()):
            if number == self._after:
                raise KeyboardInterrupt
            yield row


def test_loading_goes_on_where_a_kill_left_it(ledger_url: str, tmp_path: Path, job_name: str) -> None:
    path = write_manifest(tmp_path, 40_000)
    manifest = Manifest(f"file://{path}", UriRules.parse([f"file://{tmp_path}"]), HttpFetcher())
    ledger = Ledger(ledger_url)
    ledger.create()
    with pytest.raises(KeyboardInterrupt):
        load(ledger, job_name, Torn(manifest, 20_000), "o", 100, "a#1")
    half = ledger.state(job_name)
    assert half is not None
    assert 0 < half.rows < 20_000
    with pytest.raises(RetryLater, match="another worker"):
        load(ledger, job_name, manifest, "o", 100, "b#1")
    ledger.expire(job_name, "a#")
    assert load(ledger, job_name, manifest, "o", 100, "a#2").rows == 40_000
    assert load(ledger, job_name, manifest, "o", 100, "b#1").loaded
    counts = ledger.counts(job_name)
    assert (counts.rows, counts.open_chunks) == (40_000, 400)
    last = [ledger.claim(job_name, "x", 60) for _ in range(400)][-1]
    assert last is not None
    assert last.rows[-1] == Row("https://host/39999.jpg?signature=secret", "image 39999")
    assert ledger.claim(job_name, "x", 60) is None
    ledger.close()


def test_a_manifest_that_changes_while_it_is_loaded_is_refused(ledger_url: str, tmp_path: Path, job_name: str) -> None:
    path = write_manifest(tmp_path, 40_000)
    manifest = Manifest(f"file://{path}", UriRules.parse([f"file://{tmp_path}"]), HttpFetcher())
    ledger = Ledger(ledger_url)
    ledger.create()
    with pytest.raises(KeyboardInterrupt):
        load(ledger, job_name, Torn(manifest, 20_000), "o", 100, "a#1")
    write_manifest(tmp_path, 30_000)
    with pytest.raises(FixConfig, match="has changed"):
        load(ledger, job_name, manifest, "o", 100, "a#1")
    ledger.close()


def test_every_write_is_fenced(ledger_url: str, job_name: str) -> None:
    ledger = Ledger(ledger_url)
    ledger.create()
    ledger.enter(job_name, "u", "f", "o", 2)
    assert ledger.claim_loading(job_name, "a", 60)
    chunk = NewChunk(0, 0, (Row("x", None), Row("y", None)))
    assert ledger.add_chunks(job_name, "a", [chunk], 60)
    assert not ledger.add_chunks(job_name, "a", [chunk], 60)
    assert not ledger.add_chunks(job_name, "b", [replace(chunk, number=1, first_row=2)], 60)
    assert ledger.finish_loading(job_name, "a")
    old = ledger.claim(job_name, "a", -1.0)
    new = ledger.claim(job_name, "b", 60)
    assert old is not None
    assert new is not None
    assert new.fence > old.fence
    assert new.lapses == 1
    answer = SavedAnswer(0, False, b"{}")
    assert not ledger.save(job_name, 0, old.fence, [answer])
    assert ledger.renew(job_name, {0: old.fence}, 60) == {0}
    assert not ledger.finish(job_name, 0, old.fence, "old")
    ledger.release(job_name, {0: old.fence})
    assert ledger.claim(job_name, "c", 60) is None
    assert ledger.save(job_name, 0, new.fence, [answer])
    assert ledger.save(job_name, 0, new.fence, [answer, replace(answer, row=1, failed=True)])
    counts = ledger.counts(job_name)
    assert (counts.answered, counts.failed) == (2, 1)
    assert ledger.finish(job_name, 0, new.fence, "part")
    assert not ledger.save(job_name, 0, new.fence, [answer])
    assert ledger.answers(job_name, 0) == []
    assert ledger.counts(job_name).open_chunks == 0
    ledger.close()


@pytest.mark.parametrize("url", ["mysql://h/d", "sqlite://", "sqlite:///:memory:", "nonsense", ""])
def test_a_ledger_that_cannot_be_one_says_so(url: str) -> None:
    with pytest.raises(FixConfig, match="ledger"):
        Ledger(url)


def test_a_ledger_that_does_not_answer_is_a_reason_to_wait_and_shows_no_password() -> None:
    ledger = Ledger("postgresql://user:s3cret@127.0.0.1:1/d")
    with pytest.raises(RetryLater) as caught:
        ledger.create()
    assert "s3cret" not in str(caught.value)


def worker(ledger_url: str, directory: Path, job: str, owner: str, chunk_rows: int) -> subprocess.Popen[str]:
    arguments = [ledger_url, str(directory), job, owner, str(chunk_rows)]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.worker.jobs.manifest_setting", *arguments],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def kill_again_and_again(ledger_url: str, directory: Path, job: str, rounds: int, rows: int) -> Counter[str]:
    """How often each row was acked while two workers share the ledger and are killed by SIGKILL, round after round."""
    chance = random.Random(5)
    write_manifest(directory, rows)
    acked: Counter[str] = Counter()
    for _round in range(rounds):
        pair = [worker(ledger_url, directory, job, f"run/{slot}", 16) for slot in (0, 1)]
        for process in pair:
            assert process.stdout is not None
            for _ in range(chance.randrange(1, 2 * rows // (3 * rounds))):
                acked[process.stdout.readline().strip()] += 1
        for process in pair:
            process.send_signal(signal.SIGKILL)
        for process in pair:
            assert process.stdout is not None
            # A last line may be cut in half by the kill.
            acked.update(line[:-1] for line in process.stdout if line.endswith("\n"))
            process.wait()
    pair = [worker(ledger_url, directory, job, f"run/{slot}", 16) for slot in (0, 1)]
    for process in pair:
        told, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        acked.update(told.split("\n")[:-1])
    acked.pop("", None)
    return acked


def test_kills_between_any_two_lines_lose_no_row_and_redo_no_acked_one(
    ledger_url: str, tmp_path: Path, job_name: str
) -> None:
    acked = kill_again_and_again(ledger_url, tmp_path, job_name, rounds=4, rows=400)
    assert_whole(tmp_path, 400)
    assert max(acked.values()) == 1


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_two_hundred_kills_lose_no_row_and_redo_no_acked_one(ledger_url: str, tmp_path: Path, job_name: str) -> None:
    acked = kill_again_and_again(ledger_url, tmp_path, job_name, rounds=100, rows=20_000)
    assert_whole(tmp_path, 20_000)
    assert max(acked.values()) == 1
