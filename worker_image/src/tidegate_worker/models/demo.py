"""A predictor that leaks, dawdles or dies on command: what demos and tests of the machinery run against.

Only pipelines that the catalogue marks `demo` are wrapped, and only by `TIDEGATE_DEMO_*`; nothing here is imitation:
leaked memory is written to and kept, a poisonous image really kills the process.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import torch

from tidegate.core.contract import GIB, MIB
from tidegate_worker.ports import DecodedImage, Prediction, Predictor

_PAGE_BYTES = 4096


class Poison(StrEnum):
    SEGFAULT = "segfault"
    ABORT = "abort"
    #: Allocate until the kernel kills, at the latest `poison_bytes`, then abort.
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class Misbehaviour:
    leak_bytes_per_image: int = 0
    infer_seconds_per_image: float = 0.0
    #: Held and written while an image is predicted; what `workspace_bytes` says grows by as much.
    workspace_bytes: int = 0
    #: Held from the start, as weights are.
    model_bytes: int = 0
    #: Held while every so manieth image is predicted, and counted by nobody: what no gate and no breaker foresees.
    burst_bytes: int = 0
    burst_every_images: int = 50
    crash_on: frozenset[str] = frozenset()
    poison: Poison = Poison.SEGFAULT
    poison_bytes: int = 32 * GIB


class DemoPredictor:
    """`predictor`, misbehaving."""

    def __init__(self, predictor: Predictor, misbehaviour: Misbehaviour) -> None:
        self._predictor = predictor
        self._misbehaviour = misbehaviour
        self._held = [written(misbehaviour.model_bytes)]
        self._predicted = 0
        self.pipeline = predictor.pipeline
        self.model_version = predictor.model_version
        self.device: torch.device = predictor.device

    def workspace_bytes(self, width: int, height: int) -> int:
        return self._predictor.workspace_bytes(width, height) + self._misbehaviour.workspace_bytes

    def predict(self, images: Sequence[DecodedImage]) -> list[Prediction]:
        for image in images:
            if image.task.image_id in self._misbehaviour.crash_on:
                _die(self._misbehaviour.poison, self._misbehaviour.poison_bytes)
        workspace = [written(self._workspace_of_next()) for _ in images]
        began = time.perf_counter()
        predictions = self._predictor.predict(images)
        rest = self._misbehaviour.infer_seconds_per_image * len(images) - (time.perf_counter() - began)
        time.sleep(max(0.0, rest))
        del workspace
        self._held += [written(self._misbehaviour.leak_bytes_per_image) for _ in images]
        seconds = (time.perf_counter() - began) / max(1, len(images))
        return [replace(each, infer_seconds=seconds) for each in predictions]

    def _workspace_of_next(self) -> int:
        self._predicted += 1
        bursts = self._predicted % self._misbehaviour.burst_every_images == 0
        return self._misbehaviour.workspace_bytes + (self._misbehaviour.burst_bytes if bursts else 0)


def written(size_bytes: int) -> np.ndarray:
    """Memory that the kernel had to give: one byte of every page is set."""
    block = np.empty(size_bytes, dtype=np.uint8)
    block[::_PAGE_BYTES] = 1
    return block


def _die(poison: Poison, poison_bytes: int) -> None:
    match poison:
        case Poison.SEGFAULT:
            ctypes.string_at(0)
        case Poison.MEMORY:
            held: list[np.ndarray] = []
            while 64 * MIB * len(held) < poison_bytes:
                held.append(written(64 * MIB))
        case Poison.ABORT:
            pass
    os.abort()
