"""What a probe's run has measured, in the words of the contract.

The numbers come from the run itself: its readings, its headers, its clocks. Only the copy to the device is measured
apart, because in the run it hides inside prediction.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Final

import torch

from tidegate.core.contract import MIB, ProbeReport, Quantiles
from tidegate_worker.cgroup import cpu_cores
from tidegate_worker.engine import Engine
from tidegate_worker.pipeline.timing import StageName

_COPIES: Final = 5
_MOST_COPIED_BYTES: Final = 256 * MIB


class ProbeRun:
    """Starts the clock; `report` after the engine has run."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._started_at = time.monotonic()

    def report(self, model_load_seconds: float) -> ProbeReport:
        engine = self._engine
        sizes = list(engine.flow.sizes)
        memory = engine.inlet.memory()
        tally = engine.ledger.tally()
        timing = engine.timing.read()
        progress = engine.progress
        decoded_bytes = _quantiles([size.decoded_bytes for size in sizes])
        return ProbeReport(
            run_id=engine.assignment.run_id,
            source=engine.assignment.source,
            pipeline=engine.predictor.pipeline,
            model_version=engine.predictor.model_version,
            images_measured=timing[StageName.INFER].images,
            images_sized=len(sizes),
            images_total=progress.total if progress is not None else None,
            decoded_bytes=decoded_bytes,
            credit_bytes=_quantiles([size.credit_bytes for size in sizes]),
            file_bytes=_quantiles([size.file_bytes for size in sizes]),
            floor_bytes=memory.floor_bytes,
            peak_bytes=memory.peak_bytes,
            growth_bytes_per_image=memory.growth_bytes_per_image,
            download_seconds=timing[StageName.DOWNLOAD].mean,
            decode_seconds=timing[StageName.DECODE].mean,
            infer_seconds=timing[StageName.INFER].mean,
            post_seconds=timing[StageName.POST].mean,
            host_to_device_seconds=_copy_seconds(decoded_bytes, engine.predictor.device),
            model_load_seconds=model_load_seconds,
            cores=cpu_cores(),
            has_cuda=engine.predictor.device.type == "cuda",
            acked=tally.acked,
            failed=tally.failed,
            duration_seconds=time.monotonic() - self._started_at,
        )


def _quantiles(values: Sequence[int]) -> Quantiles | None:
    """Nearest rank, so that each is a size that was seen."""
    if not values:
        return None
    ordered = sorted(values)
    p50, p90, p99 = (float(ordered[min(len(ordered) - 1, int(share * len(ordered)))]) for share in (0.5, 0.9, 0.99))
    return Quantiles(p50=p50, p90=p90, p99=p99, max=float(ordered[-1]))


def _copy_seconds(decoded_bytes: Quantiles | None, device: torch.device) -> float:
    """The median copy of one image of the usual size to the device."""
    if decoded_bytes is None or device.type != "cuda":
        return 0.0
    pixels = torch.zeros(min(int(decoded_bytes.p50), _MOST_COPIED_BYTES), dtype=torch.uint8)
    seconds = []
    for _ in range(_COPIES):
        torch.cuda.synchronize(device)
        started_at = time.perf_counter()
        pixels.to(device)
        torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started_at)
    return statistics.median(seconds)
