"""The seams of the worker: what a job, a predictor and the pipeline between them promise each other; no behaviour.

```
Job.lease -> Task -> Fetcher.fetch -> staged file -> ImageHeader -> byte credits -> DecodedImage
          -> Predictor.predict -> Answer -> Job.answer -> acked -> staged file removed
```
A job is a source and a sink in one object, because both speak about the same leases; the pipeline knows nothing of
HTTP or SQL, a job nothing of memory, a predictor nothing of either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, BinaryIO, Protocol

import numpy as np

if TYPE_CHECKING:
    # A job needs no tensors: commands that only talk to servers start in a tenth of the time and memory.
    import torch


@dataclass(frozen=True, slots=True)
class Task:
    """One leased image. Times are on the monotonic clock of this process."""

    image_id: str
    #: May be presigned: never log it but through `redact`.
    url: str
    reply_subject: str | None = None
    delivery: int = 1
    last_delivery: bool = False
    leased_at: float = 0.0
    expires_at: float = float("inf")


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What a file says of itself before any pixel is decoded."""

    codec: str
    mode: str
    width: int
    height: int
    channels: int
    bits: int = 8
    progressive: bool = False
    frames: int = 1


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """A uint8 CHW RGB tensor. `scale` is decoded size over raw size: 1.0 unless decoding was asked to be fast."""

    task: Task
    pixels: torch.Tensor
    raw_width: int
    raw_height: int
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Classification:
    algorithm: str
    label: str
    #: The full softmax vector in category-map order, float32.
    scores: np.ndarray
    labels: Sequence[str]
    terminal: bool


@dataclass(frozen=True, slots=True)
class Detection:
    """Integer box (x1, y1, x2, y2) in pixels of the raw, un-rotated image."""

    box: tuple[int, int, int, int]
    score: float
    algorithm: str
    classifications: tuple[Classification, ...] = ()


@dataclass(frozen=True, slots=True)
class Prediction:
    detections: tuple[Detection, ...]
    infer_seconds: float = 0.0
    #: Width and height of the raw image; where given, a job holds every box against them.
    raw_size: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """The image is bad for good: the error is terminal, so nothing that may still succeed becomes one."""

    reason: str
    quarantined: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    task: Task
    outcome: Prediction | Failure


class JobState(StrEnum):
    OPEN = "open"
    #: Not served at the moment (cancelled, retried, not started): drop what is leased, keep polling.
    INACTIVE = "inactive"
    COMPLETE = "complete"


@dataclass(frozen=True, slots=True)
class JobProgress:
    state: JobState
    done: int | None = None
    total: int | None = None


class Job(Protocol):
    """Work to lease and the place to answer it. Every method may be called from any thread."""

    #: Seconds a lease lasts; infinite where it is renewed by the job itself.
    lease_seconds: float

    def prove(self) -> None:
        """Raise FixConfig (bad token, unknown job or pipeline) or RetryLater before any work is leased."""

    def lease(self, at_most: int) -> Sequence[Task]:
        """Up to `at_most` tasks. Empty is not done. Raises RetryLater where the other side is not well."""

    def progress(self) -> JobProgress:
        """The job's own count, asked from its owner: the only proof of completion."""

    def answer(self, answers: Sequence[Answer], on_acked: Callable[[Answer], None]) -> None:
        """Take over the answers; `on_acked` follows once each is accepted for good. Blocks while the outbox is full."""

    def outstanding(self) -> int:
        """Answers taken over and not yet acked."""

    def flush(self, timeout_seconds: float) -> bool:
        """Push out all that is outstanding; False if some is left."""

    def close(self) -> None:
        """Stop threads and close connections; what is outstanding stays answerable by a successor."""


class Fetcher(Protocol):
    """The only way to an image's bytes; hostile URLs and hosts end here."""

    def fetch(self, url: str, into: BinaryIO, at_most_bytes: int) -> int:
        """Stream the bytes of `url` into `into`; how many they were.

        Raises RejectItem where the image is bad for good (404, refused address, too large), RetryLater where it may
        still come.
        """


class Predictor(Protocol):
    """Loaded networks of one pipeline."""

    pipeline: str
    model_version: str
    device: torch.device

    def workspace_bytes(self, width: int, height: int) -> int:
        """Host memory that predicting one image of this decoded size needs beyond its pixels, results included."""

    def predict(self, images: Sequence[DecodedImage]) -> list[Prediction]:
        """One prediction an image, in order. Halves the micro-batch on a CUDA out-of-memory by itself."""
