"""Samples of one pod's memory -> an assessment: does it run out of memory, or does it crawl, and on what evidence.

The rule in one sentence: trip at the last moment at which the slowest remedy still comes in time, and only on growth
that several samples agree on, that does not die away, and that goes beyond what the plan foresaw or the pod survived.

| signal    | fires when                                                                  | alone it             |
|-----------|-----------------------------------------------------------------------------|----------------------|
| reach     | growth reaches the limit within the horizon (fast, steady and slow windows) | trips VELOCITY       |
| gate      | the gate was shut for 30 s, or much of a minute at under half the plan's pace | trips STARVED        |
| wanted    | an image has waited for memory for 30 s                                      | trips STARVED        |
| ratio     | memory over 0.85 of the limit for a minute, and over what the plan foresaw   | widens the horizon   |
| velocity  | growth over three times the baseline's                                       | (two of these three  |
| zscore    | the peak is 3.5 robust sigmas over the history of peaks                      | together)            |

Memory is the non-reclaimable part alone. Where the worker tells its byte credits in flight, growth they account for
is load that ends with the budget, and only the rest is judged. OOM kills are seen, and remedies chosen, elsewhere.
Pure: time comes with the samples and with `assess`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Final, Self

from tidegate.core.contract import Character, TripCause
from tidegate.core.detection import (
    Assessment,
    Foreseen,
    Policy,
    Sample,
    Signal,
    in_gib,
    ratio_signal,
    velocity_signal,
    zscore_signal,
)
from tidegate.core.growth import Growth, Reach
from tidegate.core.starvation import Starvation
from tidegate.core.trend import median

__all__ = [
    "Assessment",
    "Detector",
    "Foreseen",
    "Policy",
    "Sample",
    "Signal",
    "ratio_signal",
    "velocity_signal",
    "zscore_signal",
]

#: Gaps between samples whose median is the scrape interval: a few lost scrapes do not move it.
_GAPS: Final = 7


class Detector:
    """Judges one pod from its samples, in constant memory and a small constant time a sample."""

    def __init__(self, policy: Policy | None = None, foreseen: Foreseen | None = None) -> None:
        self._policy = policy or Policy()
        self.foreseen = foreseen or Foreseen()
        self._dropped: dict[str, int] = {}
        self._restarts = 0
        self._held_until = -math.inf
        self._last: Sample | None = None
        self._gaps: deque[float] = deque(maxlen=_GAPS)
        self._growth: Growth | None = None
        self._starvation = Starvation(self._policy)
        self._over_since: float | None = None

    @classmethod
    def rebuild(cls, samples: Iterable[Sample], policy: Policy | None = None, foreseen: Foreseen | None = None) -> Self:
        """A detector that has seen `samples`: what a restarted judge makes of the stored ones."""
        detector = cls(policy, foreseen)
        for sample in samples:
            detector.observe(sample)
        return detector

    @property
    def dropped_samples(self) -> int:
        return sum(self._dropped.values())

    def acted(self, now_seconds: float) -> None:
        """A remedy was applied: no trip until its effect is in the samples."""
        self._held_until = now_seconds + self._policy.cool_down_seconds

    def reset(self) -> None:
        """Another pod or process took the place of this one: all that was learnt of its memory is void."""
        self._last = None
        self._gaps.clear()
        self._growth = None
        self._starvation = Starvation(self._policy)
        self._over_since = None

    def observe(self, sample: Sample) -> None:
        """Take in one sample; a sample that cannot be true is dropped and counted."""
        if (reason := self._unfit(sample)) is not None:
            self._drop(reason)
            return
        if self._last is not None:
            self._join(self._last, sample)
        if self._growth is None:
            self._growth = Growth(self._policy, sample)
        self._last = sample
        self._growth.observe(sample, self._interval_seconds)
        self._starvation.observe(sample)
        over = sample.nonreclaimable_bytes >= self._policy.ratio_threshold * sample.limit_bytes
        if not over or sample.nonreclaimable_bytes <= self.foreseen.upper_bytes:
            self._over_since = None
        elif self._over_since is None:
            self._over_since = sample.t_seconds

    def _join(self, last: Sample, sample: Sample) -> None:
        """What lies between two samples: one interval, a restart, or a gap too long to draw a line across."""
        gap = sample.t_seconds - last.t_seconds
        if sample.acked < last.acked or sample.gate_closed_seconds < last.gate_closed_seconds:
            self._restarts += 1
            self.reset()
        elif self._growth is not None and gap > self._policy.broken_scrapes * self._interval_seconds:
            self._growth.broke_off()
            self._starvation = Starvation(self._policy)
            self._over_since = None
        else:
            self._gaps.append(gap)

    @property
    def _interval_seconds(self) -> float:
        return median(self._gaps) if self._gaps else self._policy.first_interval_seconds

    def _horizon_seconds(self, signals: tuple[Signal, ...]) -> float:
        """A remedy begun now, or after the scrapes that may still be waited for, must end before the limit."""
        policy = self._policy
        horizon = policy.remedy_seconds + policy.scrapes_waited * self._interval_seconds
        corroborated = sum(signal.fires for signal in signals) >= 2
        return horizon * policy.horizon_margin_ratio * (policy.corroborated_factor if corroborated else 1.0)

    def assess(self, now_seconds: float) -> Assessment:
        """The state of the pod at `now_seconds`, from the samples so far."""
        last, growth = self._last, self._growth
        if last is not None and last.t_seconds > now_seconds + self._policy.clock_tolerance_seconds:
            self._drop("stamped in the future")
            self.reset()
            last = None
        if last is None or growth is None:
            return self._unseen(now_seconds)
        blind = max(0.0, now_seconds - last.t_seconds)
        sees = blind <= self._policy.blind_scrapes * self._interval_seconds
        held = now_seconds < self._held_until
        velocity = growth.velocity_bytes_per_second
        signals = self._signals(last, growth, velocity)
        horizon = self._horizon_seconds(signals)
        reach = growth.reach(self.foreseen, horizon, blind) if sees else None
        starving = self._starvation.sentence(self.foreseen) if sees else None
        memory, limit = last.nonreclaimable_bytes, last.limit_bytes
        eta = max(0.0, (limit - memory) / velocity - blind) if velocity > 0 else None
        projected = memory
        if reach:
            velocity, eta = reach.velocity_bytes_per_second, reach.limit_in_seconds
            projected += velocity * horizon
        return Assessment(
            trip=None if held else TripCause.VELOCITY if reach else TripCause.STARVED if starving else None,
            ratio=memory / limit,
            velocity_bytes_per_second=velocity,
            limit_in_seconds=eta,
            starved=starving is not None,
            character=growth.character() if reach or starving else Character.UNKNOWN,
            nonreclaimable_bytes=int(memory),
            limit_bytes=int(limit),
            peak_bytes=int(growth.peak_bytes),
            wanted_bytes=int(last.wanted_bytes),
            projected_bytes=int(max(projected, growth.peak_bytes, last.wanted_bytes)),
            blind_seconds=blind,
            dropped_samples=self.dropped_samples,
            evidence=self._evidence(last, reach, starving, signals) + self._notes(0.0 if sees else blind),
            signals=signals,
            warming_up=growth.warming_up,
            cooling_down=held,
        )

    def _unseen(self, now_seconds: float) -> Assessment:
        return Assessment(
            trip=None,
            ratio=0.0,
            velocity_bytes_per_second=0.0,
            limit_in_seconds=None,
            starved=False,
            character=Character.UNKNOWN,
            nonreclaimable_bytes=0,
            limit_bytes=0,
            peak_bytes=0,
            wanted_bytes=0,
            projected_bytes=0,
            blind_seconds=math.inf,
            dropped_samples=self.dropped_samples,
            evidence=self._notes(0.0),
            warming_up=True,
            cooling_down=now_seconds < self._held_until,
        )

    def _signals(self, last: Sample, growth: Growth, velocity: float) -> tuple[Signal, ...]:
        policy = self._policy
        above = 0.0 if self._over_since is None else last.t_seconds - self._over_since
        return (
            ratio_signal(above, last.nonreclaimable_bytes / last.limit_bytes, policy),
            velocity_signal(velocity, self.foreseen.baseline_velocity_bytes_per_second, policy),
            zscore_signal(growth.peak_bytes, self.foreseen, policy),
        )

    def _drop(self, reason: str) -> None:
        self._dropped[reason] = self._dropped.get(reason, 0) + 1

    def _unfit(self, sample: Sample) -> str | None:
        numbers = (
            sample.t_seconds,
            sample.nonreclaimable_bytes,
            sample.limit_bytes,
            sample.gate_closed_seconds,
            sample.wanted_bytes,
            sample.acked,
            sample.in_flight_bytes or 0.0,
        )
        if not all(map(math.isfinite, numbers)):
            return "not a number"
        if min(numbers[1:]) < 0:
            return "negative"
        if sample.limit_bytes == 0:
            return "without a limit"
        if self._last is not None and sample.t_seconds <= self._last.t_seconds:
            return "repeated" if sample.t_seconds == self._last.t_seconds else "older than the last"
        return None

    def _evidence(
        self, last: Sample, reach: Reach | None, starving: str | None, signals: tuple[Signal, ...]
    ) -> tuple[str, ...]:
        if reach is None and starving is None:
            return ()
        lines = []
        if reach is not None:
            lines.append(
                f"{in_gib(last.nonreclaimable_bytes)} of {in_gib(last.limit_bytes)} "
                f"({last.nonreclaimable_bytes / last.limit_bytes:.0%}) reaches the limit in "
                f"{reach.limit_in_seconds:.0f} s; the slowest remedy takes {self._policy.remedy_seconds:.0f} s"
            )
            lines.append(reach.sentence)
            if last.nonreclaimable_bytes > self.foreseen.upper_bytes > 0:
                lines.append(f"the plan foresaw at most {in_gib(self.foreseen.upper_bytes)}")
        if starving is not None:
            lines.append(starving)
        lines.extend(
            f"signal {signal.name}: {signal.value:.4g} over {signal.threshold:.4g}"
            for signal in signals
            if signal.fires
        )
        return tuple(lines)

    def _notes(self, blind: float) -> tuple[str, ...]:
        """What a reader must know of the samples themselves."""
        lines = []
        if blind > 0:
            lines.append(f"no sample for {blind:.0f} s: nothing is judged; check the pod's metrics port and its scrape")
        if self._dropped:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self._dropped.items()))
            lines.append(f"samples dropped: {reasons}")
        if self._restarts:
            lines.append(f"counters went back {self._restarts} times: the process restarted, its trends began anew")
        return tuple(lines)
