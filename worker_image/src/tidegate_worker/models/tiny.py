"""Networks of a few kB with seeded weights: a whole pipeline for demos and tests, without a download or a GPU.

The detector marks blobs that are darker than what surrounds them, on a coarse grid whose size does not grow with the
image, so that boxes are the same everywhere and an image costs about a millisecond. What the classifiers say means
nothing, but it is the same on every run.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from torchvision.ops import nms

#: Grid cells along the shorter edge of an image.
_CELLS: Final = 64
_SURROUND: Final = 13
_CONTRAST: Final = 0.2
_STEEPNESS: Final = 40.0
_LEAST_SCORE: Final = 0.3
_MOST_BOXES: Final = 32
_CANDIDATES: Final = 512
_OVERLAP: Final = 0.1
#: A box reaches this many cells from its centre.
_REACH: Final = 2


class TinyDetector(nn.Module):
    """Takes uint8 CHW images and answers as torchvision's detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.darkness = nn.Conv2d(3, 1, kernel_size=1)
        with torch.no_grad():
            self.darkness.weight.fill_(-1 / 3)
            self.darkness.bias.fill_(1.0)  # type: ignore[union-attr]

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        return [self._blobs(image) for image in images]

    def _blobs(self, image: Tensor) -> dict[str, Tensor]:
        cell = max(1, min(image.shape[1:]) // _CELLS)
        dark = self.darkness(_grid(image, cell)[None])
        surround = avg_pool2d(dark, _SURROUND, stride=1, padding=_SURROUND // 2, count_include_pad=False)
        score = torch.sigmoid(_STEEPNESS * (dark - surround - _CONTRAST))[0, 0]
        # Highest in the middle of a blob, also where all of it is equally dark.
        mass = avg_pool2d(score[None, None], 2 * _REACH + 1, stride=1, padding=_REACH)[0, 0]
        best = torch.where(score > _LEAST_SCORE, mass, 0).flatten().topk(min(_CANDIDATES, score.numel()))
        rows, columns = best.indices // score.shape[1], best.indices % score.shape[1]
        corners = torch.stack((columns - _REACH, rows - _REACH, columns + _REACH + 1, rows + _REACH + 1), dim=1) * cell
        edges = torch.tensor([image.shape[2], image.shape[1]], device=image.device).repeat(2)
        boxes = corners.clamp(min=0).minimum(edges).float()
        apart = nms(boxes, best.values, _OVERLAP)[:_MOST_BOXES]
        return {
            "boxes": boxes[apart],
            "labels": torch.ones_like(apart),
            "scores": score.flatten()[best.indices[apart]],
        }


def _grid(image: Tensor, cell: int) -> Tensor:
    """The mean of four pixels of each cell, in 0..1: enough against noise, and no float copy of the image."""
    height, width = (length - length % cell for length in image.shape[1:])
    quarter, half = cell // 4, cell // 2
    taps = [
        image[:, row:height:cell, column:width:cell].float()
        for row in (quarter, quarter + half)
        for column in (quarter, quarter + half)
    ]
    return torch.stack(taps).mean(0).div_(255)


class TinyClassifier(nn.Module):
    """One convolution, a mean over what it saw, one linear layer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 8, kernel_size=3, stride=2)
        self.classes = nn.Linear(8, classes)
        # Spread widely, so that the classifier is sure of what it says.
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=2.0)

    def forward(self, crops: Tensor) -> Tensor:
        features: Tensor = self.features(crops).relu().mean((2, 3))
        logits: Tensor = self.classes(features)
        return logits
