"""What really happened to every image of a job: how often it was handed out, answered, saved, lost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from tidegate_local.jobserver.database import Database, Row


def job_truth(db: Database, job: Row, downloads: Mapping[int, int]) -> dict[str, Any]:
    """The job's ledger with a row an image and totals over them."""
    job_id = job["id"]
    deliveries = _counts(
        db.all("SELECT image_id, count(*) AS n FROM deliveries WHERE job_id = ? GROUP BY image_id", job_id)
    )
    dead = {
        row["image_id"]
        for row in db.all(
            "SELECT image_id FROM messages WHERE job_id = ? AND acked = 0 AND delivered >= ? AND leased_until <= ?",
            job_id, job["max_deliver"], time.time(),
        )
    }  # fmt: skip
    outcomes: dict[str, Counter[str]] = {}
    unknown_answers = 0
    for row in db.all(
        "SELECT image_id, kind, coalesce(outcome, 'queued') AS outcome, count(*) AS n FROM answers "
        "WHERE job_id = ? GROUP BY 1, 2, 3",
        job_id,
    ):
        if row["image_id"] is None:
            unknown_answers += row["n"]
            continue
        counter = outcomes.setdefault(row["image_id"], Counter())
        counter[row["kind"]] += row["n"]
        counter[f"outcome:{row['outcome']}"] += row["n"]
    boxes = _counts(
        db.all(
            "SELECT d.image_id, count(*) AS n FROM detections d JOIN job_images ji ON ji.image_id = d.image_id "
            "WHERE ji.job_id = ? AND d.bbox != 'null' GROUP BY d.image_id",
            job_id,
        )
    )
    images = [
        _image(row, deliveries, dead, outcomes.get(str(row["image_id"]), Counter()), boxes, downloads)
        for row in db.all("SELECT * FROM job_images WHERE job_id = ? ORDER BY position", job_id)
    ]
    totals = {
        "images": len(images),
        "answered": sum(image["answers"] > 0 for image in images),
        "answered_once": sum(image["answers"] == 1 for image in images),
        "answered_more_than_once": sum(image["answers"] > 1 for image in images),
        "saved": sum(image["saved"] for image in images),
        "failed": sum(image["failed"] for image in images),
        "lost": sum(image["lost"] for image in images),
        "redelivered": sum(image["deliveries"] > 1 for image in images),
        "downloaded_more_than_once": sum(image["downloads"] > 1 for image in images),
        "detections": sum(image["detections"] for image in images),
        "answers_without_image": unknown_answers,
    }
    return {"job_id": job_id, "status": job["status"], "totals": totals, "images": images}


def _counts(rows: list[Row]) -> dict[int, int]:
    return {row["image_id"]: row["n"] for row in rows}


def _image(
    row: Row,
    deliveries: Mapping[int, int],
    dead: set[int],
    outcomes: Counter[str],
    boxes: Mapping[int, int],
    downloads: Mapping[int, int],
) -> dict[str, Any]:
    image_id = row["image_id"]
    return {
        "image_id": str(image_id),
        "deliveries": deliveries.get(image_id, 0),
        "downloads": downloads.get(image_id, 0),
        "answers": outcomes["success"] + outcomes["error"],
        "successes": outcomes["success"],
        "errors": outcomes["error"],
        "queued": outcomes["outcome:queued"],
        "saved": outcomes["outcome:saved"] > 0,
        "save_failures": outcomes["outcome:save_failed"],
        "repeated": outcomes["outcome:repeated"],
        "discarded": outcomes["outcome:discarded"],
        "failed": bool(row["failed"]),
        # Dead with no answer that could still count, or given up by the reaper.
        "lost": bool(row["lost"]) or (image_id in dead and bool(row["in_results"])),
        "detections": boxes.get(image_id, 0),
    }
