"""What healthy runs of one kind of job have needed, forgotten at a stated half-life.

Covers the decaying histogram (the shape of the Kubernetes vertical autoscaler's: exponential buckets, a half-life, no
sample kept) and the baseline of one (pipeline, model version, job kind) made of them. Judging tonight's volume is
`volume`, turning a baseline into a plan is `sizing`. A run that its own memory killed teaches nothing of need: its peak
is its limit, and letting it in would make each kill raise every later plan.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from tidegate.core.contract import Bytes, Count, Name, Part, Payload, PositiveBytes, Ratio, Seconds, UnixSeconds

DAY_SECONDS: Final = 86_400.0
#: Jobs run nightly: a week-old run counts half, one of a month ago a sixteenth.
HALF_LIFE_SECONDS: Final = 7 * DAY_SECONDS
#: So many healthy runs stand in for a probe, unless the newest is older than STALE_SECONDS.
SETTLED_RUNS: Final = 5
STALE_SECONDS: Final = 30 * DAY_SECONDS
#: Four months of nights: seventeen of each weekday for the comparison of volumes.
RECENT_RUNS: Final = 120

#: Each bucket ends 5 % above the one before, so a percentile is at most 5 % too high and never too low.
_BUCKET_RATIO: Final = 1.05
_BUCKET_LOG: Final = math.log(_BUCKET_RATIO)
#: The end of the first bucket: a microsecond, and far below a byte.
_SMALLEST: Final = 1e-6
_NEGLIGIBLE_WEIGHT: Final = 1e-6


class DecayingHistogram(Part):
    """A distribution whose samples lose half their weight every half-life."""

    half_life_seconds: Annotated[float, Field(gt=0)] = HALF_LIFE_SECONDS
    #: The time at which a new sample weighs one.
    reference: UnixSeconds = 0.0
    #: (bucket, weight), by rising bucket; bucket 0 holds zeros alone.
    weights: tuple[tuple[Count, Annotated[float, Field(gt=0)]], ...] = ()

    @model_validator(mode="after")
    def _rising(self) -> Self:
        buckets = [bucket for bucket, _ in self.weights]
        if buckets != sorted(set(buckets)):
            raise ValueError("weights must rise by bucket, each bucket once")
        return self

    def add(self, value: float, at: float) -> Self:
        """This histogram with `value` seen at `at`; a sample that arrives late gets the weight its age leaves it."""
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"value must be finite and not negative, not {value}")
        reference = max(self.reference, at) if self.weights else at
        fade = self._fade(reference - self.reference)
        kept = {bucket: faded for bucket, weight in self.weights if (faded := weight * fade) > _NEGLIGIBLE_WEIGHT}
        bucket = _bucket(value)
        kept[bucket] = kept.get(bucket, 0.0) + max(self._fade(reference - at), _NEGLIGIBLE_WEIGHT)
        return self.model_copy(update={"reference": reference, "weights": tuple(sorted(kept.items()))})

    def percentile(self, share: float) -> float | None:
        """The end of the bucket below which `share` of the weight lies; None where nothing was seen."""
        total = sum(weight for _, weight in self.weights)
        below = 0.0
        for bucket, weight in self.weights:
            below += weight
            # Sums of faded weights do not add up exactly; the last bucket must answer for share 1.
            if below >= share * total * (1 - 1e-12):
                return _bucket_end(bucket)
        return None

    def _fade(self, seconds: float) -> float:
        return float(2.0 ** (-seconds / self.half_life_seconds))


def _bucket(value: float) -> int:
    return 0 if value == 0 else 1 + max(0, math.ceil(math.log(value / _SMALLEST) / _BUCKET_LOG - 1e-9))


def _bucket_end(bucket: int) -> float:
    return 0.0 if bucket == 0 else float(_SMALLEST * _BUCKET_RATIO ** (bucket - 1))


class Quantity(StrEnum):
    """What a baseline remembers as a distribution."""

    FLOOR_BYTES = "floor_bytes"
    IMAGE_BYTES = "image_bytes"
    LARGEST_IMAGE_BYTES = "largest_image_bytes"
    FILE_BYTES = "file_bytes"
    GROWTH_BYTES_PER_IMAGE = "growth_bytes_per_image"
    BUDGET_BYTES = "budget_bytes"
    PEAK_BYTES = "peak_bytes"
    DOWNLOAD_SECONDS = "download_seconds"
    DECODE_SECONDS = "decode_seconds"
    INFER_SECONDS = "infer_seconds"
    POST_SECONDS = "post_seconds"
    HOST_TO_DEVICE_SECONDS = "host_to_device_seconds"
    MODEL_LOAD_SECONDS = "model_load_seconds"


class BaselineKey(Part):
    """Runs that may be compared: the same code and weights on the same kind of job."""

    pipeline: Name
    model_version: Name
    job_kind: Name


class FinishedRun(Part):
    """One ended run as the baseline sees it; what was not measured is left out, never set to zero."""

    at: UnixSeconds
    images: Count
    runtime_seconds: Seconds = 0.0
    #: Verified against the source's own count.
    completed: bool = True
    oom_kills: Count = 0
    limit_bytes: PositiveBytes | None = None
    peak_bytes: Bytes | None = None
    floor_bytes: Bytes | None = None
    #: Byte credits of an image at p90, and of the largest one.
    image_bytes: Bytes | None = None
    largest_image_bytes: Bytes | None = None
    file_bytes: Bytes | None = None
    growth_bytes_per_image: Bytes | None = None
    budget_bytes: Bytes | None = None
    download_seconds: Seconds | None = None
    decode_seconds: Seconds | None = None
    infer_seconds: Seconds | None = None
    post_seconds: Seconds | None = None
    host_to_device_seconds: Seconds | None = None
    model_load_seconds: Seconds | None = None
    cores: Ratio | None = None
    has_cuda: bool | None = None

    @property
    def healthy(self) -> bool:
        return self.completed and self.oom_kills == 0


class Sample(Part):
    """What is kept of a run for comparison with single days."""

    at: UnixSeconds
    images: Count
    #: Absent where the run was not healthy: its peak tells of its limit, not of its need.
    peak_bytes: Bytes | None = None
    runtime_seconds: Seconds = 0.0


class Baseline(Payload):
    """All that healthy runs under one key have taught; a value, kept as JSON in the run store."""

    key: BaselineKey
    healthy_runs: Count = 0
    unhealthy_runs: Count = 0
    last_healthy: UnixSeconds | None = None
    cores: Ratio | None = None
    has_cuda: bool = False
    #: By the name of a Quantity; what a newer writer has added is kept for it.
    quantities: dict[str, DecayingHistogram] = Field(default_factory=dict)
    recent: tuple[Sample, ...] = ()

    def observe(self, run: FinishedRun) -> Self:
        """This baseline after `run`; the volume of every run counts, the need of healthy ones alone."""
        sample = Sample(
            at=run.at,
            images=run.images,
            peak_bytes=run.peak_bytes if run.healthy else None,
            runtime_seconds=run.runtime_seconds,
        )
        recent = tuple(sorted((*self.recent, sample), key=lambda each: each.at))[-RECENT_RUNS:]
        if not run.healthy:
            return self.model_copy(update={"unhealthy_runs": self.unhealthy_runs + 1, "recent": recent})
        quantities = dict(self.quantities)
        for quantity in Quantity:
            value: float | None = getattr(run, quantity.value)
            if value is not None:
                quantities[quantity] = quantities.get(quantity, DecayingHistogram()).add(value, run.at)
        return self.model_copy(
            update={
                "healthy_runs": self.healthy_runs + 1,
                "last_healthy": max(self.last_healthy or 0.0, run.at),
                "cores": run.cores or self.cores,
                "has_cuda": self.has_cuda if run.has_cuda is None else run.has_cuda,
                "quantities": quantities,
                "recent": recent,
            }
        )

    def settled(self, now: float) -> bool:
        """Whether a probe may be skipped: enough healthy runs, the newest not stale."""
        return (
            self.healthy_runs >= SETTLED_RUNS
            and self.last_healthy is not None
            and now - self.last_healthy <= STALE_SECONDS
        )

    def percentile(self, quantity: Quantity, share: float) -> float | None:
        """The decayed percentile of `quantity`; None where no healthy run measured it."""
        histogram = self.quantities.get(quantity)
        return None if histogram is None else histogram.percentile(share)
