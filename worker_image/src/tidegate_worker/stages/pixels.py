"""A staged file to a uint8 CHW RGB tensor.

| file                           | decoder                     | result                                       |
|--------------------------------|-----------------------------|----------------------------------------------|
| JPEG, grey or YCbCr, full size | libjpeg-turbo (torchvision) | the same pixels as Pillow's                  |
| JPEG, CMYK or reduced by DCT   | Pillow                      | strips converted to RGB                      |
| PNG, TIFF, BMP, GIF, WebP      | Pillow                      | first frame, no alpha, high byte of 16 bits  |

EXIF orientation is never applied: boxes are in pixels of the raw image.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from tidegate_worker.policy.cost import STRIP_BYTES, decoded_size, decodes_by_libjpeg
from tidegate_worker.ports import ImageHeader
from tidegate_worker.stages.header import PILLOW_FORMATS, BadImage


def decode(path: Path, header: ImageHeader, divisor: int = 1) -> torch.Tensor:
    """The pixels of the image at `path`; BadImage where they cannot be had, MemoryError where memory ran out."""
    try:
        if decodes_by_libjpeg(header, divisor):
            pixels: torch.Tensor = decode_jpeg(mapped(path), mode=ImageReadMode.RGB)
        else:
            pixels = _decode_by_pillow(path, header, divisor)
    except RuntimeError as error:
        raise _named(error) from None
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, OverflowError, EOFError) as error:
        raise BadImage(f"its pixels cannot be decoded: {error}") from None
    width, height = decoded_size(header, divisor)
    if tuple(pixels.shape) != (3, height, width):
        raise BadImage(f"decoded to {tuple(pixels.shape)}, but the header says {width}x{height}")
    return pixels


def mapped(path: Path) -> torch.Tensor:
    """The file as a tensor without a copy: its pages stay the kernel's to reclaim."""
    return torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)


def _named(error: RuntimeError) -> Exception:
    """torch says everything with RuntimeError; out of memory must be told from a broken file."""
    text = str(error)
    if "can't allocate memory" in text or "out of memory" in text.lower() or "Insufficient memory" in text:
        return MemoryError(text.splitlines()[0])
    # The last line is the decoder's own word, what precedes it a source path of the build.
    return BadImage(f"its pixels cannot be decoded: {text.rsplit(', ', 1)[-1].splitlines()[0]}")


def _decode_by_pillow(path: Path, header: ImageHeader, divisor: int) -> torch.Tensor:
    width, height = decoded_size(header, divisor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path, formats=PILLOW_FORMATS) as image:
            if divisor > 1:
                # Rounded down: draft never goes below what it is asked for.
                image.draft(None, (header.width // divisor, header.height // divisor))
            if image.size != (width, height):
                raise ValueError(f"its size is {image.size}, not the ({width}, {height}) of its header")
            image.load()
            rows = np.empty((height, width, 3), dtype=np.uint8)
            step = max(1, STRIP_BYTES // (4 * width))
            for top in range(0, height, step):
                bottom = min(top + step, height)
                rows[top:bottom] = _rgb(image.crop((0, top, width, bottom)))
    return torch.from_numpy(rows).permute(2, 0, 1)


def _rgb(strip: Image.Image) -> np.ndarray:
    """One strip as 8-bit RGB, shaped to broadcast over three channels."""
    if strip.mode.startswith("I;16"):
        return (np.asarray(strip) >> 8).astype(np.uint8)[:, :, np.newaxis]
    if strip.mode in {"I", "F"}:
        raise ValueError(f"pixels of mode {strip.mode} have no known white")
    return np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))
