"""A manifest job on real files, with the answers that a pipeline would give; also run as a process that is killed.

    python -m tests.worker.jobs.manifest_setting LEDGER DIRECTORY JOB OWNER CHUNK_ROWS

serves the job until it is complete and prints each row's image id when it is acked.
"""

from __future__ import annotations

import csv
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.worker.jobs.answers import answered, failed

from tidegate.core.errors import RetryLater
from tidegate_worker.jobs.manifest.job import ManifestJob, ManifestLimits
from tidegate_worker.net.http_fetcher import HttpFetcher
from tidegate_worker.net.uris import UriRules
from tidegate_worker.ports import Answer, JobState, Task


def write_manifest(directory: Path, rows: int) -> Path:
    path = directory / "manifest.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "uri"])
        writer.writerows((f"image {n}", f"https://host/{n}.jpg?signature=secret") for n in range(rows))
    return path


def opened(ledger_url: str, directory: Path, job: str, owner: str = "run/0", **limits: Any) -> ManifestJob:
    return ManifestJob(
        job,
        f"file://{directory}/manifest.csv",
        ledger_url,
        f"file://{directory}/out",
        owner=owner,
        pipeline="moths",
        model_version="1",
        rules=UriRules.parse([f"file://{directory}"]),
        http=HttpFetcher(),
        limits=ManifestLimits(**{"chunk_rows": 8, "lease_seconds": 2.0} | limits),
    )


def row_of(task: Task) -> int:
    return int(task.image_id.partition(":")[0])


def outcome(task: Task) -> Answer:
    return failed(task) if row_of(task) % 5 == 0 else answered(task)


def serve(
    job: ManifestJob, on_acked: Callable[[str], None] = lambda _: None, seconds: float = 60.0, at_most: int = 3
) -> None:
    """Answer rows until the job is complete."""
    give_up_at = time.monotonic() + seconds
    while True:
        assert time.monotonic() < give_up_at, "the job does not end"
        try:
            job.prove()
            if job.progress().state is JobState.COMPLETE:
                return
            tasks = job.lease(at_most)
        except RetryLater:
            tasks = []
        if not tasks:
            time.sleep(0.05)
            continue
        job.answer([outcome(task) for task in tasks], lambda answer: on_acked(answer.task.image_id))


def index(directory: Path) -> dict[str, Any]:
    (path,) = (directory / "out").glob("*/_index.json")
    return dict(json.loads(path.read_text()))


def output_rows(directory: Path) -> list[dict[str, Any]]:
    """The rows of the parts that the index names."""
    (home,) = (directory / "out").iterdir()
    return [
        json.loads(line)
        for part in index(directory)["parts"]
        for line in (home / part["name"]).read_text().splitlines()
    ]


def assert_whole(directory: Path, rows: int) -> None:
    """The output holds each row once, by the index and by the files alike."""
    told = index(directory)
    assert told["complete"] is True
    assert told["rows"] == rows
    found = output_rows(directory)
    assert Counter(row["row"] for row in found) == Counter(range(rows))
    assert sum(row["error"] is not None for row in found) == told["failed"] == len(range(0, rows, 5))
    (home,) = (directory / "out").iterdir()
    assert sum(len(path.read_text().splitlines()) for path in (home / "parts").iterdir()) == rows


if __name__ == "__main__":
    ledger, place, name, who, chunk_rows = sys.argv[1:]
    serving = opened(ledger, Path(place), name, who, chunk_rows=int(chunk_rows), lease_seconds=3.0)
    serve(serving, lambda image_id: print(image_id, flush=True))
    serving.close()
