"""The demo pipeline as the shipped catalogue has it: what it finds, how fast, and that its misdeeds are real."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tests.worker.models.measured import anonymous_bytes
from tests.worker.models.pictures import decoded, sheet

from tidegate.core.contract import MIB
from tidegate_worker.models.artifacts import ArtifactCache
from tidegate_worker.models.catalogue import Catalogue, catalogue_files
from tidegate_worker.models.demo import Misbehaviour
from tidegate_worker.models.load import PipelineLoader
from tidegate_worker.ports import Predictor

SHIPPED = Path(__file__).parents[3] / "worker_image" / "pipelines"


def demo(misbehaviour: Misbehaviour | None = None) -> Predictor:
    loader = PipelineLoader(Catalogue(catalogue_files([SHIPPED])), ArtifactCache(Path("unused")), torch.device("cpu"))
    return loader.load("tidegate_demo", misbehaviour)


def test_blobs_are_found_where_they_are() -> None:
    pixels = torch.full((3, 480, 640), 215, dtype=torch.uint8)
    pixels[:, 100:130, 200:230] = 50
    pixels[:, 300:330, 500:530] = 50
    boxes = [found.box for found in demo().predict([decoded(pixels)])[0].detections]
    assert len(boxes) == 2
    for left, top in ((200, 100), (500, 300)):
        assert any(box[0] <= left + 15 <= box[2] and box[1] <= top + 15 <= box[3] for box in boxes)


def test_an_empty_sheet_has_no_detections() -> None:
    assert demo().predict([decoded(sheet(640, 480, blobs=0))])[0].detections == ()


@pytest.mark.parametrize(("width", "height"), [(1, 1), (7, 200), (64, 64), (4096, 3072)])
def test_any_size_is_predicted_and_boxes_stay_inside(width: int, height: int) -> None:
    pixels = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    for found in demo().predict([decoded(pixels)])[0].detections:
        left, top, right, bottom = found.box
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height


def test_two_loads_say_the_same_of_the_same_image() -> None:
    image = decoded(sheet(640, 480))
    first, second = (demo().predict([image])[0].detections for _ in range(2))
    assert [(found.box, found.score) for found in first] == [(found.box, found.score) for found in second]
    words = [[word.scores.tolist() for word in found.classifications] for found in first]
    assert words == [[word.scores.tolist() for word in found.classifications] for found in second]
    assert words


def test_leaked_memory_is_written_and_stays() -> None:
    leaky = demo(Misbehaviour(leak_bytes_per_image=8 * MIB))
    images = [decoded(sheet(320, 240)) for _ in range(4)]
    leaky.predict(images)
    before = anonymous_bytes()
    for _ in range(3):
        leaky.predict(images)
    assert anonymous_bytes() - before >= 12 * 8 * MIB * 0.85


def test_without_misbehaviour_nothing_is_leaked() -> None:
    sound = demo(Misbehaviour())
    images = [decoded(sheet(320, 240)) for _ in range(4)]
    for _ in range(3):
        sound.predict(images)
    before = anonymous_bytes()
    for _ in range(10):
        sound.predict(images)
    assert anonymous_bytes() - before < 8 * MIB


def test_a_slow_demo_takes_its_time_for_each_image() -> None:
    slow = demo(Misbehaviour(infer_seconds_per_image=0.05))
    image = decoded(sheet(320, 240))
    began = time.monotonic()
    predictions = slow.predict([image, image])
    assert time.monotonic() - began >= 0.1
    assert predictions[0].infer_seconds >= 0.05


def test_a_demanding_demo_says_what_it_will_hold() -> None:
    greedy = demo(Misbehaviour(workspace_bytes=64 * MIB))
    assert greedy.workspace_bytes(640, 480) == demo().workspace_bytes(640, 480) + 64 * MIB


_DIE = """
from tests.worker.models.test_demo import demo
from tests.worker.models.pictures import decoded, sheet
from tidegate_worker.models.demo import Misbehaviour, Poison
predictor = demo(Misbehaviour(crash_on=frozenset({"13"}), poison=Poison("%s"), poison_bytes=256 * 1024 * 1024))
predictor.predict([decoded(sheet(64, 64), "12")])
print("twelve is well", flush=True)
predictor.predict([decoded(sheet(64, 64), "13")])
"""


@pytest.mark.parametrize(("poison", "signal"), [("segfault", 11), ("abort", 6), ("memory", 6)])
def test_a_poisonous_image_kills_the_process_and_no_other_image_does(poison: str, signal: int) -> None:
    died = subprocess.run(
        [sys.executable, "-c", _DIE % poison],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[3],
        check=False,
    )
    assert died.stdout == "twelve is well\n"
    assert died.returncode == -signal
