"""What a file says of itself, read before any pixel is decoded or any canvas allocated.

JPEG and WebP are read here: Pillow does not tell a JPEG's scan structure, on which its memory depends, and allocates
a WebP's canvas when it opens it. The rest is Pillow's lazy open with the six formats that a camera or a museum
produces; other parsers are never reached. Not covered: decoding, and orientation (boxes are in raw, un-rotated pixels).
"""

from __future__ import annotations

import importlib
import struct
import warnings
from pathlib import Path
from typing import BinaryIO, Final

from PIL import Image, UnidentifiedImageError

from tidegate_worker.policy.cost import most_pixels
from tidegate_worker.ports import ImageHeader

#: Pillow's own limit is a module global and counts only pixels; `read_header` has its own, before every decode.
Image.MAX_IMAGE_PIXELS = None

PILLOW_FORMATS: Final = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP")

# Codecs that load with the process are part of its floor, and not of the first such image's cost.
for _plugin in ("Jpeg", "Png", "Tiff", "Bmp", "Gif", "WebP"):
    importlib.import_module(f"PIL.{_plugin}ImagePlugin")

_JPEG_MAGIC: Final = b"\xff\xd8"
_SOF_BASELINE: Final = {0xC0, 0xC1, 0xC9}
_SOF_PROGRESSIVE: Final = {0xC2, 0xCA}
_SOF_OTHER: Final = {0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF}
_SOS: Final = 0xDA
_EOI: Final = 0xD9
_WITHOUT_LENGTH: Final = {0x01, *range(0xD0, 0xD9)}
_JPEG_MODES: Final = {1: "L", 3: "RGB", 4: "CMYK"}


class BadImage(ValueError):
    """This file is no image that can be processed; the message says why."""


def read_header(path: Path, max_pixels: int) -> ImageHeader:
    """The header of the image at `path`, or BadImage."""
    size_bytes = path.stat().st_size
    if size_bytes == 0:
        raise BadImage("the file is empty")
    with path.open("rb") as file:
        magic = file.read(16)
        file.seek(0)
        try:
            if magic.startswith(_JPEG_MAGIC):
                header = _read_jpeg(file)
            elif magic[:4] == b"RIFF" and magic[8:12] == b"WEBP":
                header = _read_webp(file)
            else:
                header = _read_other(file, magic)
        except (struct.error, IndexError):
            raise BadImage("the file ends inside its header") from None
    _check_size(header, size_bytes, max_pixels)
    return header


def _check_size(header: ImageHeader, size_bytes: int, max_pixels: int) -> None:
    pixels = header.width * header.height
    if pixels <= 0:
        raise BadImage(f"the image has no pixels ({header.width}x{header.height})")
    if pixels > max_pixels:
        raise BadImage(f"{header.width}x{header.height} is {pixels} pixels, more than the limit of {max_pixels}")
    if pixels > most_pixels(header, size_bytes):
        raise BadImage(
            f"{size_bytes} bytes cannot hold the {header.width}x{header.height} pixels that the header claims"
        )


def _read_jpeg(file: BinaryIO) -> ImageHeader:
    """Walk the markers to the first scan."""
    file.seek(2)
    frame: tuple[int, int, int, int, int] | None = None
    while True:
        marker = _next_marker(file)
        if marker in _WITHOUT_LENGTH:
            continue
        if marker == _EOI:
            raise BadImage("the JPEG ends before its first scan")
        (length,) = struct.unpack(">H", file.read(2))
        if marker in _SOF_OTHER:
            raise BadImage(f"lossless or hierarchical JPEG (frame type 0x{marker:02x}) is not supported")
        if marker in _SOF_BASELINE or marker in _SOF_PROGRESSIVE:
            bits, height, width, components = struct.unpack(">BHHB", file.read(6))
            frame = (marker, bits, height, width, components)
            file.seek(length - 8, 1)
        elif marker == _SOS:
            if frame is None:
                raise BadImage("the JPEG has a scan before its frame")
            return _jpeg_header(frame, scan_components=file.read(1)[0])
        else:
            file.seek(length - 2, 1)


def _next_marker(file: BinaryIO) -> int:
    while True:
        byte = file.read(1)[0]
        if byte != 0xFF:
            continue
        while byte == 0xFF:
            byte = file.read(1)[0]
        if byte:
            return byte


def _jpeg_header(frame: tuple[int, int, int, int, int], scan_components: int) -> ImageHeader:
    marker, bits, height, width, components = frame
    if bits != 8:
        raise BadImage(f"JPEG of {bits} bits a sample is not supported")
    if components not in _JPEG_MODES:
        raise BadImage(f"JPEG with {components} components is not supported")
    return ImageHeader(
        codec="jpeg",
        mode=_JPEG_MODES[components],
        width=width,
        height=height,
        channels=components,
        # Several scans of one sequential frame make the decoder keep all coefficients, as progressive ones do.
        progressive=marker in _SOF_PROGRESSIVE or scan_components < components,
    )


def _read_webp(file: BinaryIO) -> ImageHeader:
    chunk = file.read(30)
    kind = chunk[12:16]
    if kind == b"VP8X":
        width = 1 + int.from_bytes(chunk[24:27], "little")
        height = 1 + int.from_bytes(chunk[27:30], "little")
    elif kind == b"VP8 ":
        width, height = (value & 0x3FFF for value in struct.unpack("<HH", chunk[26:30]))
    elif kind == b"VP8L":
        (packed,) = struct.unpack("<I", chunk[21:25])
        width, height = 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    else:
        raise BadImage("the WebP has no image chunk")
    if len(chunk) < 30:
        raise BadImage("the file ends inside its header")
    return ImageHeader(codec="webp", mode="RGBA", width=width, height=height, channels=4)


def _read_other(file: BinaryIO, magic: bytes) -> ImageHeader:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file, formats=PILLOW_FORMATS) as image:
                width, height = image.size
                mode, codec = image.mode, (image.format or "").lower()
                bands = len(image.getbands())
    except UnidentifiedImageError:
        raise BadImage(f"not an image that is known here ({_looks_like(magic)})") from None
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, OverflowError, EOFError) as error:
        raise BadImage(f"its header cannot be read: {error}") from None
    return ImageHeader(codec=codec, mode=mode, width=width, height=height, channels=bands, bits=_bits(mode))


def _bits(mode: str) -> int:
    if mode.startswith("I;16"):
        return 16
    return {"1": 1, "I": 32, "F": 32}.get(mode, 8)


def _looks_like(magic: bytes) -> str:
    text = magic.lstrip().lower()
    if text.startswith((b"<!", b"<html", b"<?xml")):
        return "it is a web page or XML"
    if text.startswith((b"{", b"[")):
        return "it is JSON"
    return f"it starts with {magic[:8].hex(' ')}"
