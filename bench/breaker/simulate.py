"""Scrape a trace as Prometheus would, let the detector and its rivals judge the samples, and score them by the truth.

A verdict averts when it comes after the onset and at least one remedy before the limit. It is false when the trace
never reaches its limit, and before the onset, by however little. What could be averted: the limit comes two scrapes
and one remedy after the onset, whatever the warm-up or the network did; what these two put out of reach is told
beside. After a trip a judge rests for ten minutes, the rivals too, so that one mistake counts once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.breaker.rivals import RIVALS
from bench.breaker.traces import Trace
from tidegate.core.detector import Detector, Foreseen, Policy, Sample

REMEDIES: Final = {"resize": 15.0, "relaunch": 60.0}
DETECTORS: Final = ("tidegate", "tidegate_memory_only")
REST_SECONDS: Final = 600.0
#: A breaker is not armed while models load and the first batches run.
WARM_UP_SECONDS: Final = Policy().warm_up_seconds
#: From a sample's own time to the verdict on it: scrape, storage and query.
DELAY_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Scrapes:
    """The times at which a judge looks, and the samples it then has (None where the scrape was lost)."""

    interval_seconds: float
    polls: list[tuple[float, Sample | None]]


@dataclass(slots=True)
class Score:
    """What one judge made of one trace."""

    trips: list[tuple[float, str]] = field(default_factory=list)
    #: When the judge saw the pod starve, whether or not another trip came first.
    starved_at: list[float] = field(default_factory=list)

    def first_after(self, onset: float) -> float | None:
        return next((time for time, _ in self.trips if time >= onset), None)

    def before(self, time: float) -> int:
        return sum(1 for trip, _ in self.trips if trip < time)


def scrape(rng: np.random.Generator, trace: Trace, interval_seconds: float, lost_ratio: float) -> Scrapes:
    """Sample a trace with jitter, lost scrapes and an outage now and then."""
    due = np.arange(rng.uniform(0, interval_seconds), trace.seconds - 1, interval_seconds)
    times = np.clip(due + rng.normal(0, 0.02 * interval_seconds, due.size), 0, trace.seconds - 1)
    lost = rng.random(due.size) < lost_ratio
    for at in np.flatnonzero(rng.random(due.size) < lost_ratio / 100):
        lost[at : at + int(rng.integers(3, 12))] = True
    seconds = np.arange(trace.seconds)
    before = times.astype(int)
    columns = (
        times,
        np.interp(times, seconds, trace.memory),
        trace.gate_closed[before],
        trace.wanted[before],
        trace.acked[before],
        np.interp(times, seconds, trace.in_flight),
    )
    polls: list[tuple[float, Sample | None]] = []
    rows = zip(*(column.tolist() for column in columns), lost.tolist(), strict=True)
    for time, memory, gate, wanted, acked, in_flight, gone in rows:
        sample = None if gone else Sample(time, memory, trace.limit_bytes, gate, wanted, acked, in_flight)
        polls.append((time + DELAY_SECONDS, sample))
    return Scrapes(interval_seconds, polls)


def without_worker_series(scrapes: Scrapes) -> Scrapes:
    """The same scrapes of a pod that exports memory and limit alone."""
    return Scrapes(
        scrapes.interval_seconds,
        [
            (now, None if sample is None else Sample(sample.t_seconds, sample.nonreclaimable_bytes, sample.limit_bytes))
            for now, sample in scrapes.polls
        ],
    )


def judge(scrapes: Scrapes, foreseen: Foreseen, policy: Policy) -> Score:
    """Run the detector over the scrapes as the breaker does: one assessment a poll."""
    detector = Detector(policy, foreseen)
    score = Score()
    resting_until = 0.0
    for now, sample in scrapes.polls:
        if sample is not None:
            detector.observe(sample)
        assessment = detector.assess(now)
        if assessment.starved:
            score.starved_at.append(now)
        if assessment.trip is not None and now >= resting_until:
            score.trips.append((now, assessment.trip.value))
            detector.acted(now)
            resting_until = now + REST_SECONDS
    return score


def judge_rivals(scrapes: Scrapes, foreseen: Foreseen) -> dict[str, Score]:
    """Run every rival over the scrapes."""
    kept = [sample for _, sample in scrapes.polls if sample is not None]
    times = np.array([sample.t_seconds for sample in kept])
    limits = np.array([sample.limit_bytes for sample in kept])
    ratio = np.array([sample.nonreclaimable_bytes for sample in kept]) / limits
    if not kept:
        return {name: Score() for name in RIVALS}
    baseline = foreseen.baseline_velocity_bytes_per_second / float(limits[0])
    return {
        name: Score([(time, "velocity") for time in _rested(rule(times, ratio, baseline) + DELAY_SECONDS)])
        for name, rule in RIVALS.items()
    }


def _rested(times: NDArray[np.float64]) -> Iterator[float]:
    until = 0.0
    for time in times.tolist():
        if time >= until:
            yield time
            until = time + REST_SECONDS


def is_avertable(trace: Trace, interval_seconds: float, remedy_seconds: float) -> bool:
    """Whether two scrapes and the remedy fit between the onset and the limit."""
    limit_at = trace.limit_at
    if limit_at is None or trace.onset is None:
        return False
    return limit_at - trace.onset >= 2 * interval_seconds + remedy_seconds


def excuse(trace: Trace, scrapes: Scrapes, remedy_seconds: float) -> str | None:
    """Why an avertable trace was out of reach of a judge that respects a warm-up and trips on two samples."""
    limit_at, onset = trace.limit_at, trace.onset
    if limit_at is None or onset is None:
        return None
    armed_at = max(onset, trace.work_at + WARM_UP_SECONDS)
    if limit_at - armed_at < 2 * scrapes.interval_seconds + remedy_seconds:
        return "the warm-up"
    last = limit_at - remedy_seconds - DELAY_SECONDS
    arrived = sum(1 for _, sample in scrapes.polls if sample is not None and armed_at < sample.t_seconds <= last)
    return "lost scrapes" if arrived < 2 else None


def averted(trace: Trace, score: Score, remedy_seconds: float) -> bool:
    limit_at, onset = trace.limit_at, trace.onset
    if limit_at is None or onset is None:
        return False
    trip = score.first_after(onset)
    return trip is not None and trip + remedy_seconds <= limit_at


def starved_after(trace: Trace, score: Score) -> float | None:
    """Seconds from the onset of crawling until the judge saw it."""
    onset = trace.onset
    if onset is None:
        return None
    return next((time - onset for time in score.starved_at if time >= onset), None)
