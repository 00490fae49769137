"""An answer as the JSON that Antenna saves, checked first: the server takes almost any nonsense in silence.

Two kinds of wrong answers. A number that is none, or a box outside its image, is this image's own fate, and becomes an
error result. A foreign label, a vector of the wrong length or an unknown algorithm means that worker and catalogue do
not fit together: every other answer would be wrong too, so it stops the worker.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

import numpy as np

from tidegate.core.errors import FixConfig
from tidegate_worker.jobs.antenna.pipeline import AntennaAlgorithm, AntennaPipeline
from tidegate_worker.jobs.antenna.scores import score_text
from tidegate_worker.jobs.soundness import without_flaw
from tidegate_worker.ports import Answer, Classification, Detection, Failure
from tidegate_worker.redact import redact

_REASON_CHARACTERS: Final = 500


def checked(answer: Answer, pipeline: AntennaPipeline) -> Answer:
    """`answer` itself, or a Failure in its place where its numbers cannot be saved; FixConfig beyond that."""
    if isinstance(answer.outcome, Failure):
        return answer
    for detection in answer.outcome.detections:
        _check_contract(detection, pipeline)
    return without_flaw(answer)


def result_chunks(answer: Answer, pipeline: AntennaPipeline, decimals: int) -> Iterator[bytes]:
    """The `result` of a checked answer, one score vector at a time."""
    task, outcome = answer.task, answer.outcome
    if isinstance(outcome, Failure):
        yield _json({"error": redact(outcome.reason)[:_REASON_CHARACTERS], "image_id": task.image_id})
        return
    # The server's clock has no zone; UTC is what its containers and ours run on.
    now = datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds")
    image = [{"id": task.image_id, "url": _without_query(task.url)}]
    head = {"pipeline": pipeline.slug, "total_time": round(outcome.infer_seconds, 4), "source_images": image}
    yield _json(head)[:-1] + b',"detections":['
    for number, detection in enumerate(outcome.detections):
        x1, y1, x2, y2 = detection.box
        shown = {
            "source_image_id": task.image_id,
            "bbox": {"x1": x1, "y1": y1, "x2": x2, "y2": y2},
            "algorithm": _algorithm(pipeline, detection.algorithm),
            "timestamp": now,
        }
        yield (b"," if number else b"") + _json(shown)[:-1] + b',"classifications":['
        for place, classification in enumerate(detection.classifications):
            named = {
                "classification": classification.label,
                "algorithm": _algorithm(pipeline, classification.algorithm),
                "terminal": classification.terminal,
                "timestamp": now,
            }
            scores = score_text(classification.scores, _top(classification), decimals)
            yield (b"," if place else b"") + _json(named)[:-1] + b',"scores":' + scores + b"}"
        yield b"]}"
    yield b"]}"


def strongest(answer: Answer, at_most: int) -> Answer:
    """`answer` with its `at_most` best boxes: for the image whose full answer no request could carry."""
    if isinstance(answer.outcome, Failure):
        return answer
    best = sorted(answer.outcome.detections, key=lambda detection: detection.score, reverse=True)[:at_most]
    return replace(answer, outcome=replace(answer.outcome, detections=tuple(best)))


def _check_contract(detection: Detection, pipeline: AntennaPipeline) -> None:
    detector = pipeline.algorithm(detection.algorithm)
    if detector is None or not detector.detects:
        raise _misfit(pipeline, f"{detection.algorithm!r} detects, but is none of its detectors")
    for classification in detection.classifications:
        classifier = pipeline.algorithm(classification.algorithm)
        if classifier is None or classifier.detects:
            raise _misfit(pipeline, f"{classification.algorithm!r} classifies, but is none of its classifiers")
        _check_scores(classification, classifier, pipeline)


def _check_scores(classification: Classification, classifier: AntennaAlgorithm, pipeline: AntennaPipeline) -> None:
    shape = classification.scores.shape
    if shape != (len(classifier.labels),):
        raise _misfit(pipeline, f"{classifier.key!r} gives scores of shape {shape} for {len(classifier.labels)} labels")
    if not np.isfinite(classification.scores).all():
        return
    best = classifier.labels[_top(classification)]
    if best != classification.label:
        raise _misfit(
            pipeline, f"{classifier.key!r} says {classification.label!r}, but its highest score is of {best!r}"
        )


def _misfit(pipeline: AntennaPipeline, what: str) -> FixConfig:
    return FixConfig(f"the models do not fit the catalogue entry {pipeline.slug!r}: {what}; mend the entry")


def _top(classification: Classification) -> int:
    """The index of the label: the first highest score, or among equals the one that the label names."""
    first = int(classification.scores.argmax())
    if classification.labels[first] == classification.label:
        return first
    equal = np.flatnonzero(classification.scores == classification.scores[first]).tolist()
    return next((index for index in equal if classification.labels[index] == classification.label), first)


def _algorithm(pipeline: AntennaPipeline, key: str) -> dict[str, str]:
    algorithm = pipeline.algorithm(key)
    return {"name": algorithm.name if algorithm else key, "key": key}


def _without_query(url: str) -> str:
    """The URL that identifies the image; the server needs no signature back, and it would lie on our disk."""
    try:
        return urlsplit(url)._replace(query="", fragment="").geturl()
    except ValueError:
        return ""


def _json(value: object) -> bytes:
    # Escaped, so that an id with half a surrogate pair goes back as it came.
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
