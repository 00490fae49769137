"""A probe: it answers what it leases and measures each step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.worker.engine.bed import (
    BedJob,
    BedPredictor,
    assignment,
    fetcher_of,
    jpeg,
    settings,
    tasks_of,
)
from tests.worker.engine.cage import caged

from tidegate.core.contract import GIB, MIB, WorkerReport
from tidegate_worker import app
from tidegate_worker.ports import DecodedImage

#: In a cage: growth is read from the process's own cgroup, where nobody else may grow.
PROBE_A_LEAK = """
import sys
from pathlib import Path
from tests.worker.engine.bed import BedJob, BedPredictor, assignment, fetcher_of, jpeg, settings, tasks_of
from tidegate_worker import app
leak_bytes = int(sys.argv[2]) * 1024**2
leaked = []
images = {f"image-{number}": jpeg(800, 600, number) for number in range(16)}
predictor = BedPredictor(on_predict=lambda batch: leaked.extend(bytearray(leak_bytes) for _ in batch))
job = BedJob(tasks_of([*images]))
report = app.probe(assignment(), job, fetcher_of(images), predictor, settings(Path(sys.argv[1])))
print(report.growth_bytes_per_image)
"""

IMAGES = {f"image-{number}": jpeg(seed=number) for number in range(20)}


def test_a_probe_answers_what_it_leases_and_measures_each_step(tmp_path: Path) -> None:
    images = {f"image-{number}": jpeg(800, 600, number) for number in range(40)}
    job = BedJob(tasks_of([*images]), ack_seconds=0.01)
    report = app.probe(
        assignment(),
        job,
        fetcher_of(images),
        BedPredictor(seconds=0.01),
        settings(tmp_path),
        model_load_seconds=3.0,
    )
    assert len(job.answers) == report.acked == report.images_measured == report.images_sized == 16
    assert report.images_total == 40
    assert report.decoded_bytes is not None
    assert report.credit_bytes is not None
    assert report.decoded_bytes.p50 == 800 * 600 * 3
    assert report.credit_bytes.max > 800 * 600 * 3
    assert 0 < report.floor_bytes <= report.peak_bytes
    assert report.decode_seconds > 0
    assert report.infer_seconds >= 0.0025
    assert report.post_seconds >= 0.01
    assert report.model_load_seconds == 3.0


@pytest.mark.parametrize("leak_mib", [0, 4])
def test_a_probe_sees_what_each_image_leaves_behind(tmp_path: Path, leak_mib: int) -> None:
    with caged(2 * GIB) as cage:
        output, errors = cage.start(PROBE_A_LEAK, [str(tmp_path), str(leak_mib)]).communicate(timeout=120)
    assert output, errors[-2000:]
    assert (leak_mib - 1) * MIB < int(output) < (leak_mib + 1) * MIB


def test_a_probe_names_the_images_in_flight_as_it_predicts_them(tmp_path: Path) -> None:
    log = tmp_path / "termination-log"
    told: list[bool] = []

    def look(batch: Sequence[DecodedImage]) -> None:
        report = WorkerReport.from_json(log.read_text())
        told.extend(image.task.image_id in {entry.image_id for entry in report.in_flight} for image in batch)

    app.probe(
        assignment(), BedJob(tasks_of([*IMAGES])), fetcher_of(IMAGES), BedPredictor(on_predict=look), settings(tmp_path)
    )
    assert told == [True] * 16
