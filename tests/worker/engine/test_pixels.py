"""Decoding: the same pixels as any full-resolution reader, and a plain word where there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.worker.engine.bed import encoded, jpeg, noise

from tidegate_worker.stages.header import BadImage, read_header
from tidegate_worker.stages.pixels import decode

Array = np.ndarray[Any, np.dtype[Any]]


def pixels_of(directory: Path, body: bytes, divisor: int = 1) -> Array:
    path = directory / "image"
    path.write_bytes(body)
    pixels = decode(path, read_header(path, 10**9), divisor)
    assert pixels.dtype.is_floating_point is False
    return pixels.permute(1, 2, 0).numpy()


IMAGE = noise(333, 217)
TRANSPARENT = IMAGE.convert("RGBA")
TRANSPARENT.putalpha(Image.new("L", IMAGE.size, 40))

EXACT = {
    "JPEG": encoded(IMAGE, "JPEG"),
    "JPEG 4:4:4": encoded(IMAGE, "JPEG", subsampling=0),
    "progressive JPEG": encoded(IMAGE, "JPEG", progressive=True),
    "grey JPEG": encoded(IMAGE.convert("L"), "JPEG"),
    "CMYK JPEG": encoded(IMAGE.convert("CMYK"), "JPEG"),
    "PNG": encoded(IMAGE, "PNG"),
    "palette PNG": encoded(IMAGE.quantize(16), "PNG"),
    "bilevel PNG": encoded(IMAGE.convert("1"), "PNG"),
    "grey and alpha PNG": encoded(IMAGE.convert("LA"), "PNG"),
    "TIFF": encoded(IMAGE, "TIFF", compression="tiff_lzw"),
    "CMYK TIFF": encoded(IMAGE.convert("CMYK"), "TIFF"),
    "BMP": encoded(IMAGE, "BMP"),
    "GIF": encoded(IMAGE.quantize(16), "GIF"),
    "WebP": encoded(IMAGE, "WEBP", lossless=True),
    "lossy WebP": encoded(IMAGE, "WEBP"),
}


@pytest.mark.parametrize("kind", EXACT)
def test_every_codec_gives_the_pixels_that_pillow_gives(tmp_path: Path, kind: str) -> None:
    pixels = pixels_of(tmp_path, EXACT[kind])
    assert np.array_equal(pixels, np.asarray(Image.open(tmp_path / "image").convert("RGB")))


def test_large_images_are_converted_strip_by_strip_without_seams(tmp_path: Path) -> None:
    image = noise(1500, 1200)
    assert np.array_equal(pixels_of(tmp_path, encoded(image, "PNG")), np.asarray(image))


def test_alpha_is_dropped_and_not_blended(tmp_path: Path) -> None:
    assert np.array_equal(pixels_of(tmp_path, encoded(TRANSPARENT, "PNG")), np.asarray(IMAGE))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path, kind: str) -> None:
    ramp = np.linspace(0, 65535, 256 * 64).astype(np.uint16).reshape(64, 256)
    pixels = pixels_of(tmp_path, encoded(Image.fromarray(ramp), kind))
    assert np.array_equal(pixels, np.repeat((ramp >> 8).astype(np.uint8)[:, :, None], 3, axis=2))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF"])
def test_of_several_frames_the_first_counts(tmp_path: Path, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    first, second = Image.new("RGB", (64, 48), "white"), Image.new("RGB", (64, 48), "black")
    body = encoded(first, kind, save_all=True, append_images=[second], **options)
    assert pixels_of(tmp_path, body).min() == 255


def test_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert pixels_of(tmp_path, jpeg(320, 240, exif=exif)).shape == (240, 320, 3)


@pytest.mark.parametrize("size", [(1, 1), (65500, 1), (1, 65500), (65500, 16)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_extreme_shapes_are_decoded(tmp_path: Path, kind: str, size: tuple[int, int]) -> None:
    pixels = pixels_of(tmp_path, encoded(Image.new("RGB", size, "white"), kind))
    assert pixels.shape == (size[1], size[0], 3)
    assert pixels.min() == 255


@pytest.mark.parametrize("divisor", [2, 4, 8])
@pytest.mark.parametrize("size", [(1024, 768), (1001, 999), (160, 3000)])
def test_fast_decoding_reduces_by_the_divisor_and_keeps_the_picture(
    tmp_path: Path, size: tuple[int, int], divisor: int
) -> None:
    image = Image.radial_gradient("L").resize(size).convert("RGB")
    pixels = pixels_of(tmp_path, encoded(image, "JPEG", quality=95), divisor)
    assert pixels.shape == (-(-size[1] // divisor), -(-size[0] // divisor), 3)
    small = np.asarray(image.resize((pixels.shape[1], pixels.shape[0]), Image.Resampling.BOX)).astype(int)
    assert np.abs(small - pixels).mean() < 6


BROKEN = {
    "JPEG cut in the middle": EXACT["JPEG"][: len(EXACT["JPEG"]) // 2],
    "progressive JPEG cut": EXACT["progressive JPEG"][: len(EXACT["progressive JPEG"]) // 2],
    "CMYK JPEG cut": EXACT["CMYK JPEG"][: len(EXACT["CMYK JPEG"]) // 2],
    "PNG cut": EXACT["PNG"][: len(EXACT["PNG"]) // 2],
    "WebP cut": EXACT["WebP"][: len(EXACT["WebP"]) // 2],
    "TIFF cut": encoded(IMAGE, "TIFF")[:5000],
    "float TIFF": encoded(Image.new("F", (32, 32), 0.5), "TIFF"),
    "32-bit TIFF": encoded(Image.new("I", (32, 32), 70000), "TIFF"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_without_all_its_pixels_is_bad_and_says_why(tmp_path: Path, kind: str) -> None:
    with pytest.raises(BadImage, match="cannot be"):
        pixels_of(tmp_path, BROKEN[kind])


def test_what_a_decoder_says_names_no_source_file_of_its_build(tmp_path: Path) -> None:
    with pytest.raises(BadImage) as bad:
        pixels_of(tmp_path, BROKEN["JPEG cut in the middle"])
    assert ".cpp" not in str(bad.value)
