"""Images made small before they become floats: the same numbers as resizing floats, without the full-size float copy.

A 4096 x 3072 image is 38 MB as uint8 and 151 MB as float32. `sample` gives torchvision's detector input, `shrink` a
classifier's; both take their taps from the uint8 pixels and hold no more than a strip of them as floats.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import interpolate

#: Floats of one strip of a crop while it is narrowed.
_STRIP_BYTES: Final = 2 * 1024 * 1024
_FLOAT_BYTES: Final = 4
_LEVELS: Final = 255


def sample(pixels: Tensor, height: int, width: int) -> Tensor:
    """`pixels` (uint8 CHW) at this size as floats in 0..1, by plain bilinear interpolation (no antialiasing).

    Equal to `interpolate(pixels / 255, (height, width), mode="bilinear", align_corners=False)`: that reads four
    pixels for each of its own, so only those are taken.
    """
    top, bottom, down = _taps(pixels.shape[-2], height, pixels.device)
    left, right, across = _taps(pixels.shape[-1], width, pixels.device)
    return torch.lerp(
        _row(pixels[:, top], left, right, across), _row(pixels[:, bottom], left, right, across), down[:, None]
    ).div_(_LEVELS)


def _row(rows: Tensor, left: Tensor, right: Tensor, across: Tensor) -> Tensor:
    return torch.lerp(rows[:, :, left].float(), rows[:, :, right].float(), across)


def _taps(source: int, target: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each target position the two source positions and the weight of the second."""
    centre = ((torch.arange(target, device=device, dtype=torch.float32) + 0.5) * (source / target) - 0.5).clamp_(min=0)
    first = centre.long().clamp_(max=source - 1)
    return first, (first + 1).clamp_(max=source - 1), centre - first


def shrink(crop: Tensor, size: int, *, as_picture: bool) -> Tensor:
    """`crop` (uint8 CHW) as a square of floats in 0..1, by antialiased bilinear interpolation.

    `as_picture` rounds to whole levels after each direction, as resizing a PIL image does; otherwise the floats are
    those of resizing a float tensor.
    """
    rows = max(1, _STRIP_BYTES // (_FLOAT_BYTES * crop.shape[0] * crop.shape[2]))
    narrow = [_antialiased(strip.float(), strip.shape[1], size, as_picture) for strip in torch.split(crop, rows, dim=1)]
    return _antialiased(torch.cat(narrow, dim=1), size, size, as_picture).div_(_LEVELS)


def _antialiased(levels: Tensor, height: int, width: int, as_picture: bool) -> Tensor:
    resized = interpolate(levels[None], size=(height, width), mode="bilinear", antialias=True)[0]
    return resized.round_().clamp_(0, _LEVELS) if as_picture else resized
