"""JPEGs decoded on a real device: the same run, the same sizes, pixels within a rounding step; nothing without one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.worker.engine.bed import BedJob, BedPredictor, assignment, fetcher_of, jpeg, settings, tasks_of

from tidegate_worker import app


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_run_with_nvjpeg_answers_the_same_and_hands_bad_files_to_the_cpu(tmp_path: Path) -> None:
    images = {f"image-{number}": jpeg(seed=number) for number in range(20)}
    images |= {"cut": jpeg()[:4000], "progressive": jpeg(progressive=True)}
    predictor = BedPredictor(device=torch.device("cuda"), seconds=0.02)
    devices: set[str] = set()
    predictor.on_predict = lambda batch: devices.update(image.pixels.device.type for image in batch)
    report = app.run(
        assignment(), BedJob(tasks_of([*images])), fetcher_of(images), predictor, settings(tmp_path, nvjpeg=True)
    )
    assert (report.acked, report.failed) == (22, 1)
    assert devices == {"cpu", "cuda"}


def test_without_a_device_the_setting_changes_nothing(tmp_path: Path) -> None:
    images = {f"image-{number}": jpeg(seed=number) for number in range(5)}
    job = BedJob(tasks_of([*images]))
    report = app.run(assignment(), job, fetcher_of(images), BedPredictor(), settings(tmp_path, nvjpeg=True))
    assert (report.acked, report.failed) == (5, 0)
