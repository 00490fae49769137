"""How many images a worker may lease at once, and the grace that lets it answer them all.

A lease cannot be given back, and one that runs out twice is an image lost: a worker holds at most what it answers
within a third of the lease time and within its grace. How fast it answers is `throughput`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from tidegate.core.throughput import Saturation
from tidegate.core.workload import Workload

#: Answering, uploading the report and leaving, before the kubelet kills.
_GRACE_MARGIN_SECONDS: Final = 15.0
LEAST_GRACE_SECONDS: Final = 30.0
_LEASE_SHARE: Final = 1 / 3


@dataclass(frozen=True, slots=True)
class Leases:
    """How many images a worker may hold unanswered, and how long it is given to answer them when told to stop."""

    images: int
    grace_seconds: float
    reasons: tuple[str, ...]


def plan_leases(
    work: Workload,
    full: Saturation,
    rate: float,
    lease_seconds: float,
    most_grace_seconds: float,
    fixed_images: int | None = None,
) -> Leases:
    """The leases that keep every stage busy, as far as lease time and grace allow; `fixed_images` if a person chose."""
    alone_seconds = work.download_seconds + work.decode_seconds + work.infer_seconds + work.post_seconds
    helpful = full.downloads_in_flight + full.staged_images + math.ceil(full.budget_bytes / work.image_bytes)
    rate = rate or 1 / max(alone_seconds, 1.0)
    grace = min(
        most_grace_seconds, max(LEAST_GRACE_SECONDS, math.ceil(_GRACE_MARGIN_SECONDS + helpful / rate + alone_seconds))
    )
    work_seconds = min(lease_seconds * _LEASE_SHARE, grace - _GRACE_MARGIN_SECONDS)
    images = fixed_images or max(1, min(helpful, math.floor(rate * work_seconds)))
    reasons = [
        f"{images} leases at once: {work_seconds:.0f} s of work at {rate:.2f} images/s, {helpful} keep every stage"
        f" busy; grace {grace:.0f} s"
    ]
    if alone_seconds > work_seconds:
        reasons.append(
            f"one image takes {alone_seconds:.0f} s, longer than the {work_seconds:.0f} s that lease and grace leave:"
            " raise the grace cap or the source's lease time, or images will be delivered twice"
        )
    return Leases(images, grace, tuple(reasons))
