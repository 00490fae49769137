from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn.functional import interpolate
from torchvision.transforms import v2

from tidegate_worker.models.resize import sample, shrink

sides = st.integers(min_value=1, max_value=90)


def noise(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=60, deadline=None)
@given(height=sides, width=sides, to_height=sides, to_width=sides)
def test_sampling_gives_the_floats_of_resizing_the_whole_image_as_floats(
    height: int, width: int, to_height: int, to_width: int
) -> None:
    pixels = noise(height, width)
    whole = interpolate((pixels.float() / 255)[None], size=(to_height, to_width), mode="bilinear", align_corners=False)[
        0
    ]
    # A shade of the 256 is 4e-3: sums in another order differ in the last bits.
    assert torch.allclose(sample(pixels, to_height, to_width), whole, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(height=sides, width=sides, size=st.sampled_from([8, 16, 33]))
def test_shrinking_gives_the_floats_of_torchvision_on_a_float_tensor(height: int, width: int, size: int) -> None:
    pixels = noise(height, width)
    peer = v2.functional.resize(pixels.float() / 255, [size, size], antialias=True)
    assert torch.allclose(shrink(pixels, size, as_picture=False), peer, atol=2e-6)


def test_a_large_crop_is_shrunk_in_strips_to_the_same_floats() -> None:
    pixels = noise(2100, 900)
    peer = v2.functional.resize(pixels.float() / 255, [128, 128], antialias=True)
    assert torch.allclose(shrink(pixels, 128, as_picture=False), peer, atol=2e-6)


@pytest.mark.parametrize(
    ("height", "width", "size"), [(77, 53, 128), (640, 480, 128), (31, 300, 300), (1200, 900, 300)]
)
def test_shrinking_as_a_picture_is_within_one_level_of_pil(height: int, width: int, size: int) -> None:
    pixels = noise(height, width)
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize((size, size), Image.Resampling.BILINEAR)
    ours = (shrink(pixels, size, as_picture=True) * 255).round().permute(1, 2, 0).numpy()
    difference = np.abs(ours - np.asarray(picture, dtype=np.float32))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.03


def test_shrinking_as_floats_is_not_shrinking_as_a_picture() -> None:
    pixels = noise(300, 200)
    assert not torch.allclose(shrink(pixels, 64, as_picture=True), shrink(pixels, 64, as_picture=False), atol=1e-4)
