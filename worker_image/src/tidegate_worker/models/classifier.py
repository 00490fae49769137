"""What an object is: softmax vectors over a category map, for crops cut from the uint8 image of full size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tidegate_worker.models.catalogue import Classifier, Triple
from tidegate_worker.models.detector import Box
from tidegate_worker.models.resize import shrink

_FLOAT_BYTES = 4
_CHANNELS = 3


@dataclass(frozen=True, slots=True)
class View:
    """How a classifier sees a crop; classifiers with equal views share the crops."""

    input_size: int
    as_picture: bool
    mean: Triple
    std: Triple

    @classmethod
    def of(cls, entry: Classifier) -> View:
        return cls(entry.input_size, entry.resize == "picture", entry.mean, entry.std)

    @property
    def crop_bytes(self) -> int:
        return _CHANNELS * self.input_size**2 * _FLOAT_BYTES

    def cut(self, places: Sequence[tuple[Tensor, Box]]) -> Tensor:
        """One normalised NCHW batch of the boxes cut from their images."""
        crops = torch.stack(
            [
                shrink(image[:, top:bottom, left:right], self.input_size, as_picture=self.as_picture)
                for image, (left, top, right, bottom) in places
            ]
        )
        mean, std = (crops.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return crops.sub_(mean).div_(std)


class CropClassifier:
    """A classification network with the meaning of its outputs."""

    def __init__(self, network: nn.Module, entry: Classifier, labels: tuple[str, ...]) -> None:
        self._network = network
        self.key = entry.key
        self.labels = labels
        self.view = View.of(entry)

    def scores(self, crops: Tensor) -> np.ndarray:
        """A full softmax vector a crop, in the order of the labels."""
        softmax: np.ndarray = torch.softmax(self._network(crops).float(), dim=1).cpu().numpy()
        return softmax
