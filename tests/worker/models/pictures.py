"""Images that tests predict on: a light sheet with dark blobs, made from a seed."""

from __future__ import annotations

import torch

from tidegate_worker.ports import DecodedImage, Task


def sheet(width: int, height: int, blobs: int = 6, seed: int = 0) -> torch.Tensor:
    """uint8 CHW; blobs do not touch the border."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.full((3, height, width), 215.0)
    radius = max(3, min(width, height) // 24)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None, :]
    for _ in range(blobs):
        y = int(torch.randint(2 * radius, height - 2 * radius, (), generator=generator))
        x = int(torch.randint(2 * radius, width - 2 * radius, (), generator=generator))
        image[:, (rows - y) ** 2 + (columns - x) ** 2 <= radius**2] = 60.0
    noise = torch.randn(image.shape, generator=generator) * 6
    return (image + noise).clamp(0, 255).to(torch.uint8)


def decoded(pixels: torch.Tensor, image_id: str = "1", scale: float = 1.0) -> DecodedImage:
    height, width = pixels.shape[1:]
    return DecodedImage(
        Task(image_id, f"http://host/{image_id}.jpg"), pixels, round(width / scale), round(height / scale), scale
    )
