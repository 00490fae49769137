"""An answer as one row of the output: boxes, labels and the best few classes; pure."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from tidegate_worker.ports import Answer, Classification, Detection, Failure
from tidegate_worker.redact import redact, redact_url


def output_row(
    answer: Answer, row: int, name: str | None, pipeline: str, model_version: str, top_classes: int
) -> bytes:
    """The row as JSON; a failed image has an `error` and no detections."""
    outcome = answer.outcome
    shown: dict[str, Any] = {
        "row": row,
        "id": str(row) if name is None else name,
        "uri": redact_url(answer.task.url),
        "error": None,
        "quarantined": False,
        "pipeline": pipeline,
        "model_version": model_version,
        "infer_seconds": 0.0,
        "detections": [],
    }
    if isinstance(outcome, Failure):
        shown |= {"error": redact(outcome.reason), "quarantined": outcome.quarantined}
    else:
        shown["infer_seconds"] = round(outcome.infer_seconds, 4)
        shown["detections"] = [_detection(detection, top_classes) for detection in outcome.detections]
    return json.dumps(shown, separators=(",", ":"), allow_nan=False).encode()


def _detection(detection: Detection, top_classes: int) -> dict[str, Any]:
    return {
        "box": list(detection.box),
        "score": round(float(detection.score), 5),
        "algorithm": detection.algorithm,
        "classifications": [_classification(each, top_classes) for each in detection.classifications],
    }


def _classification(classification: Classification, top_classes: int) -> dict[str, Any]:
    scores = classification.scores
    best = np.argsort(-scores, kind="stable")[:top_classes].tolist()
    return {
        "algorithm": classification.algorithm,
        "label": classification.label,
        "score": round(float(scores.max(initial=0.0)), 5),
        "terminal": classification.terminal,
        "top": [{"label": classification.labels[at], "score": round(float(scores[at]), 5)} for at in best],
    }
