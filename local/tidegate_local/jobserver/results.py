"""What happens to a posted result: queued at once, saved later, acked last.

A 200 to the poster means queued. Saving can fail (an unregistered algorithm, no detector, empty scores); the result is
then not acked, so that its task is delivered once more and then lost. Counters move once an image, however often it is
answered; detections are kept once per exact box.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from typing import Any, Final

from tidegate_local.jobserver.database import Database, Row
from tidegate_local.jobserver.faults import Faults, Kind
from tidegate_local.jobserver.leases import LeaseQueue
from tidegate_local.jobserver.lifecycle import Lifecycle
from tidegate_local.jobserver.payloads import Detection, Failure, Success, TaskResult
from tidegate_local.jobserver.registry import DETECTOR_TYPES, Registry

#: Marks an image that was processed and holds nothing, so that later jobs skip it.
NOTHING_FOUND: Final = "null"
#: Results saved in one transaction: large enough to be quick, small enough not to hold up requests.
SAVE_BATCH: Final = 50


class CannotSave(Exception):
    """The result stays unacked; the message goes into the job's log."""


@dataclass(frozen=True, slots=True)
class Saved:
    detections: int
    classifications: int


class Results:
    """The task queue of results and the worker behind it; callers hold the transaction."""

    def __init__(
        self, db: Database, leases: LeaseQueue, lifecycle: Lifecycle, registry: Registry, faults: Faults
    ) -> None:
        self._db = db
        self._leases = leases
        self._lifecycle = lifecycle
        self._registry = registry
        self._faults = faults

    def queue(self, job: Row, results: list[TaskResult]) -> list[dict[str, str]]:
        """Put the results into the task queue; returns what the poster is told of each."""
        now = time.time()
        told: list[dict[str, str]] = []
        rows: list[tuple[Any, ...]] = []
        for item in results:
            task_id = str(uuid.uuid4())
            image_ids = _image_ids(item.result)
            rows.append(
                (
                    job["id"],
                    image_ids[0] if image_ids else None,
                    item.reply_subject,
                    "error" if isinstance(item.result, Failure) else "success",
                    task_id,
                    now,
                    now + job["save_delay_seconds"],
                    item.result.json(),
                )
            )
            told.append({"reply_subject": item.reply_subject, "status": "queued", "task_id": task_id})
        self._db.execute_many(
            "INSERT INTO answers (job_id, image_id, reply_subject, kind, task_id, received_at, due_at, payload) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )
        return told

    def process_due(self) -> int:
        """Process the results whose time has come, a batch at most; returns how many."""
        due = self._db.all(
            "SELECT * FROM answers WHERE outcome IS NULL AND due_at <= ? ORDER BY due_at, id LIMIT ?",
            time.time(), SAVE_BATCH,
        )  # fmt: skip
        for answer in due:
            outcome, reason = self._process(answer)
            self._db.execute(
                "UPDATE answers SET outcome = ?, reason = ?, processed_at = ?, payload = NULL WHERE id = ?",
                outcome, reason, time.time(), answer["id"],
            )  # fmt: skip
        return len(due)

    def _process(self, answer: Row) -> tuple[str, str]:
        job = self._db.one("SELECT * FROM jobs WHERE id = ?", answer["job_id"])
        if job is None or not job["tracked"]:
            # The job has ended or was cancelled: acked and thrown away.
            self._leases.ack(answer["reply_subject"])
            return "discarded", "the job had ended"
        job_id = job["id"]
        payload = json.loads(answer["payload"])
        result = Failure(**payload) if answer["kind"] == "error" else Success(**payload)
        image_ids = [int(text) for text in _image_ids(result) if text.isascii() and text.isdigit()]
        for image_id in image_ids:
            self._leave(job_id, image_id, "process")
            if isinstance(result, Failure):
                self._mark_failed(job_id, image_id)
        if isinstance(result, Success):
            # Asked outside the savepoint: a fault that fired stays fired when the save is rolled back.
            broken = any(self._faults.fire(Kind.SAVE_FAILURE, job_id=job_id, image_id=image) for image in image_ids)
            try:
                with self._db.transaction():
                    saved = self._save(job, result, image_ids, broken=broken)
            except CannotSave as problem:
                self._lifecycle.log(job_id, "ERROR", f"Failed to save results: {problem}")
                self._lifecycle.advance(job_id)
                return "save_failed", str(problem)
            self._db.execute(
                "UPDATE jobs SET detections = detections + ?, classifications = classifications + ? WHERE id = ?",
                saved.detections, saved.classifications, job_id,
            )  # fmt: skip
        moved = [self._leave(job_id, image_id, "results") for image_id in image_ids]
        self._lifecycle.advance(job_id)
        self._leases.ack(answer["reply_subject"])
        if isinstance(result, Failure):
            return "error", result.error
        return ("saved", "") if any(moved) else ("repeated", "no image was still pending")

    def _leave(self, job_id: int, image_id: int, stage: str) -> bool:
        """Take the image out of the stage's pending set; True where it was in it."""
        moved = self._db.execute(
            f"UPDATE job_images SET in_{stage} = 0 WHERE job_id = ? AND image_id = ? AND in_{stage}",  # noqa: S608
            job_id, image_id,
        ).rowcount  # fmt: skip
        if moved:
            self._db.execute(f"UPDATE jobs SET {stage}_left = {stage}_left - 1 WHERE id = ?", job_id)  # noqa: S608
        return bool(moved)

    def _mark_failed(self, job_id: int, image_id: int) -> None:
        """Failed stays counted, even when a success follows."""
        if self._db.execute(
            "UPDATE job_images SET failed = 1 WHERE job_id = ? AND image_id = ? AND NOT failed", job_id, image_id
        ).rowcount:
            self._db.execute("UPDATE jobs SET failed = failed + 1 WHERE id = ?", job_id)

    def _save(self, job: Row, result: Success, image_ids: list[int], *, broken: bool) -> Saved:
        if broken:
            raise CannotSave("duplicate key value violates unique constraint (a fault that was switched on)")
        pipeline_id = self._registry.pipeline_or_placeholder(result.pipeline)
        algorithms = self._registry.algorithms(pipeline_id)
        detectors = [key for key, task_type in algorithms.items() if task_type in DETECTOR_TYPES]
        if len(detectors) != 1:
            raise CannotSave(f"pipeline {result.pipeline} has {len(detectors)} detectors, not exactly one")
        detections = classifications = 0
        for detection in result.detections:
            detection_id, is_new = self._save_detection(job, pipeline_id, algorithms, detection)
            detections += is_new
            for item in detection.classifications:
                if item.algorithm.key not in algorithms:
                    raise CannotSave(f"algorithm {item.algorithm.key} is not registered on {result.pipeline}")
                if not item.scores:
                    raise CannotSave("attempt to get argmax of an empty sequence")
                classifications += self._db.execute(
                    "INSERT OR IGNORE INTO classifications (detection_id, taxon, algorithm_key, score) "
                    "VALUES (?, ?, ?, ?)",
                    detection_id, self._registry.label(item.algorithm.key, item.scores) or item.classification,
                    item.algorithm.key, max(item.scores),
                ).rowcount  # fmt: skip
        for image_id in image_ids:
            # The marker is the last write, and only for images that hold nothing.
            self._db.execute(
                "INSERT INTO detections (image_id, bbox, pipeline_id, job_id, algorithm_key) SELECT ?, ?, ?, ?, ? "
                "WHERE NOT EXISTS (SELECT 1 FROM detections WHERE image_id = ?) AND EXISTS "
                "(SELECT 1 FROM images WHERE id = ?)",
                image_id, NOTHING_FOUND, pipeline_id, job["id"], detectors[0], image_id, image_id,
            )  # fmt: skip
        return Saved(detections, classifications)

    def _save_detection(
        self, job: Row, pipeline_id: int, algorithms: dict[str, str | None], detection: Detection
    ) -> tuple[int, bool]:
        if detection.algorithm.key not in algorithms:
            raise CannotSave(f"algorithm {detection.algorithm.key} is not registered on the result's pipeline")
        image_id = int(detection.source_image_id) if detection.source_image_id.isdigit() else None
        if image_id is None or self._db.one("SELECT 1 FROM images WHERE id = ?", image_id) is None:
            raise CannotSave(f"source image {detection.source_image_id} does not exist")
        box = detection.bbox
        text = NOTHING_FOUND if box is None else json.dumps([box.x1, box.y1, box.x2, box.y2])
        inserted = self._db.execute(
            "INSERT OR IGNORE INTO detections (image_id, bbox, pipeline_id, job_id, algorithm_key) "
            "VALUES (?, ?, ?, ?, ?)",
            image_id, text, pipeline_id, job["id"], detection.algorithm.key,
        ).rowcount  # fmt: skip
        row_id = self._db.scalar("SELECT id FROM detections WHERE image_id = ? AND bbox = ?", image_id, text)
        return int(row_id), bool(inserted)


def _image_ids(result: Success | Failure) -> list[str]:
    """The images that a result moves: progress is driven by these ids, not by the reply subject."""
    if isinstance(result, Failure):
        return [] if result.image_id is None else [result.image_id]
    return [image.id for image in result.source_images]
