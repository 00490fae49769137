"""What an image is said to need beside its pixels, against what predicting one really takes in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tidegate.core.contract import MIB

DETECTOR = {"name": "D", "architecture": "tiny_detector", "seed": 1, "score_above": 0.8, "most_boxes": 500}
BINARY = {
    "name": "B",
    "architecture": "torchvision_resnet50",
    "seed": 1,
    "labels": ["moth", "nonmoth"],
    "input_size": 128,
}
TINY = BINARY | {"name": "T", "architecture": "tiny_classifier", "input_size": 16}


def measured(
    folder: Path, boxes: int, detector: str, classifier: dict[str, Any], *, filtered: bool = False
) -> dict[str, Any]:
    pipeline = {"detector": "d", "classifier": "c"} | (
        {"filter": {"classifier": "b", "keep": "moth"}} if filtered else {}
    )
    content = {
        "detectors": {"d": DETECTOR | {"architecture": detector}},
        "classifiers": {"c": classifier, "b": BINARY},
        "pipelines": {"p": pipeline},
    }
    (folder / "c.yaml").write_text(yaml.safe_dump(content))
    program = Path(__file__).with_name("measured.py")
    arguments = [str(folder / "c.yaml"), str(folder), "p", "4096", "3072", str(boxes)]
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", str(program), *arguments],
        capture_output=True,
        text=True,
        timeout=250,
        check=True,
    )
    return dict(json.loads(ran.stdout))


@pytest.mark.parametrize(
    ("detector", "classifier", "boxes"),
    [
        ("fasterrcnn_mobilenet_v3_large_fpn", TINY, 2),
        ("tiny_detector", BINARY, 25),
        ("tiny_detector", BINARY | {"architecture": "timm_resnet50"}, 25),
        ("tiny_detector", BINARY | {"architecture": "resnet50_trunk", "input_size": 300, "resize": "picture"}, 4),
        ("tiny_detector", BINARY | {"architecture": "timm_convnext_tiny_in22k", "resize": "picture"}, 25),
        # The largest category map: 500 score vectors are 58 MB.
        ("tiny_detector", TINY | {"labels": [str(n) for n in range(29_176)]}, 500),
    ],
)
def test_the_claim_covers_what_is_taken_and_is_no_more_than_twice_as_much(
    tmp_path: Path, detector: str, classifier: dict[str, Any], boxes: int
) -> None:
    run = measured(tmp_path, boxes, detector, classifier)
    assert run["detections"] == boxes
    assert run["workspace_bytes"] <= run["claimed_bytes"]
    assert run["claimed_bytes"] <= 2 * run["workspace_bytes"] + 24 * MIB


def test_the_whole_pipeline_on_images_of_4096_by_3072_stays_under_1_5_gb(tmp_path: Path) -> None:
    timm = BINARY | {"name": "S", "architecture": "timm_resnet50", "labels": [str(n) for n in range(2497)]}
    run = measured(tmp_path, 25, "fasterrcnn_resnet50_fpn", timm, filtered=True)
    assert run["peak_bytes"] <= 1.5e9
    assert run["workspace_bytes"] <= run["claimed_bytes"]
