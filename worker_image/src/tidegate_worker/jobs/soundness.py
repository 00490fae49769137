"""Whether a prediction can stand as an answer: numbers that are numbers, boxes that lie in their image; pure."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from tidegate_worker.ports import Answer, Detection, Failure, Prediction


def without_flaw(answer: Answer) -> Answer:
    """`answer` itself, or a Failure in its place: the same weights would say the same again."""
    if isinstance(answer.outcome, Failure):
        return answer
    flaws = (_flaw(detection, answer.outcome) for detection in answer.outcome.detections)
    flaw = next((each for each in flaws if each is not None), None)
    if flaw is None and not math.isfinite(answer.outcome.infer_seconds):
        flaw = "the inference time is not a number"
    return answer if flaw is None else replace(answer, outcome=Failure(f"the model's answer is not valid: {flaw}"))


def _flaw(detection: Detection, prediction: Prediction) -> str | None:
    x1, y1, x2, y2 = detection.box
    width, height = prediction.raw_size or (x2, y2)
    if not (0 <= x1 <= x2 <= width and 0 <= y1 <= y2 <= height):
        return f"box {detection.box} does not lie in an image of {width} x {height}"
    vectors = (classification.scores for classification in detection.classifications)
    if not (math.isfinite(detection.score) and all(np.isfinite(vector).all() for vector in vectors)):
        return "a score is not a number"
    return None
