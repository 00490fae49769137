"""What predicting really takes: run by a test as a process of its own, for memory once touched is seldom given back.

    python measured.py CATALOGUE CACHE PIPELINE WIDTH HEIGHT BOXES -> JSON on stdout

Boxes are cut where a detector that found `BOXES` of them would have, so that results and crops are as many as can be.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

import torch

from tidegate_worker import allocator
from tidegate_worker.models.artifacts import ArtifactCache
from tidegate_worker.models.catalogue import Catalogue, catalogue_files
from tidegate_worker.models.detector import BoxDetector, FoundBox
from tidegate_worker.models.load import PipelineLoader
from tidegate_worker.ports import DecodedImage, Task


def anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")


class Peak(threading.Thread):
    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bytes = 0
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.002):
            self.bytes = max(self.bytes, anonymous_bytes())

    def stop(self) -> int:
        self._done.set()
        self.join()
        return self.bytes


class AsManyBoxes(BoxDetector):
    """The real detector runs; its answer is replaced by a fixed number of boxes."""

    def __init__(self, real: BoxDetector, boxes: int) -> None:
        self._real = real
        self._boxes = boxes

    def find(self, images: object) -> list[list[FoundBox]]:
        real = self._real.find(images)  # type: ignore[arg-type]
        return [[FoundBox((7 * n, 5 * n, 7 * n + 200, 5 * n + 300), 1.0) for n in range(self._boxes)] for _ in real]


def main(catalogue: str, cache: str, pipeline: str, width: int, height: int, boxes: int) -> None:
    allocator.tune()
    torch.set_num_threads(2)
    loader = PipelineLoader(
        Catalogue(catalogue_files([Path(catalogue)])), ArtifactCache(Path(cache)), torch.device("cpu")
    )
    predictor = loader.load(pipeline)
    predictor._detector = AsManyBoxes(predictor._detector, boxes)  # type: ignore[attr-defined]
    pixels = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    image = DecodedImage(Task("1", "http://host/1"), pixels, width, height)
    before = anonymous_bytes()
    peak = Peak()
    peak.start()
    seconds = []
    for _ in range(2):
        began = time.process_time()
        prediction = predictor.predict([image])[0]
        seconds.append(time.process_time() - began)
    print(
        json.dumps(
            {
                "floor_bytes": before - pixels.numel(),
                "peak_bytes": peak.stop(),
                "workspace_bytes": peak.bytes - before,
                "claimed_bytes": predictor.workspace_bytes(width, height),
                "detections": len(prediction.detections),
                "cpu_seconds": min(seconds),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:4], *map(int, sys.argv[4:7]))
