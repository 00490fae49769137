"""A test bed at the ports: a job that keeps leases and answers, a predictor without networks, a fetcher of real files.

The fakes promise what `tidegate_worker.ports` says of them and record what the engine did; nothing is patched.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image

from tidegate.core.contract import MIB, Assignment, IngestSettings, Source, SourceKind, Suspect
from tidegate.core.errors import RejectItem
from tidegate_worker.pipeline.settings import EngineSettings
from tidegate_worker.ports import Answer, DecodedImage, Failure, JobProgress, JobState, Prediction, Task

INGEST = IngestSettings(
    budget_bytes=64 * MIB,
    micro_batch_images=4,
    downloads_in_flight=2,
    staged_images=4,
    staging_bytes=64 * MIB,
    decode_threads=2,
    lease_images=16,
)


def assignment(
    suspects: tuple[Suspect, ...] = (), cap_bytes: int = 2**40, grace_seconds: float = 60.0, **ingest: Any
) -> Assignment:
    return Assignment(
        run_id="run-1",
        slot=0,
        generation=1,
        source=Source(kind=SourceKind.MANIFEST, job="job-1"),
        pipeline="stub",
        model_version="1",
        cap_bytes=cap_bytes,
        grace_seconds=grace_seconds,
        suspects=suspects,
        ingest=INGEST.model_copy(update=ingest),
    )


def settings(directory: Path, **changes: Any) -> EngineSettings:
    base = EngineSettings(
        staging_dir=directory / "staging",
        termination_log=directory / "termination-log",
        metrics_port=None,
        poll_seconds=0.1,
    )
    return replace(base, **changes)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Coarse noise: every file format has something to do, and files stay small enough to make many."""
    small = np.random.default_rng(seed).integers(0, 255, (-(-height // 4), -(-width // 4), 3), dtype=np.uint8)
    return Image.fromarray(np.kron(small, np.ones((4, 4, 1), np.uint8))[:height, :width])


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(width: int = 320, height: int = 240, seed: int = 0, **options: Any) -> bytes:
    return encoded(noise(width, height, seed), "JPEG", **options)


@dataclass
class BedJob:
    """Hands out `tasks`, acks what it takes, and is complete when all are answered or were handed out in vain."""

    tasks: list[Task]
    lease_seconds: float = 300.0
    #: Acks follow in another thread after this time, as a real outbox does it.
    ack_seconds: float = 0.0
    answers: list[Answer] = field(default_factory=list)
    state: JobState = JobState.OPEN
    before_lease: Callable[[], None] = lambda: None
    before_answer: Callable[[], None] = lambda: None
    #: One moment for each task handed out.
    leased_at: list[float] = field(default_factory=list)
    lease_sizes: list[int] = field(default_factory=list)
    expected: int | None = None
    closed: bool = False

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._unacked = 0
        self.total = len(self.tasks)

    def prove(self) -> None: ...

    def lease(self, at_most: int) -> Sequence[Task]:
        self.before_lease()
        with self._lock:
            if self.state is not JobState.OPEN:
                return ()
            now = time.monotonic()
            taken = [
                replace(task, leased_at=now, expires_at=min(task.expires_at, now + self.lease_seconds))
                for task in self.tasks[:at_most]
            ]
            del self.tasks[:at_most]
            self.leased_at += [now] * len(taken)
            self.lease_sizes.append(at_most)
            return taken

    def progress(self) -> JobProgress:
        with self._lock:
            done = len(self.answers)
            complete = self.state is JobState.OPEN and done >= (self.total if self.expected is None else self.expected)
            return JobProgress(JobState.COMPLETE if complete else self.state, done=done, total=self.total)

    def answer(self, answers: Sequence[Answer], on_acked: Callable[[Answer], None]) -> None:
        self.before_answer()
        with self._lock:
            self._unacked += len(answers)
        if self.ack_seconds:
            threading.Timer(self.ack_seconds, self._ack, (list(answers), on_acked)).start()
        else:
            self._ack(list(answers), on_acked)

    def _ack(self, answers: list[Answer], on_acked: Callable[[Answer], None]) -> None:
        for answer in answers:
            with self._lock:
                self.answers.append(answer)
                self._unacked -= 1
            on_acked(answer)

    def outstanding(self) -> int:
        return self._unacked

    def flush(self, timeout_seconds: float) -> bool:
        deadline = time.monotonic() + timeout_seconds
        while self._unacked and time.monotonic() < deadline:
            time.sleep(0.01)
        return not self._unacked

    def close(self) -> None:
        self.closed = True

    def outcome(self, image_id: str) -> Prediction | Failure:
        (found,) = [answer.outcome for answer in self.answers if answer.task.image_id == image_id]
        return found

    def reason(self, image_id: str) -> str:
        outcome = self.outcome(image_id)
        assert isinstance(outcome, Failure), f"{image_id} did not fail"
        return outcome.reason


@dataclass
class BedFetcher:
    """Images by address, out of memory into the given file."""

    images: dict[str, bytes]
    before_fetch: Callable[[str], None] = lambda url: None
    fetched: list[str] = field(default_factory=list)

    def fetch(self, url: str, into: BinaryIO, at_most_bytes: int) -> int:
        self.before_fetch(url)
        self.fetched.append(url)
        body = self.images.get(url)
        if body is None:
            raise RejectItem(url, "404 Not Found")
        if len(body) > at_most_bytes:
            raise RejectItem(url, f"larger than {at_most_bytes} bytes")
        for start in range(0, len(body), 65536):
            into.write(body[start : start + 65536])
        return len(body)


@dataclass
class BedPredictor:
    """Finds nothing, after `seconds`; what it saw is recorded."""

    seconds: float = 0.0
    workspace: int = 0
    on_predict: Callable[[Sequence[DecodedImage]], None] = lambda images: None
    pipeline: str = "stub"
    model_version: str = "1"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    batches: list[list[str]] = field(default_factory=list)
    seen: dict[str, tuple[int, ...]] = field(default_factory=dict)
    #: One moment for each image done with.
    predicted_at: list[float] = field(default_factory=list)

    def workspace_bytes(self, width: int, height: int) -> int:
        return self.workspace

    def predict(self, images: Sequence[DecodedImage]) -> list[Prediction]:
        self.batches.append([image.task.image_id for image in images])
        self.seen |= {image.task.image_id: tuple(image.pixels.shape) for image in images}
        self.on_predict(images)
        time.sleep(self.seconds)
        self.predicted_at += [time.monotonic()] * len(images)
        return [Prediction(()) for _ in images]


def most_at_work(job: BedJob, predictor: BedPredictor) -> int:
    """The most images that were leased and not yet predicted; an answer on its way is no more work."""
    return max(
        number - sum(done <= leased for done in predictor.predicted_at)
        for number, leased in enumerate(sorted(job.leased_at), start=1)
    )


def url_of(image_id: str) -> str:
    return f"https://images.test/{image_id}?X-Signature=secret-{image_id}"


def tasks_of(image_ids: Sequence[str], **facts: Any) -> list[Task]:
    return [Task(image_id=image_id, url=url_of(image_id), **facts) for image_id in image_ids]


def fetcher_of(images: dict[str, bytes]) -> BedFetcher:
    return BedFetcher({url_of(image_id): body for image_id, body in images.items()})
