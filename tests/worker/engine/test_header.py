"""Headers: every kind of bad file is named for what it is before a pixel is decoded, and good ones are read right."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.worker.engine.bed import encoded, jpeg, noise

from tidegate_worker.ports import ImageHeader
from tidegate_worker.stages.header import BadImage, read_header

MAX_PIXELS = 250_000_000


def header_of(directory: Path, body: bytes, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    path = directory / "image"
    path.write_bytes(body)
    return read_header(path, max_pixels)


def png_header(width: int, height: int, body: bytes = b"") -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + body
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + struct.pack(">I", len(body))
        + data
        + struct.pack(">I", zlib.crc32(data))
    )


def with_jpeg_size(body: bytes, width: int, height: int) -> bytes:
    """The same file, lying about its size."""
    at = body.index(b"\xff\xc0") + 5
    return body[:at] + struct.pack(">HH", height, width) + body[at + 4 :]


BAD = {
    "empty": (b"", "empty"),
    "text": (b"hello, this is not an image", "not an image"),
    "web page": (b"<!DOCTYPE html><html><body>Access denied</body></html>", "web page"),
    "XML error": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "web page or XML"),
    "JSON error": (b'{"detail": "Not found."}', "JSON"),
    "zeros": (bytes(4096), "not an image"),
    "JPEG magic alone": (b"\xff\xd8", "ends inside its header"),
    "JPEG cut in its header": (jpeg()[:100], "ends inside its header"),
    "JPEG without a scan": (b"\xff\xd8\xff\xd9", "before its first scan"),
    "JPEG of 12 bits": (jpeg().replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"), "12 bits"),
    "lossless JPEG": (jpeg().replace(b"\xff\xc0\x00\x11", b"\xff\xc3\x00\x11"), "lossless"),
    "0x0 JPEG": (with_jpeg_size(jpeg(), 0, 0), "no pixels"),
    "JPEG bomb": (with_jpeg_size(jpeg(16, 16), 15000, 15000), "cannot hold"),
    "JPEG above the limit": (with_jpeg_size(jpeg(), 65500, 65500), "more than the limit"),
    "0x0 PNG": (png_header(0, 0), "not an image"),
    "PNG bomb": (png_header(15000, 15000, zlib.compress(bytes(1000))), "cannot hold"),
    "PNG above the limit": (png_header(2**31 - 1, 2**31 - 1), "more than the limit"),
    "PNG cut": (encoded(noise(64, 64), "PNG")[:20], "header"),
    "TIFF magic alone": (b"II*\x00", "not an image"),
    "WebP magic alone": (b"RIFF\x10\x00\x00\x00WEBPVP8 ", "ends inside its header"),
    "unknown WebP": (b"RIFF\x10\x00\x00\x00WEBPXXXX" + bytes(64), "no image chunk"),
    # Parsers that start programs or read other files are never reached.
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image"),
    "PDF": (b"%PDF-1.7\n", "not an image"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not an image"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_named_for_what_it_is(tmp_path: Path, kind: str) -> None:
    body, words = BAD[kind]
    with pytest.raises(BadImage, match=words):
        header_of(tmp_path, body)


GOOD: dict[str, tuple[bytes, dict[str, Any]]] = {
    "JPEG": (jpeg(320, 240), {"codec": "jpeg", "mode": "RGB", "progressive": False}),
    "progressive JPEG": (jpeg(320, 240, progressive=True), {"codec": "jpeg", "progressive": True}),
    "grey JPEG": (encoded(noise(320, 240).convert("L"), "JPEG"), {"mode": "L", "channels": 1}),
    "CMYK JPEG": (encoded(noise(320, 240).convert("CMYK"), "JPEG"), {"mode": "CMYK", "channels": 4}),
    "PNG": (encoded(noise(320, 240), "PNG"), {"codec": "png", "mode": "RGB"}),
    "palette PNG": (encoded(noise(320, 240).quantize(16), "PNG"), {"mode": "P"}),
    "TIFF": (encoded(noise(320, 240), "TIFF"), {"codec": "tiff"}),
    "BMP": (encoded(noise(320, 240), "BMP"), {"codec": "bmp"}),
    "GIF": (encoded(noise(320, 240), "GIF"), {"codec": "gif"}),
    "lossy WebP": (encoded(noise(320, 240), "WEBP"), {"codec": "webp"}),
    "lossless WebP": (encoded(noise(320, 240), "WEBP", lossless=True), {"codec": "webp"}),
    "animated WebP": (
        encoded(noise(320, 240), "WEBP", save_all=True, append_images=[noise(320, 240, 1)]),
        {"codec": "webp"},
    ),
}


@pytest.mark.parametrize("kind", GOOD)
def test_a_good_file_says_its_codec_mode_and_size(tmp_path: Path, kind: str) -> None:
    body, facts = GOOD[kind]
    header = header_of(tmp_path, body)
    assert (header.width, header.height) == (320, 240)
    assert {name: getattr(header, name) for name in facts} == facts


@pytest.mark.parametrize("size", [(1, 1), (65500, 1), (1, 65500), (16383, 2)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_extreme_shapes_are_no_bombs(tmp_path: Path, size: tuple[int, int], kind: str) -> None:
    header = header_of(tmp_path, encoded(Image.new("RGB", size, "white"), kind))
    assert (header.width, header.height) == size


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_large_image_of_one_colour_is_no_bomb(tmp_path: Path, kind: str, mode: str) -> None:
    image = Image.new(mode, (8000, 8000))
    options: dict[str, Any] = {"optimize": True, "progressive": True, "quality": 1} if kind == "JPEG" else {}
    assert header_of(tmp_path, encoded(image, kind, **options)).width == 8000


def test_the_size_of_an_exif_rotated_image_is_the_raw_one(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    header = header_of(tmp_path, jpeg(320, 240, exif=exif))
    assert (header.width, header.height) == (320, 240)


def test_a_sequential_jpeg_in_several_scans_counts_as_one_that_keeps_coefficients(tmp_path: Path) -> None:
    body = jpeg(320, 240)
    at = body.index(b"\xff\xda")
    one_component_scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
    assert not header_of(tmp_path, body).progressive
    assert header_of(tmp_path, body[:at] + one_component_scan + body[at + 14 :]).progressive


def test_a_header_survives_padding_and_segments_before_the_frame(tmp_path: Path) -> None:
    body = jpeg(320, 240)
    padded = body[:2] + b"\xff\xff\xff\xfe" + struct.pack(">H", 60002) + bytes(60000) + body[2:]
    assert header_of(tmp_path, padded).width == 320


@given(cut=st.integers(0, 700), flips=st.lists(st.tuples(st.integers(0, 699), st.integers(0, 255)), max_size=8))
def test_a_damaged_header_is_bad_or_read_but_never_an_accident(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flips: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged"
    for body in (jpeg(64, 48), encoded(noise(64, 48), "WEBP"), encoded(noise(64, 48), "PNG")):
        damaged = bytearray(body[: max(1, cut)])
        for at, value in flips:
            if at < len(damaged):
                damaged[at] = value
        path.write_bytes(damaged)
        try:
            header = read_header(path, MAX_PIXELS)
        except BadImage:
            continue
        assert 0 < header.width * header.height <= MAX_PIXELS


def test_reading_a_header_allocates_no_canvas(tmp_path: Path) -> None:
    """A WebP's canvas would be allocated by opening it: 16383x16383 would take a gigabyte before admission."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "WEBP", lossless=True)
    body = bytearray(buffer.getvalue())
    at = body.index(b"VP8L") + 9
    body[at : at + 4] = struct.pack("<I", 16382 | (16382 << 14))
    with pytest.raises(BadImage, match="more than the limit"):
        header_of(tmp_path, bytes(body), max_pixels=1_000_000)
