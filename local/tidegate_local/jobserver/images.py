"""The demo images: insects on a light sheet, in the sizes of the job kinds whose memory was measured.

| kind    | pixels      | file     | stands for                                                      |
|---------|-------------|----------|-----------------------------------------------------------------|
| large   | 4096 x 3072 | ~22.5 MB | the jobs that kill a worker                                      |
| typical | 1024 x 768  | ~1.41 MB | the jobs for which defaults are made                             |
| trap4k  | 4096 x 2160 | ~1.85 MB | small files that decode to much: file size predicts nothing      |
| tiny    | 320 x 240   | ~10 KB   | fast tests                                                       |

`mixed` cycles through the first three. A few base images a kind are made once and kept on disk; noise and quality were
chosen for the file sizes above.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


@dataclass(frozen=True, slots=True)
class Recipe:
    """How images of a kind are drawn and written."""

    width: int
    height: int
    quality: int
    #: Pillow's number for the chroma: 0 keeps all of it (4:4:4), 2 a quarter (4:2:0).
    subsampling: int
    noise: float
    insects: int


RECIPES: Final = {
    "large": Recipe(4096, 3072, 99, 0, 10.5, 28),
    "typical": Recipe(1024, 768, 99, 0, 10.5, 12),
    "trap4k": Recipe(4096, 2160, 80, 2, 8.3, 24),
    "tiny": Recipe(320, 240, 80, 2, 4.0, 4),
}
#: Positions of a mixed job cycle through these: mostly typical, now and then a large one.
MIXED: Final = ("typical", "trap4k", "typical", "typical", "large", "typical", "trap4k", "typical")
JOB_KINDS: Final = (*RECIPES, "mixed")
#: Distinct base images a kind.
VARIANTS: Final = 3
_SOF_MARKERS: Final = frozenset({0xC0, 0xC1, 0xC2})


def kind_at(job_kind: str, position: int) -> str:
    """The kind of the image at this position of a job."""
    return MIXED[position % len(MIXED)] if job_kind == "mixed" else job_kind


class ImageStore:
    """The base images on disk, made when first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: set[Path] = set()
        self._making = asyncio.Lock()

    async def base(self, kind: str, variant: int) -> Path:
        """The file of a base image."""
        path = self._folder / f"{kind}-{variant}.jpg"
        if path in self._made:
            return path
        async with self._making:
            if not path.exists():
                await asyncio.to_thread(_make, path, RECIPES[kind], variant)
            self._made.add(path)
        return path

    async def prepare(self, kinds: set[str]) -> None:
        """Make all base images of these kinds, so that no download waits for one."""
        for kind in sorted(kinds):
            for variant in range(VARIANTS):
                await self.base(kind, variant)


def _make(path: Path, recipe: Recipe, variant: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(f".{os.getpid()}")
    draw(recipe, variant).save(aside, "JPEG", quality=recipe.quality, subsampling=recipe.subsampling)
    aside.replace(path)


def draw(recipe: Recipe, seed: int) -> Image.Image:
    """A light sheet with dark insects on it, lit from one side, with sensor noise."""
    rng = np.random.default_rng(seed)
    sheet = Image.new("RGB", (recipe.width, recipe.height), (222, 219, 208))
    pen = ImageDraw.Draw(sheet)
    for _ in range(recipe.insects):
        _draw_insect(pen, rng, recipe)
    soft = sheet.filter(ImageFilter.GaussianBlur(recipe.height / 1000))
    pixels = np.asarray(soft, dtype=np.float32) * np.linspace(0.85, 1.05, recipe.width, dtype=np.float32)[None, :, None]
    pixels += rng.normal(0, recipe.noise, pixels.shape[:2]).astype(np.float32)[:, :, None]
    pixels += rng.normal(0, recipe.noise / 2, pixels.shape).astype(np.float32)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8), "RGB")


def _draw_insect(pen: ImageDraw.ImageDraw, rng: np.random.Generator, recipe: Recipe) -> None:
    size = recipe.height * rng.uniform(0.02, 0.06)
    x, y = rng.uniform(size, recipe.width - size), rng.uniform(size, recipe.height - size)
    brown = tuple(int(value) for value in rng.integers((60, 45, 30), (130, 100, 80)))
    dark = tuple(value // 2 for value in brown)
    for side in (-1, 1):
        tip, root = x + side * size, x + side * size * 0.1
        pen.ellipse((min(tip, root), y - size * 0.6, max(tip, root), y + size * 0.4), fill=brown)
        spot = x + side * size * 0.55
        pen.ellipse((spot - size * 0.12, y - size * 0.2, spot + size * 0.12, y + size * 0.04), fill=dark)
    pen.ellipse((x - size * 0.15, y - size * 0.7, x + size * 0.15, y + size * 0.8), fill=dark)


def with_size(jpeg: bytes, width: int, height: int) -> bytes:
    """The JPEG with another size in its header: what a decompression bomb shows to whoever reads headers."""
    at = len(b"\xff\xd8")
    while jpeg[at + 1] not in _SOF_MARKERS:
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return jpeg[: at + 5] + size + jpeg[at + 9 :]
