"""Tasks and answers as the pipeline would bring them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tidegate_worker.jobs.antenna.pipeline import AntennaAlgorithm, AntennaPipeline
from tidegate_worker.ports import Answer, Classification, Detection, Failure, Prediction, Task

LABELS = ("moth", "beetle", "Zygaena filipendulae")
DETECTOR = AntennaAlgorithm(key="boxes", name="Boxes", task_type="localization")
CLASSIFIER = AntennaAlgorithm(key="species", name="Species", task_type="classification", labels=LABELS)
PIPELINE = AntennaPipeline(slug="moths", name="Moths", algorithms=(DETECTOR, CLASSIFIER))


def classification(*scores: float, label: str = "") -> Classification:
    vector = np.array(scores or (0.7, 0.2, 0.1), dtype=np.float32)
    return Classification(CLASSIFIER.key, label or LABELS[int(vector.argmax())], vector, LABELS, terminal=True)


def detection(*box: int, classifications: tuple[Classification, ...] | None = None) -> Detection:
    found = (classification(),) if classifications is None else classifications
    return Detection(box or (1, 2, 30, 40), 0.9, DETECTOR.key, found)  # type: ignore[arg-type]


def answered(task: Task, *detections: Detection) -> Answer:
    return Answer(task, Prediction(detections or (detection(),), infer_seconds=0.25, raw_size=(640, 480)))


def failed(task: Task, reason: str = "not an image") -> Answer:
    return Answer(task, Failure(reason))


def large_pipeline(classes: int) -> AntennaPipeline:
    labels = tuple(f"species {number}" for number in range(classes))
    return replace(PIPELINE, algorithms=(DETECTOR, replace(CLASSIFIER, labels=labels)))
