"""How long each stage takes an image, as a histogram that can be read at any time."""

from __future__ import annotations

import threading
from bisect import bisect_left
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

BUCKET_SECONDS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


class StageName(StrEnum):
    DOWNLOAD = "download"
    HEADER = "header"
    DECODE = "decode"
    INFER = "infer"
    #: From the hand-over to the job until the ack.
    POST = "post"


@dataclass(slots=True)
class Seconds:
    images: int = 0
    total: float = 0.0
    #: Not cumulative; the last one is beyond every bound.
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKET_SECONDS) + 1))

    @property
    def mean(self) -> float:
        return self.total / self.images if self.images else 0.0


class Timing:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stages = {name: Seconds() for name in StageName}

    def took(self, stage: StageName, seconds: float, images: int = 1) -> None:
        """`images` went through `stage` together in `seconds`: each counts as its share."""
        share = seconds / images
        with self._lock:
            entry = self._stages[stage]
            entry.images += images
            entry.total += seconds
            entry.buckets[bisect_left(BUCKET_SECONDS, share)] += images

    def read(self) -> dict[StageName, Seconds]:
        with self._lock:
            return {
                name: Seconds(entry.images, entry.total, list(entry.buckets)) for name, entry in self._stages.items()
            }
