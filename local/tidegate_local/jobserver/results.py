"""What happens to a posted result: queued at once, saved later, acked last.

A 200 to the poster means queued. Saving can fail (an unregistered algorithm, no detector, empty scores); the result is
then not acked, so that its task is delivered once more and then lost. Counters move once an image, however often it is
answered; detections are kept once per exact box.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from typing import Any, Final

from tidegate_local.jobserver.database import Database, Row
from tidegate_local.jobserver.faults import Faults, Kind
from tidegate_local.jobserver.leases import LeaseQueue
from tidegate_local.jobserver.lifecycle import Lifecycle
from tidegate_local.jobserver.payloads import Failure, Success, TaskResult
from tidegate_local.jobserver.registry import DETECTOR_TYPES, Registry

log = logging.getLogger(__name__)

#: Marks an image that was processed and holds nothing, so that later jobs skip it.
NOTHING_FOUND: Final = "null"
#: Results saved in one transaction: large enough to be quick, small enough not to hold up requests.
SAVE_BATCH: Final = 50


class CannotSave(Exception):
    """The result stays unacked; the message goes into the job's log."""


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
                    json.dumps(_abridged(item.result)),
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
            try:
                with self._db.transaction():
                    outcome, reason = self._process(answer)
            except Exception as error:  # one result that cannot be processed must not hold up all others
                log.exception("result %s of job %s was dropped", answer["id"], answer["job_id"])
                outcome, reason = "save_failed", repr(error)
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
        job_id, result, is_error = job["id"], json.loads(answer["payload"]), answer["kind"] == "error"
        image_ids = [image_id for text in result["images"] if (image_id := _row_id(text)) is not None]
        for image_id in image_ids:
            self._leave(job_id, image_id, "process")
            if is_error:
                self._mark_failed(job_id, image_id)
        if not is_error:
            try:
                self._save(job, result, image_ids)
            except CannotSave as problem:
                self._lifecycle.log(job_id, "ERROR", f"Failed to save results: {problem}")
                self._lifecycle.advance(job_id)
                return "save_failed", str(problem)
        moved = [self._leave(job_id, image_id, "results") for image_id in image_ids]
        self._lifecycle.advance(job_id)
        self._leases.ack(answer["reply_subject"])
        if is_error:
            return "error", result["error"]
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

    def _save(self, job: Row, result: dict[str, Any], image_ids: list[int]) -> None:
        # Asked outside the savepoint: a fault that fired stays fired when the save is rolled back.
        if any(self._faults.fire(Kind.SAVE_FAILURE, job_ids=(job["id"],), image_id=image) for image in image_ids):
            raise CannotSave("duplicate key value violates unique constraint (a fault that was switched on)")
        with self._db.transaction():
            pipeline_id = self._registry.pipeline_or_placeholder(result["pipeline"])
        with self._db.transaction():
            self._save_rows(job, pipeline_id, result, image_ids)

    def _save_rows(self, job: Row, pipeline_id: int, result: dict[str, Any], image_ids: list[int]) -> None:
        algorithms = self._registry.algorithms(pipeline_id)
        detectors = [key for key, task_type in algorithms.items() if task_type in DETECTOR_TYPES]
        if len(detectors) != 1:
            raise CannotSave(f"pipeline {result['pipeline']} has {len(detectors)} detectors, not exactly one")
        detections = classifications = 0
        for detection in result["detections"]:
            used = [detection["algorithm"], *(item["algorithm"] for item in detection["classifications"])]
            if foreign := set(used) - set(algorithms):
                raise CannotSave(f"not registered on pipeline {result['pipeline']}: {', '.join(sorted(foreign))}")
            detection_id, is_new = self._save_detection(job, pipeline_id, detection)
            detections += is_new
            for item in detection["classifications"]:
                classifications += self._save_classification(detection_id, item)
        for image_id in image_ids:
            # The marker is the last write, and only for images that hold nothing.
            self._db.execute(
                "INSERT INTO detections (image_id, bbox, pipeline_id, job_id, algorithm_key) SELECT ?, ?, ?, ?, ? "
                "WHERE NOT EXISTS (SELECT 1 FROM detections WHERE image_id = ?) AND EXISTS "
                "(SELECT 1 FROM images WHERE id = ?)",
                image_id, NOTHING_FOUND, pipeline_id, job["id"], detectors[0], image_id, image_id,
            )  # fmt: skip
        self._db.execute(
            "UPDATE jobs SET detections = detections + ?, classifications = classifications + ? WHERE id = ?",
            detections, classifications, job["id"],
        )  # fmt: skip

    def _save_detection(self, job: Row, pipeline_id: int, detection: dict[str, Any]) -> tuple[int, bool]:
        # The detection's own image counts, even where it is not the result's: Antenna takes it in silence.
        image_id = _row_id(detection["image"])
        if image_id is None or self._db.one("SELECT 1 FROM images WHERE id = ?", image_id) is None:
            raise CannotSave(f"source image {detection['image']} does not exist")
        box = NOTHING_FOUND if detection["bbox"] is None else json.dumps(detection["bbox"])
        inserted = self._db.execute(
            "INSERT OR IGNORE INTO detections (image_id, bbox, pipeline_id, job_id, algorithm_key) "
            "VALUES (?, ?, ?, ?, ?)",
            image_id, box, pipeline_id, job["id"], detection["algorithm"],
        ).rowcount  # fmt: skip
        row_id = self._db.scalar("SELECT id FROM detections WHERE image_id = ? AND bbox = ?", image_id, box)
        return int(row_id), bool(inserted)

    def _save_classification(self, detection_id: int, item: dict[str, Any]) -> int:
        if item["best"] is None:
            raise CannotSave("attempt to get argmax of an empty sequence")
        return self._db.execute(
            "INSERT OR IGNORE INTO classifications (detection_id, taxon, algorithm_key, score) VALUES (?, ?, ?, ?)",
            detection_id, self._registry.label(item["algorithm"], item["best"]) or item["label"],
            item["algorithm"], item["score"],
        ).rowcount  # fmt: skip


def _image_ids(result: Success | Failure) -> list[str]:
    """The images that a result moves: progress is driven by these ids, not by the reply subject."""
    if isinstance(result, Failure):
        return [] if result.image_id is None else [result.image_id]
    return [image.id for image in result.source_images]


def _row_id(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def _abridged(result: Success | Failure) -> dict[str, Any]:
    """What saving needs of a result: of every score vector its maximum and where it stands."""
    if isinstance(result, Failure):
        return {"images": _image_ids(result), "error": result.error}
    return {
        "images": _image_ids(result),
        "pipeline": result.pipeline,
        "detections": [
            {
                "image": detection.source_image_id,
                "bbox": None if detection.bbox is None else list(detection.bbox.dict().values()),
                "algorithm": detection.algorithm.key,
                "classifications": [
                    {
                        "label": item.classification,
                        "algorithm": item.algorithm.key,
                        "score": max(item.scores, default=None),
                        "best": item.scores.index(max(item.scores)) if item.scores else None,
                    }
                    for item in detection.classifications
                ],
            }
            for detection in result.detections
        ],
    }
