"""What decoding an image costs in memory, from its header alone: the peak while decoding and what is held after.

The figures are bytes a pixel by codec and mode, each an upper bound that tests/worker/engine/test_cost.py measures on
real decodes. The file itself costs nothing: it is mapped, and its pages can be reclaimed.
Not covered: what prediction needs (`Predictor.workspace_bytes`) and the pages that the allocator keeps (the floor).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tidegate.core.contract import KIB, MIB
from tidegate_worker.ports import ImageHeader

#: Rows that Pillow's modes are converted in, so that no second full copy exists.
STRIP_BYTES: Final = 2 * MIB

#: Decoder state, Huffman tables, thread-local arenas.
_FIXED_BYTES: Final = 1536 * KIB
#: Row buffers: libjpeg keeps a few MCU rows of every component, up-sampled.
_ROW_BYTES_PER_PIXEL: Final = 192
_RGB: Final = 3

#: Bytes a pixel of Pillow's own storage.
_CORE_BYTES: Final = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
_CORE_BYTES_OTHER: Final = 4

#: Bytes a pixel that a codec needs beside Pillow's storage and the result.
_CODEC_BYTES: Final = {
    "png": 0,
    # Two animation canvases, the VP8L bitmap and the copy that Pillow's plugin hands over as bytes.
    "webp": 10,
    # One strip may be the whole image; libtiff holds it raw, up to 16 bits a sample.
    "tiff": 8,
    "gif": 1,
    "bmp": 0,
}
_CODEC_BYTES_UNKNOWN: Final = 8

#: The most pixels (JPEG) or raw bytes (deflate) that one byte of file can stand for.
_JPEG_PIXELS_PER_BYTE: Final = 512
_DEFLATE_RATIO: Final = 1032


@dataclass(frozen=True, slots=True)
class DecodeCost:
    #: Highest while decoding, the result included.
    peak_bytes: int
    #: The uint8 RGB result.
    held_bytes: int


def scale_divisor(header: ImageHeader, fast_edge_pixels: int | None) -> int:
    """By how much a JPEG may be reduced while decoding: 8, 4, 2 or 1; 1 for every other codec and without a wish."""
    if fast_edge_pixels is None or header.codec != "jpeg":
        return 1
    shorter = min(header.width, header.height)
    return next((divisor for divisor in (8, 4, 2) if shorter // divisor >= fast_edge_pixels), 1)


def decoded_size(header: ImageHeader, divisor: int) -> tuple[int, int]:
    """Width and height after decoding at 1/`divisor`, rounded up as libjpeg does."""
    return -(-header.width // divisor), -(-header.height // divisor)


def decodes_by_libjpeg(header: ImageHeader, divisor: int) -> bool:
    """Straight to a tensor; CMYK and scaled decoding go through Pillow."""
    return header.codec == "jpeg" and header.mode in {"L", "RGB"} and divisor == 1


def decode_cost(header: ImageHeader, divisor: int = 1) -> DecodeCost:
    width, height = decoded_size(header, divisor)
    pixels = width * height
    held = _RGB * pixels
    peak = held + _FIXED_BYTES + _ROW_BYTES_PER_PIXEL * header.width
    if header.codec == "jpeg" and header.progressive:
        peak += 2 * header.channels * (header.width + 32) * (header.height + 32)
    if not decodes_by_libjpeg(header, divisor):
        peak += pixels * _CORE_BYTES.get(header.mode, _CORE_BYTES_OTHER) + 3 * STRIP_BYTES
        if header.codec != "jpeg":
            peak += pixels * _CODEC_BYTES.get(header.codec, _CODEC_BYTES_UNKNOWN)
    return DecodeCost(peak_bytes=peak, held_bytes=held)


def most_pixels(header: ImageHeader, file_bytes: int) -> float:
    """The most pixels that a file of this size can hold, whatever its header claims."""
    if header.codec == "jpeg":
        # Each 8x8 block of the first component takes at least one bit of the first scan.
        return file_bytes * _JPEG_PIXELS_PER_BYTE
    if header.codec == "png":
        bits_per_pixel = header.channels * (header.bits if header.mode != "P" else 1)
        return file_bytes * _DEFLATE_RATIO * 8 / bits_per_pixel
    return float("inf")
