"""Little's law over download, decoding and inference: how many images in flight keep a worker busy, and how fast it is.

Covers the rate no memory can raise, the images in flight that reach it, and the rate that fewer of them leave; bytes of
pods and gates are `sizing`. In steady state images in flight = rate x time in flight; past the saturating number more
memory only waits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from tidegate.core.contract import MIB
from tidegate.core.workload import Workload

#: Stages of a probe on tiny images can measure as zero; a thousand images a second is beyond any worker.
_LEAST_SECONDS: Final = 1e-3
#: A step on the device longer than this makes draining slow and buys nothing.
_STEP_SECONDS: Final = 1.0
#: Beyond so many decoded bytes a device is busy with pixels, whatever their number of images.
_BATCH_BYTES: Final = 512 * MIB
_CUDA_BATCH_IMAGES: Final = 24
#: Without a device a batch saves little more than call overhead.
_CPU_BATCH_IMAGES: Final = 4
#: One batch on the device, the next one filling.
_BATCHES_IN_FLIGHT: Final = 2
#: Sessions and their descriptors stay few; a source that needs more is the bottleneck itself.
MAX_DOWNLOADS: Final = 32
#: Download times vary: twice the mean in flight keeps decoding fed while some are slow.
_DOWNLOAD_SLACK: Final = 2.0
_DECODE_SLACK: Final = 1.25


@dataclass(frozen=True, slots=True)
class Saturation:
    """The point beyond which images/s no longer rises."""

    images_per_second: float
    #: What sets that rate, in words.
    bottleneck: str
    micro_batch_images: int
    #: Credits of one micro-batch; grows steadily with the size of images, where a count of images would jump.
    batch_bytes: int
    budget_bytes: int
    decode_threads: int
    downloads_in_flight: int
    staged_images: int


def saturate(work: Workload, micro_batch_images: int | None = None) -> Saturation:
    """The saturation of `work`, at a micro-batch that a person chose or at the one that fits its images."""
    infer, decode = max(work.infer_seconds, _LEAST_SECONDS), max(work.decode_seconds, _LEAST_SECONDS)
    rate, bottleneck = _rate(work, infer, decode)
    most = _CUDA_BATCH_IMAGES if work.has_cuda else _CPU_BATCH_IMAGES
    wanted = micro_batch_images or max(1, min(most, round(_STEP_SECONDS / infer)))
    most_bytes = wanted * work.image_bytes if micro_batch_images else _BATCH_BYTES
    batch_bytes = max(work.image_bytes, min(wanted * work.image_bytes, most_bytes))
    batch = max(1, batch_bytes // work.image_bytes)
    downloading = rate * work.download_seconds
    threads = max(1, min(math.floor(work.cores), math.ceil(rate * decode * _DECODE_SLACK)))
    return Saturation(
        images_per_second=rate,
        bottleneck=bottleneck,
        micro_batch_images=batch,
        batch_bytes=batch_bytes,
        budget_bytes=threads * work.image_bytes + _BATCHES_IN_FLIGHT * batch_bytes,
        decode_threads=threads,
        downloads_in_flight=max(1, min(MAX_DOWNLOADS, math.ceil(downloading * _DOWNLOAD_SLACK))),
        # What arrives during two downloads, beside the batch that is next: a slow source is hidden, a fast one
        # keeps the disk empty.
        staged_images=batch + math.ceil(downloading * _DOWNLOAD_SLACK),
    )


def rate_with(work: Workload, full: Saturation, room_bytes: float) -> float:
    """Images/s with `room_bytes` for credits; zero where no typical image fits, one after the other where one does."""
    if room_bytes < work.typical_image_bytes:
        return 0.0
    alone = 1 / (max(work.decode_seconds, _LEAST_SECONDS) + max(work.infer_seconds, _LEAST_SECONDS))
    return min(full.images_per_second, max(alone, full.images_per_second * room_bytes / full.budget_bytes))


def _rate(work: Workload, infer: float, decode: float) -> tuple[float, str]:
    if work.has_cuda:
        limits = [(1 / infer, "inference"), (max(1.0, work.cores) / decode, "decoding")]
    else:
        # Inference and decoding share the cores; inference was measured on all of them.
        limits = [(1 / (infer + decode / max(1.0, work.cores)), "inference and decoding on the same cores")]
    if work.download_seconds > 0:
        limits.append((MAX_DOWNLOADS / work.download_seconds, "downloads"))
    return min(limits)
