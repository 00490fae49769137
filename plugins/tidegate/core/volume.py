"""Whether tonight's input is of the usual size, asked before the first image.

Covers the robust z-score against the same weekday and the verdict in words; what a run does with an unusual volume
(hold, alert, fail) is the DAG's policy, and a seasonal model is the optional Prophet adapter's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median
from typing import Final

from tidegate.core.baseline import DAY_SECONDS, Sample

#: Iglewicz and Hoaglin: a modified z-score above 3.5 is an outlier.
UNUSUAL_Z: Final = 3.5
#: However steady the history, less than this factor either way is nobody's incident: inputs vary, peaks hardly do.
VOLUME_FACTOR: Final = 2.0
PEAK_FACTOR: Final = 1.25
#: A median of fewer says nothing: four weeks of one weekday, or five days of any.
SAME_WEEKDAY_RUNS: Final = 4
ALL_DAYS_RUNS: Final = 5
#: Of a normal distribution, the median absolute deviation is this share of the standard deviation.
_MAD_TO_SIGMA: Final = 0.6745
#: A history without any spread would make every change infinitely odd; 2 % is taken for its spread.
_LEAST_LOG_SPREAD: Final = 0.02

WEEKDAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class Verdict(StrEnum):
    USUAL = "usual"
    UNUSUAL = "unusual"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A value held against its history; `ratio` and `z` are absent where there is none."""

    verdict: Verdict
    reason: str
    ratio: float | None = None
    z: float | None = None


def weekday(at: float) -> int:
    """The UTC weekday of a unix time, Monday as 0 (the epoch was a Thursday)."""
    return int(at // DAY_SECONDS + 3) % 7


def robust_z(value: float, history: Sequence[float], least_spread: float) -> float:
    """How many robust standard deviations `value` lies from the median of `history`, which outliers cannot move."""
    centre, sigma = _robust(history, least_spread)
    return (value - centre) / sigma


def _robust(history: Sequence[float], least_spread: float) -> tuple[float, float]:
    """The median of `history` and its robust standard deviation."""
    if least_spread <= 0:
        raise ValueError("least_spread must be positive: a steady history has a spread of zero")
    if not history:
        raise ValueError("history must hold at least one value")
    centre = median(history)
    deviation = median(abs(each - centre) for each in history)
    return centre, max(deviation, least_spread) / _MAD_TO_SIGMA


def judge_volume(images: int, at: float, recent: Sequence[Sample]) -> Judgement:
    """The verdict on an input of `images` at `at`, from the volumes of earlier runs."""
    history = [(sample.at, sample.images) for sample in recent]
    return _judge(images, at, history, VOLUME_FACTOR, lambda count: f"{count:,.0f} images")


def judge_peak(peak_bytes: int, at: float, recent: Sequence[Sample]) -> Judgement:
    """The verdict on a run's peak: more than last Tuesday may mean drifting data or a heavier model."""
    history = [(sample.at, sample.peak_bytes) for sample in recent if sample.peak_bytes is not None]
    return _judge(peak_bytes, at, history, PEAK_FACTOR, lambda size: f"{size / 2**30:.2f} GiB")


@dataclass(frozen=True, slots=True)
class UsualPeak:
    """What earlier runs lead one to expect, for judging a peak while it grows: z is (ln peak - ln median) / spread."""

    median_bytes: float
    log_spread: float


def usual_peak(at: float, recent: Sequence[Sample]) -> UsualPeak | None:
    """The peak that is usual at `at`; None where there is too little history."""
    known, _ = _comparable(at, [(sample.at, sample.peak_bytes) for sample in recent if sample.peak_bytes is not None])
    if not known:
        return None
    centre, sigma = _robust([math.log1p(each) for each in known], _LEAST_LOG_SPREAD)
    return UsualPeak(median_bytes=math.expm1(centre), log_spread=sigma)


def _comparable(at: float, history: Sequence[tuple[float, float]]) -> tuple[list[float], str]:
    """Values of the same weekday or, where those are few, of any day, with their name; none where those are few too."""
    earlier = [(when, each) for when, each in history if when < at]
    same_day = [each for when, each in earlier if weekday(when) == weekday(at)]
    if len(same_day) >= SAME_WEEKDAY_RUNS:
        return same_day, f"the last {len(same_day)} runs on a {WEEKDAYS[weekday(at)]}"
    if len(earlier) >= ALL_DAYS_RUNS:
        return [each for _, each in earlier], f"the last {len(earlier)} runs on any day"
    return [], f"no history: {len(earlier)} earlier runs, {ALL_DAYS_RUNS} are needed for a comparison"


def _judge(
    value: float,
    at: float,
    history: Sequence[tuple[float, float]],
    material_factor: float,
    in_words: Callable[[float], str],
) -> Judgement:
    known, base = _comparable(at, history)
    if not known:
        return Judgement(Verdict.UNKNOWN, base)
    # Sizes differ by factors, not by sums: a tenth is as odd as tenfold.
    z = robust_z(math.log1p(value), [math.log1p(each) for each in known], _LEAST_LOG_SPREAD)
    usual = median(known)
    ratio = (value + 1) / (usual + 1)
    unusual = abs(z) > UNUSUAL_Z and not 1 / material_factor < ratio < material_factor
    verdict = Verdict.UNUSUAL if unusual else Verdict.USUAL
    reason = f"{in_words(value)}, {ratio:.2g} times the median {in_words(usual)} of {base} (robust z {z:+.1f})"
    return Judgement(verdict, reason, ratio, z)
