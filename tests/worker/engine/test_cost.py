"""The cost model is an upper bound of what real decodes take, as the kernel counts it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.worker.engine.bed import noise
from tests.worker.engine.cage import caged

from tidegate.core.contract import GIB, MIB
from tidegate_worker.policy.cost import decode_cost, decoded_size, most_pixels, scale_divisor
from tidegate_worker.ports import ImageHeader

#: In a cage: decode each file and print the highest charge above what was charged before. The files' pages are in the
#: page cache on the parent's account, so that the cage's charge is the process's own memory alone.
DECODE_AND_MEASURE = """
import json, sys
from pathlib import Path
from tidegate_worker import allocator
allocator.tune()
from tidegate_worker.policy.cost import decode_cost
from tidegate_worker.stages.header import read_header
from tidegate_worker.stages.pixels import decode
import torch
torch.set_num_threads(1)
cage = Path(sys.argv[1])
usage, peak = cage / "memory.usage_in_bytes", cage / "memory.max_usage_in_bytes"
jobs = [(Path(line.split("|")[0]), int(line.split("|")[1])) for line in sys.argv[2:]]
for path, divisor in jobs:
    header = read_header(path, 10**9)
    if max(header.width, header.height) < 700:
        decode(path, header, divisor)  # codecs load their libraries at the first decode; that is the floor, not a cost
def measured(path, divisor, header):
    before = int(usage.read_text())
    peak.write_text("0")
    pixels = decode(path, header, divisor)
    return int(peak.read_text()) - before, int(usage.read_text()) - before
for path, divisor in jobs:
    header = read_header(path, 10**9)
    cost = decode_cost(header, divisor)
    # What a decode takes, it takes each time; a page of a library that the kernel had dropped is charged but once.
    highest, held = map(min, zip(*(measured(path, divisor, header) for _ in range(3))))
    print(json.dumps([path.name, divisor, highest, cost.peak_bytes, held, cost.held_bytes]), flush=True)
"""


def sixteen_bit(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


def write_kinds(directory: Path, width: int, height: int) -> list[tuple[Path, int]]:
    """One file of each codec and mode, with the divisors to decode it by."""
    image = noise(width, height)
    palette = image.quantize(64)
    kinds: dict[str, Callable[[Path], None]] = {
        "rgb.jpg": lambda path: image.save(path, quality=90),
        "444.jpg": lambda path: image.save(path, quality=90, subsampling=0),
        "progressive.jpg": lambda path: image.save(path, quality=90, progressive=True, subsampling=0),
        "grey.jpg": lambda path: image.convert("L").save(path),
        "grey-progressive.jpg": lambda path: image.convert("L").save(path, progressive=True),
        "cmyk.jpg": lambda path: image.convert("CMYK").save(path),
        "cmyk-progressive.jpg": lambda path: image.convert("CMYK").save(path, progressive=True),
        "rgb.png": image.save,
        "rgba.png": lambda path: image.convert("RGBA").save(path),
        "palette.png": palette.save,
        "sixteen.png": lambda path: sixteen_bit(image).save(path),
        "bilevel.png": lambda path: image.convert("1").save(path),
        "lossy.webp": lambda path: image.save(path, method=0),
        "lossless.webp": lambda path: image.convert("RGBA").save(path, lossless=True, quality=0, method=0),
        "raw.tif": image.save,
        "lzw.tif": lambda path: image.save(path, compression="tiff_lzw"),
        "strip.tif": lambda path: image.save(path, compression="tiff_lzw", tiffinfo={278: height}),
        "sixteen.tif": lambda path: sixteen_bit(image).save(path, compression="tiff_lzw"),
        "cmyk.tif": lambda path: image.convert("CMYK").save(path, compression="tiff_lzw"),
        "rgb.bmp": image.save,
        "palette.gif": palette.save,
        "animated.gif": lambda path: palette.save(path, save_all=True, append_images=[noise(width, height, 1)]),
        "animated.webp": lambda path: image.save(path, save_all=True, append_images=[noise(width, height, 1)]),
    }
    jobs: list[tuple[Path, int]] = []
    for name, save in kinds.items():
        path = directory / f"{width}x{height}-{name}"
        save(path)
        path.read_bytes()
        jobs += [(path, divisor) for divisor in ((1, 2, 8) if path.suffix == ".jpg" else (1,))]
    return jobs


def test_no_codec_mode_or_size_takes_more_than_its_credit(tmp_path: Path) -> None:
    sizes = [(640, 480), (2048, 1536), (16000, 64), (37, 3000)]
    jobs = [job for width, height in sizes for job in write_kinds(tmp_path, width, height)]
    with caged(2 * GIB) as cage:
        lines = [str(cage.directory), *(f"{path}|{divisor}" for path, divisor in jobs)]
        output, errors = cage.start(DECODE_AND_MEASURE, lines).communicate(timeout=120)
    measured = [json.loads(line) for line in output.splitlines()]
    assert len(measured) == len(jobs), errors[-2000:]
    above = [row for row in measured if row[2] > row[3]]
    assert not above, f"name, divisor, measured peak, credit: {above}"
    # The kernel charges in batches of some pages a core.
    kept = [row for row in measured if row[4] > row[5] + MIB]
    assert not kept, f"name, divisor, .., measured held, credit held: {kept}"


def test_the_model_does_not_waste_what_the_common_case_needs() -> None:
    header = ImageHeader("jpeg", "RGB", 4096, 3072, 3)
    assert decode_cost(header).peak_bytes < 1.1 * 4096 * 3072 * 3


def test_a_progressive_jpeg_costs_its_coefficients_even_when_it_is_reduced() -> None:
    reduced = decode_cost(ImageHeader("jpeg", "RGB", 4096, 3072, 3, progressive=True), divisor=8)
    assert reduced.peak_bytes > 2 * 3 * 4096 * 3072
    assert reduced.held_bytes == 3 * 512 * 384


@pytest.mark.parametrize(
    ("codec", "width", "height", "edge", "divisor"),
    [
        ("jpeg", 4096, 3072, 1024, 2),
        ("jpeg", 4096, 3072, 3072, 1),
        ("jpeg", 4096, 3072, 384, 8),
        ("jpeg", 4096, 3072, None, 1),
        ("jpeg", 60000, 100, 100, 1),
        ("png", 4096, 3072, 10, 1),
    ],
)
def test_fast_decoding_never_goes_below_the_edge_it_was_given(
    codec: str, width: int, height: int, edge: int | None, divisor: int
) -> None:
    header = ImageHeader(codec, "RGB", width, height, 3)
    assert scale_divisor(header, edge) == divisor


def test_reduced_sizes_are_rounded_up_as_libjpeg_does() -> None:
    assert decoded_size(ImageHeader("jpeg", "RGB", 1001, 999, 3), 4) == (251, 250)


def test_a_file_can_hold_what_real_encoders_put_into_it() -> None:
    assert most_pixels(ImageHeader("png", "RGB", 8000, 8000, 3), 8000 * 8000 * 3 // 1000) >= 8000 * 8000
