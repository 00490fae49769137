"""Byte credits: what the images in flight may cost together, counted until the last view of their pixels is freed."""

from __future__ import annotations

import weakref
from collections import deque

import torch


class Credits:
    """The sum of all credits. Lock-free on release: pixels are freed in whatever thread drops their last view, even
    inside a lock of ours, so releases queue up and are summed when the sum is read.
    """

    def __init__(self) -> None:
        self._in_use_bytes = 0
        self._released: deque[int] = deque()

    def take(self, cost_bytes: int) -> Credit:
        """Called under the inlet's lock, like `in_use_bytes`."""
        self._in_use_bytes += cost_bytes
        return Credit(self._released, cost_bytes)

    def in_use_bytes(self) -> int:
        while self._released:
            self._in_use_bytes -= self._released.popleft()
        return self._in_use_bytes


class Credit:
    """One image's share. After decoding it is split: the pixels' part goes with their memory, the rest by `release`."""

    def __init__(self, released: deque[int], cost_bytes: int) -> None:
        self._released = released
        self._rest_bytes = cost_bytes

    def bind(self, pixels: torch.Tensor, rest_bytes: int) -> None:
        """Decoding is over: what only it needed is given back, the pixels' part is given back by the last view."""
        storage = pixels.untyped_storage()
        pixel_bytes = storage.nbytes()
        # A storage's Python object lives exactly as long as the memory: it goes with the last tensor that views it.
        weakref.finalize(storage, self._released.append, pixel_bytes).atexit = False
        self._released.append(self._rest_bytes - pixel_bytes - rest_bytes)
        self._rest_bytes = rest_bytes

    def release(self) -> None:
        """What is not bound to pixels; further calls do nothing."""
        self._released.append(self._rest_bytes)
        self._rest_bytes = 0
