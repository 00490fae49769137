"""Predictors that the bench's catalogue names by `module:factory`, as an administrator would name code of their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tidegate_worker.models.catalogue import Pipeline
from tidegate_worker.ports import DecodedImage, Prediction, Predictor


class Nothing:
    """Finds nothing in no time: what is left is ingest."""

    model_version = "bench-1"

    def __init__(self, pipeline: str, device: torch.device) -> None:
        self.pipeline = pipeline
        self.device = device

    def workspace_bytes(self, width: int, height: int) -> int:  # noqa: ARG002
        return 0

    def predict(self, images: Sequence[DecodedImage]) -> list[Prediction]:
        return [Prediction((), raw_size=(image.raw_width, image.raw_height)) for image in images]


def nothing(pipeline: Pipeline, device: torch.device) -> Predictor:
    return Nothing(pipeline.slug, device)
