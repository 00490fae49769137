"""The bodies that workers send, judged as Antenna judges them: by the first version of pydantic, left to right.

Antenna runs pydantic 1, and its coercions (an int image id becomes a string), its union order (a malformed success that
has an "error" key becomes an error) and the texts of its messages are part of the contract. pydantic 2 ships the first
version as `pydantic.v1`; a re-statement in the second would only resemble it. Beyond that nothing is checked here: what
Antenna accepts in silence (inverted boxes, foreign labels) is accepted.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from typing import Any

from pydantic.v1 import BaseModel, Field, ValidationError, parse_obj_as


class FloatList(list[float]):
    """A list of floats that is looked at element by element only where it holds something else.

    A result may carry 500 boxes x 29,176 scores; one validator call a score would take a minute.
    """

    @classmethod
    def __get_validators__(cls) -> Iterator[Callable[[Any], list[float]]]:
        yield cls._validate

    @classmethod
    def _validate(cls, value: Any) -> list[float]:
        if isinstance(value, list) and set(map(type, value)) <= {float, int}:
            return value
        return parse_obj_as(list[float], value)


class BoundingBox(BaseModel):
    x1: float
    y1: float
    x2: float
    y2: float


class AlgorithmReference(BaseModel):
    name: str
    key: str


class Classification(BaseModel):
    classification: str
    labels: list[str] | None = None
    scores: FloatList = FloatList()
    logits: FloatList | None = None
    inference_time: float | None = None
    algorithm: AlgorithmReference
    terminal: bool = True
    timestamp: datetime.datetime


class Detection(BaseModel):
    source_image_id: str
    bbox: BoundingBox | None = None
    inference_time: float | None = None
    algorithm: AlgorithmReference
    timestamp: datetime.datetime
    crop_image_url: str | None = None
    classifications: list[Classification] = []


class SourceImage(BaseModel):
    id: str
    url: str


class Success(BaseModel):
    pipeline: str
    algorithms: dict[str, Any] = {}
    total_time: float
    source_images: list[SourceImage]
    detections: list[Detection]
    errors: list[Any] | str | None = None


class Failure(BaseModel):
    """A terminal error for one image."""

    error: str
    image_id: str | None = None


class TaskResult(BaseModel):
    reply_subject: str
    result: Success | Failure


class TaskResults(BaseModel):
    __root__: list[TaskResult]


class CategoryMap(BaseModel):
    data: list[dict[str, Any]] = []
    labels: list[str] = []
    version: str | None = None
    description: str | None = None
    uri: str | None = None


class Algorithm(BaseModel):
    name: str
    key: str
    description: str | None = None
    task_type: str | None = None
    version: int = 1
    version_name: str | None = None
    uri: str | None = None
    category_map: CategoryMap | None = None


class StageParam(BaseModel):
    name: str
    key: str
    category: str = "default"


class Stage(BaseModel):
    key: str
    name: str
    params: list[StageParam] = []
    description: str | None = None


class Pipeline(BaseModel):
    name: str
    slug: str
    version: int
    description: str | None = None
    algorithms: list[Algorithm] = Field(default_factory=list)
    stages: list[Stage] = Field(default_factory=list)


class Pipelines(BaseModel):
    __root__: list[Pipeline]


def error_list(error: ValidationError) -> list[Any]:
    """The body of a 400 for `error`: every leaf a string, indices of lists too."""
    shown: list[Any] = _strings(error.errors())
    return shown


def _strings(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _strings(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strings(item) for item in value]
    return str(value)
