"""Results as JSON, and what is not let through."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from tests.worker.jobs.answers import (
    CLASSIFIER,
    DETECTOR,
    LABELS,
    PIPELINE,
    answered,
    classification,
    detection,
    failed,
)

from tidegate.core.errors import FixConfig
from tidegate_worker.jobs.antenna.pipeline import AntennaPipeline
from tidegate_worker.jobs.antenna.result import checked, result_chunks, strongest
from tidegate_worker.ports import Answer, Failure, Prediction, Task

TASK = Task("17", "https://host/a.jpg?X-Amz-Signature=secret", "$JS.ACK.s.c.1.2.3.4.5")


def shown(answer: Answer) -> dict[str, Any]:
    return dict(json.loads(b"".join(result_chunks(answer, PIPELINE, 5))))


def test_a_result_has_the_fields_that_antenna_requires() -> None:
    result = shown(
        answered(TASK, detection(1, 2, 3, 4, classifications=(classification(), classification(0.1, 0.9, 0))))
    )
    assert result["pipeline"] == "moths"
    assert result["total_time"] == 0.25
    assert result["source_images"] == [{"id": "17", "url": "https://host/a.jpg"}]
    found = result["detections"][0]
    assert found["source_image_id"] == "17"
    assert found["bbox"] == {"x1": 1, "y1": 2, "x2": 3, "y2": 4}
    assert found["algorithm"] == {"name": "Boxes", "key": "boxes"}
    assert datetime.fromisoformat(found["timestamp"]).tzinfo is None
    first, second = found["classifications"]
    assert first["scores"] == [0.7, 0.2, 0.1]
    assert (first["classification"], second["classification"]) == ("moth", "beetle")
    assert first["algorithm"] == {"name": "Species", "key": "species"}
    assert first["terminal"] is True
    assert "logits" not in first


def test_an_image_without_boxes_has_an_empty_list() -> None:
    empty = Answer(TASK, Prediction(()))
    assert shown(empty)["detections"] == []
    assert shown(empty)["source_images"][0]["id"] == "17"


def test_an_error_names_its_image_and_hides_what_urls_carry() -> None:
    result = shown(failed(TASK, "GET https://host/a.jpg?X-Amz-Signature=secret failed"))
    assert result == {"error": "GET https://host/a.jpg?... failed", "image_id": "17"}


@pytest.mark.parametrize("image_id", ["../../etc/passwd", "a\ud800b", "日本", 'q"\\', "\x00"])
def test_an_id_goes_back_as_it_came(image_id: str) -> None:
    task = json.loads(json.dumps({"id": image_id}))
    answer = answered(Task(task["id"], ""))
    assert shown(answer)["source_images"][0]["id"] == image_id


@pytest.mark.parametrize("box", [(5, 0, 4, 9), (0, 9, 9, 5), (-1, 0, 5, 5), (0, 0, 641, 5), (0, 0, 5, 481)])
def test_a_box_outside_its_image_makes_an_error_of_that_image(box: tuple[int, int, int, int]) -> None:
    outcome = checked(answered(TASK, detection(), detection(*box)), PIPELINE).outcome
    assert isinstance(outcome, Failure)
    assert "box" in outcome.reason


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_score_that_is_no_number_makes_an_error_of_that_image(bad: float) -> None:
    flawed = detection(classifications=(classification(0.5, bad, 0.1),))
    assert isinstance(checked(answered(TASK, flawed), PIPELINE).outcome, Failure)


@pytest.mark.parametrize(
    "wrong",
    [
        replace(detection(), algorithm="unknown"),
        replace(detection(), algorithm=CLASSIFIER.key),
        detection(classifications=(replace(classification(), algorithm="unknown"),)),
        detection(classifications=(replace(classification(), label="wasp"),)),
        detection(classifications=(replace(classification(), label="beetle"),)),
        detection(classifications=(replace(classification(), scores=np.array([0.5, 0.5], dtype=np.float32)),)),
    ],
)
def test_an_answer_that_does_not_fit_the_catalogue_stops_the_worker(wrong: Any) -> None:
    with pytest.raises(FixConfig):
        checked(answered(TASK, wrong), PIPELINE)


def test_among_equal_scores_the_label_decides() -> None:
    tied = classification(0.4, 0.4, 0.2, label="beetle")
    result = shown(checked(answered(TASK, detection(classifications=(tied,))), PIPELINE))
    scores = result["detections"][0]["classifications"][0]["scores"]
    assert LABELS[scores.index(max(scores))] == "beetle"


def test_the_strongest_boxes_are_those_with_the_best_scores() -> None:
    boxes = [replace(detection(n, 0, n + 1, 1), score=n / 10) for n in (3, 9, 1)]
    outcome = strongest(answered(TASK, *boxes), 2).outcome
    assert isinstance(outcome, Prediction)
    assert [found.box[0] for found in outcome.detections] == [9, 3]


@pytest.mark.parametrize("algorithms", [(CLASSIFIER,), (DETECTOR, replace(DETECTOR, key="b")), (DETECTOR, DETECTOR),
                                        (DETECTOR, replace(CLASSIFIER, labels=()))])  # fmt: skip
def test_a_pipeline_that_antenna_could_not_save_results_of_is_refused(algorithms: Any) -> None:
    with pytest.raises(FixConfig):
        AntennaPipeline(slug="moths", name="Moths", algorithms=algorithms)
