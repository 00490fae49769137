"""A job from creation to its end: collecting, progress, the 50 per cent rule, cancelling, retrying and the reaper.

Statuses are Antenna's. What a single result does to its images is in `results`; which task is handed out, in `leases`.
Every step that takes time is a due time in the job's row, so that a restarted server goes on where the killed one was.
"""

from __future__ import annotations

import time
from typing import Any, Final

from tidegate_local.jobserver.database import Database, Row
from tidegate_local.jobserver.faults import Faults, Kind
from tidegate_local.jobserver.leases import LeaseQueue

STATUSES: Final = (
    "CREATED", "PENDING", "STARTED", "SUCCESS", "FAILURE", "RETRY", "REVOKED", "RECEIVED", "CANCELING", "UNKNOWN",
)  # fmt: skip
FINAL: Final = frozenset({"SUCCESS", "FAILURE", "REVOKED"})
#: The statuses in which /tasks/ hands out work.
SERVING: Final = frozenset({"STARTED", "RETRY"})
DISPATCH_MODES: Final = ("internal", "sync_api", "async_api")
FAILURE_RATIO: Final = 0.5


class Lifecycle:
    """The state machine of all jobs; callers hold the transaction."""

    def __init__(self, db: Database, leases: LeaseQueue, faults: Faults, collect_seconds: float) -> None:
        self._db = db
        self._leases = leases
        self._faults = faults
        self._collect_seconds = collect_seconds

    def log(self, job_id: int, level: str, message: str) -> None:
        self._db.execute(
            "INSERT INTO job_logs (job_id, at, level, message) VALUES (?, ?, ?, ?)", job_id, time.time(), level, message
        )

    def enqueue(self, job_id: int) -> None:
        """Ask for the job to run: PENDING now, STARTED and collected by the coming ticks; progress starts anew."""
        self._db.execute(
            "UPDATE jobs SET status = 'PENDING', step_due_at = ?, updated_at = ?, finished_at = NULL, failed = 0, "
            "collect_status = 'PENDING', collect_progress = 0, process_status = 'PENDING', process_progress = 0, "
            "results_status = 'PENDING', results_progress = 0 WHERE id = ?",
            time.time(), time.time(), job_id,
        )  # fmt: skip

    def cancel(self, job_id: int) -> None:
        """CANCELING at once with the stream gone, REVOKED at the next tick; what is in flight is discarded."""
        self._forget(job_id)
        self._db.execute(
            "UPDATE jobs SET status = 'CANCELING', step_due_at = ?, updated_at = ? WHERE id = ?",
            time.time(), time.time(), job_id,
        )  # fmt: skip

    def step(self) -> int:
        """Take every due step of every job; returns how many were taken."""
        due = self._db.all("SELECT * FROM jobs WHERE step_due_at <= ?", time.time())
        for job in due:
            self._take_step(job)
        return len(due)

    def _take_step(self, job: Row) -> None:
        now, job_id = time.time(), job["id"]
        if job["status"] == "PENDING":
            # STARTED comes before the images are collected and queued: until then /tasks/ answers an empty list.
            self._db.execute(
                "UPDATE jobs SET status = 'STARTED', started_at = ?, updated_at = ?, step_due_at = ?, "
                "collect_status = 'STARTED' WHERE id = ?",
                now, now, now + self._collect_seconds, job_id,
            )  # fmt: skip
        elif job["status"] == "STARTED":
            self._db.execute("UPDATE jobs SET step_due_at = NULL WHERE id = ?", job_id)
            self._collect(job)
        elif job["status"] == "CANCELING":
            self._db.execute(
                "UPDATE jobs SET status = 'REVOKED', finished_at = ?, updated_at = ?, step_due_at = NULL WHERE id = ?",
                now, now, job_id,
            )  # fmt: skip
        else:
            self._db.execute("UPDATE jobs SET step_due_at = NULL WHERE id = ?", job_id)

    def _collect(self, job: Row) -> None:
        """Queue the images that this pipeline has not processed yet, and start counting them."""
        job_id = job["id"]
        images = [
            row["image_id"]
            for row in self._db.all(
                "SELECT image_id FROM job_images ji WHERE job_id = ? AND NOT EXISTS (SELECT 1 FROM detections d "
                "WHERE d.image_id = ji.image_id AND d.pipeline_id = ?) ORDER BY position",
                job_id, job["pipeline_id"],
            )
        ]  # fmt: skip
        self._db.execute(
            "UPDATE job_images SET in_process = 0, in_results = 0, failed = 0, lost = 0 WHERE job_id = ?", job_id
        )
        self._db.execute_many(
            "UPDATE job_images SET in_process = 1, in_results = 1 WHERE job_id = ? AND image_id = ?",
            [(job_id, image_id) for image_id in images],
        )
        self._db.execute(
            "UPDATE jobs SET tracked = 1, total = ?, process_left = ?, results_left = ?, failed = 0, "
            "collect_status = 'SUCCESS', collect_progress = 1, updated_at = ? WHERE id = ?",
            len(images), len(images), len(images), time.time(), job_id,
        )  # fmt: skip
        self.log(job_id, "INFO", f"Queued {len(images)} images")
        if images:
            self._leases.publish(job_id, images, shuffle=bool(job["shuffle"]))
        else:
            self.advance(job_id)

    def advance(self, job_id: int) -> None:
        """Write the progress that the pending sets imply, and end the job where nothing is pending.

        Antenna reads, changes and writes a job's progress without a lock: now and then the last write is a stale one,
        and the job stays STARTED with everything saved. The `hang` fault loses the last write in the same way; any
        result processed later completes the job.
        """
        job = self._db.one("SELECT * FROM jobs WHERE id = ?", job_id)
        if job is None or not job["tracked"]:
            return
        done = not job["process_left"] and not job["results_left"]
        if done and self._faults.fire(Kind.HANG, job_ids=(job_id,)):
            self.log(job_id, "WARNING", "Lost the last update of the progress")
            return
        failing = job["total"] > 0 and job["failed"] / job["total"] > FAILURE_RATIO
        self._write_stage(job, "process", job["process_left"], failing=False)
        self._write_stage(job, "results", job["results_left"], failing=failing)
        self._db.execute("UPDATE jobs SET updated_at = ? WHERE id = ?", time.time(), job_id)
        if done:
            self._finish(job_id, "FAILURE" if failing else "SUCCESS")

    def _write_stage(self, job: Row, stage: str, left: int, *, failing: bool) -> None:
        progress = (job["total"] - left) / job["total"] if job["total"] else 1.0
        # A failing job's results stage is final at once: the job leaves `incomplete_only` while it still serves tasks.
        status = "FAILURE" if failing else "SUCCESS" if progress >= 1 else "STARTED"
        self._db.execute(
            f"UPDATE jobs SET {stage}_progress = ?, {stage}_status = ? WHERE id = ?",  # noqa: S608
            progress, status, job["id"],
        )  # fmt: skip

    def _finish(self, job_id: int, status: str) -> None:
        self._forget(job_id)
        now = time.time()
        self._db.execute(
            "UPDATE jobs SET status = ?, finished_at = ?, updated_at = ? WHERE id = ?", status, now, now, job_id
        )
        self.log(job_id, "INFO", f"Job ended as {status}")

    def _forget(self, job_id: int) -> None:
        """Drop the stream and the pending sets, as the end of a job does."""
        self._leases.delete_stream(job_id)
        self._db.execute("UPDATE jobs SET tracked = 0 WHERE id = ?", job_id)

    def reap(self, silent_seconds: float) -> list[int]:
        """End every running job without news for `silent_seconds`: what is pending is lost, the 50 % rule decides.

        Only processed results are news: leasing is not. A job that counts nothing yet is revoked.
        """
        silent = self._db.all(
            "SELECT id, tracked FROM jobs WHERE dispatch_mode = 'async_api' AND updated_at < ? "
            "AND status IN ('PENDING', 'STARTED', 'RETRY', 'RECEIVED', 'CANCELING')",
            time.time() - silent_seconds,
        )
        for job in silent:
            if job["tracked"]:
                self._lose_pending(job["id"])
            else:
                self._finish(job["id"], "REVOKED")
        return [job["id"] for job in silent]

    def _lose_pending(self, job_id: int) -> None:
        lost = self._db.execute(
            "UPDATE job_images SET lost = 1, failed = 1, in_process = 0, in_results = 0 "
            "WHERE job_id = ? AND (in_process OR in_results)",
            job_id,
        ).rowcount
        self._db.execute(
            "UPDATE jobs SET process_left = 0, results_left = 0, failed = "
            "(SELECT count(*) FROM job_images WHERE job_id = ? AND failed) WHERE id = ?",
            job_id, job_id,
        )  # fmt: skip
        self.log(job_id, "WARNING", f"No result for too long: marked {lost} images as lost")
        self.advance(job_id)


def stages(job: Row) -> list[dict[str, Any]]:
    """The job's progress as Antenna shows it."""

    def stage(key: str, name: str, params: dict[str, int]) -> dict[str, Any]:
        return {
            "key": key,
            "name": name,
            "status": job[f"{key}_status"],
            "progress": job[f"{key}_progress"],
            "params": [{"name": title.capitalize(), "key": title, "value": value} for title, value in params.items()],
        }

    processed = job["total"] - job["process_left"]
    return [
        stage("collect", "Collect", {"total_images": job["total"]}),
        stage(
            "process", "Process", {"processed": processed, "remaining": job["process_left"], "failed": job["failed"]}
        ),
        stage(
            "results",
            "Results",
            {
                "captures": job["total"] - job["results_left"],
                "detections": job["detections"],
                "classifications": job["classifications"],
                "failed": job["failed"],
            },
        ),
    ]
