"""Where on an image is an object: boxes in whole pixels, from networks that see the image small.

Covers the shrinking before normalisation and the clean-up of boxes. torchvision's detectors normalise the image at
full size and then resize it; both are linear and the weights of a resize sum to one, so the order may be changed, and
the full-size float copies (two of 151 MB for 4096 x 3072) never exist.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from tidegate_worker.models.resize import sample

Box = tuple[int, int, int, int]


class ShrinksFirst(GeneralizedRCNNTransform):
    """The transform of a torchvision detector, for uint8 images."""

    @classmethod
    def like(cls, transform: GeneralizedRCNNTransform) -> Self:
        return cls(transform.min_size, transform.max_size, transform.image_mean, transform.image_std)

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[ImageList, list[dict[str, Tensor]] | None]:
        small = [self.normalize(sample(image, *self._size(image))) for image in images]
        sizes = [(image.shape[1], image.shape[2]) for image in small]
        return ImageList(self.batch_images(small, self.size_divisible), sizes), targets

    def _size(self, image: Tensor) -> tuple[int, int]:
        """What torchvision's own resize arrives at: the shorter edge at `min_size` unless the longer gets too long."""
        height, width = image.shape[-2:]
        scale = min(self.min_size[-1] / min(height, width), self.max_size / max(height, width))
        return math.floor(height * scale), math.floor(width * scale)


@dataclass(frozen=True, slots=True)
class FoundBox:
    box: Box
    score: float


class BoxDetector:
    """A detection network with its threshold."""

    def __init__(self, network: nn.Module, score_above: float) -> None:
        self._network = network
        self._score_above = score_above

    def find(self, images: Sequence[Tensor]) -> list[list[FoundBox]]:
        """For each image (uint8 CHW, on the network's device) its boxes, best first."""
        return [
            self._kept(answer, image.shape[2], image.shape[1])
            for image, answer in zip(images, self._network(list(images)), strict=True)
        ]

    def _kept(self, answer: dict[str, Tensor], width: int, height: int) -> list[FoundBox]:
        above = answer["scores"] > self._score_above
        # Truncated, not rounded: consumers tell a repeated detection by its exact box.
        boxes = answer["boxes"][above].to(torch.int64).tolist()
        scores = answer["scores"][above].tolist()
        clipped = [
            (max(0, left), max(0, top), min(width, right), min(height, bottom)) for left, top, right, bottom in boxes
        ]
        return [
            FoundBox((left, top, right, bottom), score)
            for (left, top, right, bottom), score in zip(clipped, scores, strict=True)
            if left < right and top < bottom
        ]
