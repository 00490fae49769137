"""Detector, filter and classifier as one predictor: images in, detections with full score vectors out.

Images are batched only with their like, for padding would let a neighbour change a result; crops are taken in
sub-batches by bytes, across images. Where CUDA runs out of memory the batch is halved, down to one crop at a time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from tidegate.core.contract import MIB
from tidegate.core.errors import FixConfig
from tidegate_worker.models.classifier import CropClassifier
from tidegate_worker.models.detector import BoxDetector, FoundBox
from tidegate_worker.models.workspace import Workspace
from tidegate_worker.ports import Classification, DecodedImage, Detection, Prediction


@dataclass(frozen=True, slots=True)
class CropBatch:
    """How many crops go through a classifier at once: bounded by the bytes of the crops and, if given, by number."""

    at_most_bytes: int = 4 * MIB
    at_most_crops: int | None = None

    def crops(self, crop_bytes: int) -> int:
        return max(1, min(self.at_most_bytes // crop_bytes, self.at_most_crops or self.at_most_bytes))


@dataclass(frozen=True, slots=True)
class BinaryFilter:
    classifier: CropClassifier
    keep: str


@dataclass(slots=True)
class _Found:
    """A box on its way to an answer."""

    image: int
    pixels: Tensor
    found: FoundBox
    classifications: tuple[Classification, ...] = ()


class PipelinePredictor:
    """The loaded networks of one pipeline; a `Predictor`."""

    def __init__(
        self,
        *,
        pipeline: str,
        model_version: str,
        device: torch.device,
        detector: BoxDetector,
        detector_key: str,
        binary_filter: BinaryFilter | None,
        classifier: CropClassifier,
        crop_batch: CropBatch,
        workspace: Workspace,
    ) -> None:
        self.pipeline = pipeline
        self.model_version = model_version
        self.device = device
        #: Copy through page-locked memory, which a CUDA device reads without a copy of its own.
        self.pin_memory = False
        self._detector = detector
        self._detector_key = detector_key
        self._filter = binary_filter
        self._classifier = classifier
        self._workspace = workspace
        self._crops_at_once = crop_batch.crops(self._first.view.crop_bytes)

    @property
    def _first(self) -> CropClassifier:
        return self._filter.classifier if self._filter else self._classifier

    def workspace_bytes(self, width: int, height: int) -> int:
        return self._workspace.host_bytes(width, height, self._crops_at_once)

    def predict(self, images: Sequence[DecodedImage]) -> list[Prediction]:
        predictions: list[Prediction] = []
        for _, alike in groupby(images, key=lambda image: image.pixels.shape):
            predictions += self._predict_or_halve(list(alike))
        return predictions

    def _predict_or_halve(self, images: list[DecodedImage]) -> list[Prediction]:
        try:
            return self._predict(images)
        except torch.cuda.OutOfMemoryError:
            # Only after this block are the tensors free that the traceback holds.
            pass
        torch.cuda.empty_cache()
        if len(images) > 1:
            middle = len(images) // 2
            return self._predict_or_halve(images[:middle]) + self._predict_or_halve(images[middle:])
        if self._crops_at_once > 1:
            self._crops_at_once //= 2
            return self._predict_or_halve(images)
        raise FixConfig(
            f"the GPU has too little memory for one image of {self.pipeline}: give the pod a larger GPU, or this one"
            " to itself"
        )

    @torch.inference_mode()
    def _predict(self, images: list[DecodedImage]) -> list[Prediction]:
        began = time.perf_counter()
        pixels = [self._on_device(image.pixels) for image in images]
        objects = [
            _Found(index, pixels[index], found)
            for index, boxes in enumerate(self._detector.find(pixels))
            for found in boxes
        ]
        for start in range(0, len(objects), self._crops_at_once):
            self._classify(objects[start : start + self._crops_at_once])
        seconds = (time.perf_counter() - began) / len(images)
        return [
            Prediction(
                tuple(self._detection(each, image) for each in objects if each.image == index),
                infer_seconds=seconds,
                raw_size=(image.raw_width, image.raw_height),
            )
            for index, image in enumerate(images)
        ]

    def _on_device(self, pixels: Tensor) -> Tensor:
        if self.pin_memory and self.device.type == "cuda" and pixels.device.type == "cpu":
            pixels = pixels.pin_memory()
        return pixels.to(self.device, non_blocking=True)

    def _classify(self, objects: list[_Found]) -> None:
        crops = self._cut(self._first, objects)
        if self._filter is not None:
            kept = self._judge(self._filter.classifier, crops, objects, terminal=False)
            moths = [index for index, label in enumerate(kept) if label == self._filter.keep]
            if not moths:
                return
            objects = [objects[index] for index in moths]
            if self._filter.classifier.view == self._classifier.view:
                crops = crops[moths]
            else:
                crops = self._cut(self._classifier, objects)
        self._judge(self._classifier, crops, objects, terminal=True)

    @staticmethod
    def _cut(classifier: CropClassifier, objects: list[_Found]) -> Tensor:
        return classifier.view.cut([(each.pixels, each.found.box) for each in objects])

    @staticmethod
    def _judge(classifier: CropClassifier, crops: Tensor, objects: list[_Found], *, terminal: bool) -> list[str]:
        """Add this classifier's word to each object; the labels it gave."""
        labels = []
        for each, scores in zip(objects, classifier.scores(crops), strict=True):
            label = classifier.labels[int(np.argmax(scores))]
            labels.append(label)
            # A copy: a view would keep the scores of every crop of the batch alive with it.
            said = Classification(classifier.key, label, scores.copy(), classifier.labels, terminal)
            each.classifications += (said,)
        return labels

    def _detection(self, each: _Found, image: DecodedImage) -> Detection:
        return Detection(
            box=raw_box(each.found.box, image),
            score=each.found.score,
            algorithm=self._detector_key,
            classifications=each.classifications,
        )


def raw_box(box: tuple[int, int, int, int], image: DecodedImage) -> tuple[int, int, int, int]:
    """`box` in pixels of the raw image, where decoding made it smaller."""
    if image.scale == 1.0:
        return box
    left, top, right, bottom = (int(edge / image.scale) for edge in box)
    return left, top, min(image.raw_width, right), min(image.raw_height, bottom)
