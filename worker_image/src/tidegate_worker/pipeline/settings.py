"""What an operator may set of the engine; values only, the environment is read elsewhere.

How much is taken in at a time is not here: that is the plan's (`IngestSettings` of the assignment).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from tidegate.core.contract import METRICS_PORT, MIB
from tidegate_worker.policy.unreachable import SETTLE_SECONDS


class DecodeMode(StrEnum):
    #: Every pixel of the file, as any other full-resolution reader gets them.
    EXACT = "exact"
    #: JPEGs at 1/2, 1/4 or 1/8 by DCT scaling, never below `fast_edge_pixels`.
    FAST = "fast"


DEFAULT_MAX_PIXELS: Final = 250_000_000


@dataclass(frozen=True, slots=True)
class EngineSettings:
    #: On a disk, never on a memory-backed volume; private to this worker.
    staging_dir: Path
    #: Where the kubelet looks for the last words; None where nobody reads them.
    termination_log: Path | None = None
    metrics_address: str = "127.0.0.1"
    #: None: no metrics are served. 0: any free port.
    metrics_port: int | None = METRICS_PORT
    node: str = ""
    decode_mode: DecodeMode = DecodeMode.EXACT
    #: The shorter edge that fast decoding must leave.
    fast_edge_pixels: int = 1024
    #: JPEGs are decoded by nvJPEG where the predictor is on CUDA; differs from libjpeg by a rounding step.
    nvjpeg: bool = False
    max_pixels: int = DEFAULT_MAX_PIXELS
    max_file_bytes: int = 512 * MIB
    #: Above this share of failed images, once `failure_minimum` have failed, the run stops with exit 65.
    failure_ratio: float = 0.5
    failure_minimum: int = 20
    #: The job's owner may be away this long before the worker gives up with exit 69.
    upstream_silence_seconds: float = 900.0
    #: Between two polls that brought nothing.
    poll_seconds: float = 5.0
    #: How soon a job that was cancelled is noticed while there is work.
    progress_seconds: float = 30.0
    #: Beyond the lease time without a task: what another worker let lapse has come again by then.
    idle_margin_seconds: float = 30.0
    #: For so long the owner's count must stand still before what no lease brings any more is answered with an error.
    settle_seconds: float = SETTLE_SECONDS
    show_progress: bool = False
