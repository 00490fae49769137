"""Real signals at a real process: what a SIGKILL leaves for the next one, and what a SIGTERM lets it finish."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.worker.engine.bed import BedJob, BedPredictor, assignment, fetcher_of, jpeg, settings, tasks_of

from tidegate.core.contract import WorkerReport
from tidegate_worker import app

#: Works 40 images slowly and says each it has predicted; its report is its last line.
WORKER = """
import sys
from pathlib import Path
from tests.worker.engine.bed import *
from tidegate_worker import app
from tidegate_worker.pipeline.drain import Drain
directory = Path(sys.argv[1])
images = {f"image-{number}": jpeg(seed=number % 5) for number in range(40)}
drain = Drain()
drain.on_signals()
say = lambda batch: print("predicted", *[image.task.image_id for image in batch], flush=True)
report = app.run(
    assignment(micro_batch_images=1, staged_images=8), BedJob(tasks_of([*images])), fetcher_of(images),
    BedPredictor(seconds=0.2, on_predict=say), settings(directory), drain,
)
print(report.to_json(), flush=True)
sys.exit(report.exit_code)
"""


def started(directory: Path) -> subprocess.Popen[str]:
    """The worker, after it has predicted its second image."""
    root = str(Path(__file__).parents[3])
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(directory)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": root},
    )
    assert process.stdout is not None
    for _ in range(2):
        process.stdout.readline()
    return process


def test_a_killed_worker_leaves_its_in_flight_images_and_its_files(tmp_path: Path) -> None:
    process = started(tmp_path)
    process.kill()
    process.wait(10)
    text = (tmp_path / "termination-log").read_bytes()
    assert len(text) == 4096
    report = WorkerReport.from_json(text)
    assert report.phase == "running"
    in_flight = [entry.image_id for entry in report.in_flight]
    assert in_flight
    files = [path for path in (tmp_path / "staging").rglob("*-*") if path.is_file() and not path.name.endswith(".part")]
    assert files, "nothing was staged when the worker was killed"

    images = {f"image-{number}": jpeg(seed=number % 5) for number in range(40)}
    fetcher = fetcher_of(images)
    again = app.run(
        assignment(micro_batch_images=4), BedJob(tasks_of([*images])), fetcher, BedPredictor(), settings(tmp_path)
    )
    assert again.acked == 40
    assert len(fetcher.fetched) <= 40 - len(files), "files that survived were fetched again"
    assert not list((tmp_path / "staging").rglob("*-*"))


def test_a_damaged_file_of_a_killed_worker_is_fetched_anew(tmp_path: Path) -> None:
    process = started(tmp_path)
    process.kill()
    process.wait(10)
    files = [path for path in (tmp_path / "staging").rglob("*-*") if path.is_file() and not path.name.endswith(".part")]
    for path in files:
        size = path.stat().st_size
        path.write_bytes(path.read_bytes()[:2000] + bytes(size - 2000))
        path.write_bytes(b"\xff\xd8" + bytes(size - 2))
    images = {f"image-{number}": jpeg(seed=number % 5) for number in range(40)}
    report = app.run(assignment(), BedJob(tasks_of([*images])), fetcher_of(images), BedPredictor(), settings(tmp_path))
    assert (report.acked, report.failed) == (40, 0)


def test_sigterm_answers_what_is_leased_and_exits_75(tmp_path: Path) -> None:
    process = started(tmp_path)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    *predicted, last = output.splitlines()
    assert process.returncode == 75
    report = WorkerReport.from_json(last)
    assert report.reason == "asked to stop by SIGTERM"
    assert report.in_flight == ()
    assert report.acked == len(predicted) + 2 < 40
    assert json.loads((tmp_path / "termination-log").read_text())["exit_code"] == 75


def test_a_second_sigterm_kills(tmp_path: Path) -> None:
    process = started(tmp_path)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == -signal.SIGTERM
