"""The sizing policies under test: four that people use, and Tidegate's own, which is `tidegate.core.headroom` itself.

A policy sees a run's key, input and request, and the runs that ended; what a replay makes of its limits is `replay`.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import defaultdict
from dataclasses import dataclass
from typing import Final, Protocol

from bench.sizing.trace import Run
from tidegate.core.baseline import DAY_SECONDS, DecayingHistogram
from tidegate.core.headroom import EndedRun, Headroom, HeadroomPolicy

_MARGIN: Final = 1.15
MIB: Final = 2**20


@dataclass(frozen=True, slots=True)
class Ended:
    """A run that ended, and whether its own memory killed it on the way."""

    run: Run
    at_seconds: float
    killed: bool


class Policy(Protocol):
    """Limits for runs, from runs that ended."""

    def limit_bytes(self, run: Run) -> float: ...
    def next_limit_bytes(self, run: Run, limit_bytes: float, /) -> float: ...
    def observe(self, ended: Ended) -> None: ...


class AsRequested:
    """What the author asked for; twice as much after a kill, as workflow engines do."""

    def limit_bytes(self, run: Run) -> float:
        return run.request_bytes

    def next_limit_bytes(self, run: Run, limit_bytes: float) -> float:
        return run.request_bytes if limit_bytes < run.request_bytes else 2 * limit_bytes

    def observe(self, ended: Ended) -> None:
        pass


class MaxWithMargin(AsRequested):
    """The highest peak of the key plus 15 %; the request where there is none, and after a kill."""

    def __init__(self) -> None:
        self._highest: dict[str, float] = {}

    def limit_bytes(self, run: Run) -> float:
        highest = self._highest.get(run.key)
        return run.request_bytes if highest is None else highest * _MARGIN

    def observe(self, ended: Ended) -> None:
        key, peak = ended.run.key, ended.run.peak_bytes
        self._highest[key] = max(self._highest.get(key, 0.0), peak)


class Percentile99(AsRequested):
    """The 99th percentile of the key's peaks; the request where there is none, and after a kill."""

    def __init__(self) -> None:
        self._peaks: defaultdict[str, list[float]] = defaultdict(list)

    def limit_bytes(self, run: Run) -> float:
        peaks = self._peaks[run.key]
        return peaks[math.ceil(0.99 * len(peaks)) - 1] if peaks else run.request_bytes

    def observe(self, ended: Ended) -> None:
        insort(self._peaks[ended.run.key], ended.run.peak_bytes)


class VerticalAutoscaler:
    """As the Kubernetes vertical autoscaler: decaying p90 (half-life a day) plus 15 %, bumped by 20 % or 100 MiB."""

    def __init__(self) -> None:
        self._peaks: dict[str, DecayingHistogram] = {}

    def limit_bytes(self, run: Run) -> float:
        histogram = self._peaks.get(run.key)
        usual = histogram.percentile(0.9) if histogram is not None else None
        return run.request_bytes if usual is None else usual * _MARGIN

    def next_limit_bytes(self, _run: Run, limit_bytes: float) -> float:
        return max(limit_bytes * 1.2, limit_bytes + 100 * MIB)

    def observe(self, ended: Ended) -> None:
        histogram = self._peaks.get(ended.run.key, DecayingHistogram(half_life_seconds=DAY_SECONDS))
        self._peaks[ended.run.key] = histogram.add(ended.run.peak_bytes, ended.at_seconds)


class Tidegate:
    """The core's headroom policy, told what a kill loses here."""

    def __init__(self, lost_ratio: float) -> None:
        self._headroom = Headroom(HeadroomPolicy(lost_ratio=lost_ratio))

    def limit_bytes(self, run: Run) -> float:
        return self._headroom.limit_bytes(run.key, run.input_bytes, run.request_bytes)

    def next_limit_bytes(self, run: Run, limit_bytes: float) -> float:
        return self._headroom.next_limit_bytes(run.key, run.input_bytes, run.request_bytes, limit_bytes)

    def observe(self, ended: Ended) -> None:
        run = EndedRun(ended.run.input_bytes, ended.run.peak_bytes, ended.run.runtime_seconds)
        self._headroom.observe(ended.run.key, run, ended.killed)
