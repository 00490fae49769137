"""Samples of one pod's memory -> an assessment: does it run out of memory, or does it crawl, and on what evidence.

The rule in one sentence: trip at the last moment at which the slowest remedy still comes in time, and only on growth
that several samples agree on, that does not die away, and that goes beyond what the plan foresaw or the pod survived.

| signal    | fires when                                                                  | alone it             |
|-----------|-----------------------------------------------------------------------------|----------------------|
| reach     | growth reaches the limit within the horizon (fast, steady and slow windows)  | trips VELOCITY       |
| gate      | the worker's gate was shut for 30 s, or shut in part at half the plan's pace | trips STARVED        |
| wanted    | an image has waited for memory for 30 s                                      | trips STARVED        |
| ratio     | memory over 0.85 of the limit for a minute, and over what the plan foresaw   | widens the horizon   |
| velocity  | growth over three times the baseline's                                       | (two of these three  |
| zscore    | the peak is 3.5 robust sigmas over the history of peaks                      | together)            |

Memory is the non-reclaimable part alone. Where the worker tells its byte credits in flight, growth they account for
is load that ends with the budget, and only the rest is judged. OOM kills are seen elsewhere; remedies are chosen elsewhere.
Pure: time comes with the samples and with `assess`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, Self

from tidegate.core.contract import GIB, MIB, Character, TripCause
from tidegate.core.trend import Noise, Rises, Share, Stretches, median, theil_sen


@dataclass(frozen=True, slots=True)
class Sample:
    """What one scrape said of one pod."""

    t_seconds: float
    nonreclaimable_bytes: float
    limit_bytes: float
    #: Cumulative since the process started.
    gate_closed_seconds: float = 0.0
    wanted_bytes: float = 0.0
    #: Cumulative since the process started.
    acked: float = 0.0
    #: Byte credits held by images in flight; None where nobody tells.
    in_flight_bytes: float | None = None


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What the plan and the baseline lead one to expect of this pod; zero means that they do not say."""

    upper_bytes: float = 0.0
    baseline_velocity_bytes_per_second: float = 0.0
    images_per_second: float = 0.0
    budget_bytes: float = 0.0
    #: Robust centre and scale of the peaks of healthy runs of this pipeline.
    peak_centre_bytes: float = 0.0
    peak_scale_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Policy:
    """Every threshold of the detector."""

    #: The slowest remedy: drain, confirm the old pod gone, schedule, load the model.
    remedy_seconds: float = 60.0
    #: The next scrape may be late or lost: two of them are waited for, never more.
    scrapes_waited: float = 2.0
    #: A velocity measured over a few samples errs by about a fifth.
    horizon_margin_ratio: float = 1.2
    #: A trend of the middle window is surer than a few rises and may be acted upon earlier: load comes and goes on top.
    steady_horizon_factor: float = 1.25
    #: Growth that minutes of samples agree on may be acted upon this early: a drain then answers all its leases.
    slow_horizon_seconds: float = 300.0
    #: The long window, and the stretches whose highs stand for it.
    long_window_seconds: float = 600.0
    long_window_stretches: int = 12
    #: Rises in a row that make a fast trend: three, so that two samples of one jump never do ...
    rises_in_a_row: int = 3
    #: ... and one fewer where credits in flight rule out that the rise is an admitted burst.
    rises_in_a_row_unexplained: int = 2
    #: The first of them may have begun between two scrapes, yet one far smaller than the last is noise before a jump.
    first_rise_ratio: float = 0.1
    #: The samples of the middle window; more lag behind a ramp of a few minutes.
    steady_samples: int = 8
    #: A rise is told from noise at this many sigmas; thousands of pods are judged every 5 s, so 3 would not do.
    noise_sigmas: float = 6.0
    #: The long window is judged a dozen times an hour, not every sample.
    slow_noise_sigmas: float = 4.0
    #: Memory counters are never quieter than this share of the limit.
    noise_floor_ratio: float = 0.001
    #: A rise that has used less of the headroom it started with is not yet an emergency.
    headroom_used_ratio: float = 0.1
    #: New heights start this share of the limit above what was survived.
    new_height_ratio: float = 0.02
    #: Batches fill and collectors run in less than this, also in a pod that has not shown it yet.
    usual_rise_seconds: float = 20.0
    #: A rise under known heights is suspicious once it lasts this much longer than any that ended well.
    longer_ratio: float = 1.5
    #: Growth whose pace falls by this factor from window to window is summed as a geometric series to where it ends.
    dying_ratio: float = 0.7
    #: Credits stand for more than images hold, seldom for less; what goes beyond is not load but a wrong cost.
    load_share_low: float = 0.3
    load_share_high: float = 1.0
    #: The load that came once comes again; an hour halves what is expected of it.
    swing_half_life_seconds: float = 3600.0
    #: What is kept free when that end is compared with the limit, and when the slow trend is: allocators work in chunks.
    reserve_ratio: float = 0.02
    #: No new high for this long (and for four scrapes) is a plateau.
    settle_seconds: float = 60.0
    #: A model may load, and a first batch arrive, for this long after the work starts before growth means anything ...
    warm_up_seconds: float = 120.0
    #: ... and until a plateau, levels below this share of the limit are the model's where no plan says otherwise.
    warm_up_ratio: float = 0.8
    #: After a remedy: until its effect is in the samples.
    cool_down_seconds: float = 60.0
    #: A gate shut this long is not going to open by itself: bursts drain in less.
    gate_shut_seconds: float = 30.0
    #: A counter read over HTTP lags a little: this share of the time counts as all of it.
    gate_shut_ratio: float = 0.9
    #: Slow: under half the plan's pace for a minute, with the gate shut for two fifths of each half.
    slow_window_seconds: float = 60.0
    slow_pace_ratio: float = 0.5
    slow_gate_ratio: float = 0.4
    wanted_seconds: float = 30.0
    #: The seed signals, shared with the alerts.
    ratio_threshold: float = 0.85
    ratio_seconds: float = 60.0
    velocity_factor: float = 3.0
    zscore_threshold: float = 3.5
    #: Two of the three together make the horizon longer by this factor.
    corroborated_factor: float = 1.5
    #: Older than this many scrapes, a sample decides nothing.
    blind_scrapes: float = 3.0
    #: A gap of this many scrapes breaks every trend.
    broken_scrapes: float = 20.0
    #: A sample this far ahead of the judge's clock was stamped by a wrong clock.
    clock_tolerance_seconds: float = 30.0

    @classmethod
    def preset(cls, sensitivity: Literal["low", "normal", "high"] = "normal") -> Self:
        """Low trips later and on more evidence, high earlier and on less."""
        if sensitivity == "low":
            return cls(
                horizon_margin_ratio=1.0, noise_sigmas=8.0, rises_in_a_row_unexplained=3, slow_horizon_seconds=120.0
            )
        if sensitivity == "high":
            return cls(horizon_margin_ratio=1.5, noise_sigmas=5.0, slow_horizon_seconds=300.0)
        return cls()


@dataclass(frozen=True, slots=True)
class Signal:
    """One of the seed signals: the number, the threshold that alerts use too, and whether it is over it."""

    name: str
    value: float
    threshold: float
    fires: bool


@dataclass(frozen=True, slots=True)
class Assessment:
    """What the samples say now."""

    trip: TripCause | None
    ratio: float
    #: Of the rule that tripped, else over the middle window.
    velocity_bytes_per_second: float
    limit_in_seconds: float | None
    starved: bool
    character: Character
    nonreclaimable_bytes: int
    limit_bytes: int
    peak_bytes: int
    wanted_bytes: int
    projected_bytes: int
    blind_seconds: float
    dropped_samples: int
    evidence: tuple[str, ...] = ()
    signals: tuple[Signal, ...] = ()
    warming_up: bool = False
    cooling_down: bool = False


def ratio_signal(seconds_above: float, ratio: float, policy: Policy) -> Signal:
    """Memory over a share of the limit for a time; `seconds_above` counts only levels that the plan did not foresee."""
    return Signal("ratio", ratio, policy.ratio_threshold, seconds_above >= policy.ratio_seconds)


def velocity_signal(velocity_bytes_per_second: float, baseline_bytes_per_second: float, policy: Policy) -> Signal:
    """Growth over a multiple of the baseline's; silent where no healthy run has told."""
    threshold = policy.velocity_factor * baseline_bytes_per_second
    return Signal("velocity", velocity_bytes_per_second, threshold, 0 < threshold < velocity_bytes_per_second)


def zscore_signal(peak_bytes: float, foreseen: Foreseen, policy: Policy) -> Signal:
    """The peak against the history of peaks, in robust sigmas; silent without history."""
    scale = foreseen.peak_scale_bytes
    zscore = (peak_bytes - foreseen.peak_centre_bytes) / scale if scale > 0 else 0.0
    return Signal("zscore", zscore, policy.zscore_threshold, zscore >= policy.zscore_threshold)


@dataclass(frozen=True, slots=True)
class _Reach:
    """Growth that reaches the limit in time to be a reason, and how it was seen."""

    velocity: float
    eta_seconds: float
    sentence: str


@dataclass(frozen=True, slots=True)
class _Point:
    """A sample as the trends see it; `judged` is memory without the load that credits account for.

    Memory is freed a moment after its credit, so `judged` may jump where memory does not; `calm` then waits.
    """

    time: float
    memory: float
    judged: float
    calm: float
    in_flight: float
    told: bool
    acked: float


def _gib(value: float) -> str:
    return f"{value / GIB:.2f} GiB"


def _mib_s(value: float) -> str:
    return f"{value / MIB:.1f} MiB/s"


#: Samples kept for the minute over which starvation is judged: a scrape a second, with room.
_PACE_SAMPLES: Final = 128
_GAPS: Final = 7


class Detector:
    """Judges one pod from its samples, in constant memory and a small constant time a sample."""

    def __init__(self, policy: Policy | None = None, foreseen: Foreseen | None = None) -> None:
        self._policy = policy or Policy()
        self.foreseen = foreseen or Foreseen()
        self._dropped: dict[str, int] = {}
        self._restarts = 0
        self._held_until = -math.inf
        self._limit_bytes = 0.0
        self._forget()

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
        """Another pod took the place of this one: all that was learnt of its memory is void."""
        self._forget()

    def observe(self, sample: Sample) -> None:
        """Take in one sample; a sample that cannot be true is dropped and counted."""
        if (reason := self._unfit(sample)) is not None:
            self._dropped[reason] = self._dropped.get(reason, 0) + 1
            return
        policy, last = self._policy, self._last
        if last is not None:
            gap = sample.t_seconds - last.t_seconds
            if sample.acked < last.acked or sample.gate_closed_seconds < last.gate_closed_seconds:
                self._restarts += 1
                self._forget()
            elif gap > policy.broken_scrapes * self._interval:
                self._forget_trend(sample)
            else:
                self._gaps.append(gap)
                self._interval = max(0.5, median(self._gaps))
        self._limit_bytes = sample.limit_bytes
        self._last = sample
        self._observe_memory(sample)
        self._observe_pace(sample)

    def assess(self, now_seconds: float) -> Assessment:
        """The state of the pod at `now_seconds`, from the samples so far."""
        policy, last = self._policy, self._last
        if last is not None and last.t_seconds > now_seconds + policy.clock_tolerance_seconds:
            self._dropped["stamped in the future"] = self._dropped.get("stamped in the future", 0) + 1
            self._forget()
            last = None
        if last is None:
            return Assessment(
                None,
                0.0,
                0.0,
                None,
                False,
                Character.UNKNOWN,
                0,
                0,
                0,
                0,
                0,
                math.inf,
                self.dropped_samples,
                self._notes(0.0),
            )
        blind = max(0.0, now_seconds - last.t_seconds)
        seeing = blind <= policy.blind_scrapes * self._interval
        held = now_seconds < self._held_until
        velocity = self._steady_velocity()
        signals = self._signals(velocity)
        reach = self._reach(blind, sum(signal.fires for signal in signals) >= 2) if seeing else None
        starving = self._starving() if seeing else None
        trip = None
        if not held:
            trip = TripCause.VELOCITY if reach else TripCause.STARVED if starving else None
        if reach:
            velocity = reach.velocity
        headroom = last.limit_bytes - last.nonreclaimable_bytes
        eta = None
        if velocity > 0:
            eta = reach.eta_seconds if reach else max(0.0, headroom / velocity - blind)
        projected = last.nonreclaimable_bytes + max(0.0, velocity) * (self._horizon(False) if reach else 0.0)
        evidence = self._notes(0.0 if seeing else blind)
        if reach or starving:
            evidence = self._evidence(reach, starving, signals) + evidence
        return Assessment(
            trip=trip,
            ratio=last.nonreclaimable_bytes / last.limit_bytes,
            velocity_bytes_per_second=velocity,
            limit_in_seconds=eta,
            starved=starving is not None,
            character=self._character() if reach or starving else Character.UNKNOWN,
            nonreclaimable_bytes=int(last.nonreclaimable_bytes),
            limit_bytes=int(last.limit_bytes),
            peak_bytes=int(self._peak),
            wanted_bytes=int(last.wanted_bytes),
            projected_bytes=int(max(projected, self._peak, last.wanted_bytes)),
            blind_seconds=blind,
            dropped_samples=self.dropped_samples,
            evidence=evidence,
            signals=signals,
            warming_up=self._was_warming_up,
            cooling_down=held,
        )

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

    def _forget(self) -> None:
        """Begin anew, as with a new pod; what was dropped stays counted."""
        policy = self._policy
        self._last: Sample | None = None
        self._first_at = 0.0
        self._work_at: float | None = None
        self._peak = 0.0
        self._gaps: deque[float] = deque(maxlen=_GAPS)
        self._interval = policy.settle_seconds / 4
        self._noise: Noise | None = None
        self._rises: Rises | None = None
        self._load_share: Share | None = None
        self._swing = 0.0
        self._was_warming_up = True
        self._over_since: float | None = None
        self._forget_trend(None)

    def _forget_trend(self, sample: Sample | None) -> None:
        policy = self._policy
        self._recent: deque[_Point] = deque(maxlen=policy.steady_samples)
        self._history: deque[_Point] = deque(maxlen=policy.long_window_stretches)
        self._level: Stretches | None = None
        self._pace: deque[Sample] = deque(maxlen=_PACE_SAMPLES)
        self._shut_seconds = 0.0
        self._wanted_since: float | None = None
        if sample is not None:
            self._over_since = None

    def _observe_memory(self, sample: Sample) -> None:
        policy, time, memory = self._policy, sample.t_seconds, sample.nonreclaimable_bytes
        told = sample.in_flight_bytes is not None
        in_flight = sample.in_flight_bytes or 0.0
        if self._noise is None or self._rises is None or self._load_share is None:
            self._first_at = time
            self._load_share = Share(policy.load_share_low, policy.load_share_high, sample.limit_bytes / 20)
            self._noise = Noise(policy.noise_floor_ratio * sample.limit_bytes)
            self._rises = Rises(time, memory, policy.usual_rise_seconds)
        recent = self._recent
        if recent and told:
            # Over a few samples: memory follows its credits with a lag, which blurs the change between two.
            earlier = recent[-min(3, len(recent))]
            self._load_share.observe(memory - earlier.memory, in_flight - earlier.in_flight)
        judged = max(0.0, memory - self._load_share.value * in_flight)
        if self._work_at is None and (sample.acked > 0 or in_flight > 0):
            self._work_at = time
        lagging = len(recent) >= 2 and memory - recent[-1].memory < (judged - recent[-1].judged) / 2
        calm = median((recent[-2].judged, recent[-1].judged, judged)) if lagging else judged
        point = _Point(time, memory, judged, calm, in_flight, told, sample.acked)
        recent.append(point)
        stretch = policy.long_window_seconds / policy.long_window_stretches
        if not self._history or time - self._history[-1].time >= stretch:
            self._history.append(point)
        if len(recent) >= 3:
            a, b = recent[-3], recent[-2]
            self._noise.observe((a.time, a.judged), (b.time, b.judged), (time, judged))
        settle = max(policy.settle_seconds, 4 * self._interval)
        warming_up = self._warming_up(time)
        if self._was_warming_up and not warming_up:
            self._rises.close(time, calm)
        self._was_warming_up = warming_up
        self._rises.observe(time, calm, policy.noise_sigmas * self._noise.sigma, settle)
        if self._level is None or warming_up:
            # Load is taken off where it is told, so the highs are the level; where not, it lies under the load.
            self._level = Stretches(stretch, policy.long_window_stretches, 1 if told else -1)
        self._level.observe(time, calm)
        if not warming_up:
            self._swing *= 0.5 ** (self._interval / policy.swing_half_life_seconds)
            self._swing = max(self._swing, memory - self._level.level)
        self._peak = max(self._peak, memory)
        if memory >= policy.ratio_threshold * sample.limit_bytes and memory > self.foreseen.upper_bytes:
            self._over_since = time if self._over_since is None else self._over_since
        else:
            self._over_since = None

    def _observe_pace(self, sample: Sample) -> None:
        policy, pace = self._policy, self._pace
        if pace:
            elapsed = sample.t_seconds - pace[-1].t_seconds
            shut = sample.gate_closed_seconds - pace[-1].gate_closed_seconds
            self._shut_seconds = self._shut_seconds + shut if shut >= policy.gate_shut_ratio * elapsed else 0.0
        pace.append(sample)
        while len(pace) > 3 and sample.t_seconds - pace[1].t_seconds >= policy.slow_window_seconds:
            pace.popleft()
        if sample.wanted_bytes <= 0:
            self._wanted_since = None
        elif self._wanted_since is None:
            self._wanted_since = sample.t_seconds

    def _warming_up(self, time: float) -> bool:
        if self._rises is None or self._rises.rested:
            return False
        since = self._first_at + self._policy.warm_up_seconds if self._work_at is None else self._work_at
        return time - since < self._policy.warm_up_seconds

    def _horizon(self, corroborated: bool) -> float:
        policy = self._policy
        horizon = policy.horizon_margin_ratio * (policy.remedy_seconds + policy.scrapes_waited * self._interval)
        return horizon * policy.corroborated_factor if corroborated else horizon

    def _steady_velocity(self) -> float:
        if len(self._recent) < 3:
            return 0.0
        return theil_sen([point.time for point in self._recent], [point.memory for point in self._recent])

    def _signals(self, velocity: float) -> tuple[Signal, ...]:
        last, policy = self._last, self._policy
        assert last is not None
        above = 0.0 if self._over_since is None else last.t_seconds - self._over_since
        return (
            ratio_signal(above, last.nonreclaimable_bytes / last.limit_bytes, policy),
            velocity_signal(velocity, self.foreseen.baseline_velocity_bytes_per_second, policy),
            zscore_signal(self._peak, self.foreseen, policy),
        )

    def _reach(self, blind: float, corroborated: bool) -> _Reach | None:
        """Growth that is a reason to trip, the fastest window first."""
        if len(self._recent) < 3:
            return None
        newest, horizon = self._recent[-1], self._horizon(corroborated)
        foreseen = newest.memory <= self.foreseen.upper_bytes
        if foreseen:
            # The plan expects such heights: no margin, hence the last moment.
            horizon /= self._policy.horizon_margin_ratio
        steady_horizon = horizon if foreseen else horizon * self._policy.steady_horizon_factor
        # Growth beyond the load is always judged; growth with the load where nothing says that the load must end.
        loads = ([False] if newest.told else []) + ([] if self._is_explained() else [True])
        for with_load in loads:
            if self._is_news(newest.memory if with_load and not newest.told else newest.judged):
                if (reach := self._fast(blind, horizon, with_load)) is not None:
                    return reach
            if self._is_news(newest.calm):
                if (reach := self._steady(blind, steady_horizon, with_load)) is not None:
                    return reach
        if not foreseen and self._is_news(newest.calm) and (reach := self._brim()) is not None:
            return reach
        return self._slow(blind, horizon if foreseen else max(horizon, self._policy.slow_horizon_seconds))

    def _is_explained(self) -> bool:
        """Whether the credits in flight are known, and memory stays under the limit even with the whole budget in use."""
        newest, share = self._recent[-1], self._load_share
        if share is None or not newest.told or self.foreseen.budget_bytes <= 0:
            return False
        return newest.calm + share.value * self.foreseen.budget_bytes < self._limit_bytes

    def _is_news(self, height: float) -> bool:
        """Whether this rise is more than noise, more than the plan foresaw, and unlike those the pod survived."""
        policy, rises, noise = self._policy, self._rises, self._noise
        assert rises is not None
        assert noise is not None
        newest = self._recent[-1]
        rise = height - rises.start
        headroom = self._limit_bytes - newest.memory
        if rise < policy.noise_sigmas * noise.sigma or rise < policy.headroom_used_ratio * (headroom + rise):
            return False
        upper = self.foreseen.upper_bytes
        if self._was_warming_up:
            return newest.memory > (upper or policy.warm_up_ratio * self._limit_bytes)
        new_height = rises.highest + max(
            policy.new_height_ratio * self._limit_bytes, policy.noise_sigmas / 2 * noise.sigma
        )
        if height > new_height and (newest.memory > upper or newest.told):
            return True
        return rises.age_seconds(newest.time) > policy.longer_ratio * rises.longest_seconds + self._interval

    def _fast(self, blind: float, horizon: float, with_load: bool) -> _Reach | None:
        """A few rises in a row, each beyond noise."""
        policy, recent, noise = self._policy, self._recent, self._noise
        assert noise is not None
        sure = not with_load and not self._was_warming_up
        needed = policy.rises_in_a_row_unexplained if sure else policy.rises_in_a_row
        if len(recent) <= needed:
            return None
        rises, paces = [], []
        for index in range(len(recent) - needed, len(recent)):
            before, after = recent[index - 1], recent[index]
            rise = after.memory - before.memory
            if not with_load and rise > 2 * noise.sigma:
                rise = after.judged - before.judged
            if rise <= 2 * noise.sigma:
                return None
            rises.append(rise)
            paces.append(rise / (after.time - before.time))
        if rises[0] < policy.first_rise_ratio * rises[-1]:
            return None
        # The first rise may have begun between two scrapes, so its pace says nothing; of the rest the slowest counts.
        velocity = min(paces[1:])
        eta = max(0.0, (self._limit_bytes - recent[-1].memory) / velocity - blind)
        if eta > horizon or self._dies(paces[-2], paces[-1], recent[-1].time - recent[-2].time):
            return None
        return _Reach(velocity, eta, f"{needed} rises in a row, the last at {_mib_s(paces[-1])}")

    def _dies(self, earlier_pace: float, later_pace: float, stretch_seconds: float) -> bool:
        """Whether growth whose pace falls like this ends below the limit, summed as a geometric series."""
        ratio = later_pace / earlier_pace if earlier_pace > 0 else 1.0
        if ratio >= self._policy.dying_ratio:
            return False
        if ratio <= 0:
            return True
        rest = later_pace * stretch_seconds * ratio / (1 - ratio)
        return self._recent[-1].memory + rest < (1 - self._policy.reserve_ratio) * self._limit_bytes

    def _steady(self, blind: float, horizon: float, with_load: bool) -> _Reach | None:
        """The middle window rises, its newest part too."""
        policy, recent, noise = self._policy, self._recent, self._noise
        assert noise is not None
        assert self._rises is not None
        if len(recent) < policy.steady_samples:
            return None
        times = [point.time for point in recent]
        share = 0.0 if with_load or self._load_share is None else self._load_share.value
        values = [point.memory - share * point.in_flight for point in recent]
        velocity = theil_sen(times, values)
        if velocity * (times[-1] - times[0]) < policy.noise_sigmas * noise.sigma:
            return None
        if self._rises.age_seconds(times[-1]) < (times[-1] - times[0]) / 2:
            return None
        if not with_load and theil_sen(times, [point.memory for point in recent]) < velocity / 2:
            return None
        half = len(times) // 2
        if theil_sen(times[half:], values[half:]) < velocity / 2:
            return None
        room = self._limit_bytes - max(recent[-1].memory, 0.0 if with_load else recent[-1].calm + self._swing)
        eta = max(0.0, room / velocity - blind)
        if eta > horizon:
            return None
        earlier = (values[half] - values[0]) / (times[half] - times[0])
        later = (values[-1] - values[half]) / (times[-1] - times[half])
        if self._dies(earlier, later, times[-1] - times[half]):
            return None
        return _Reach(velocity, eta, f"{_mib_s(velocity)} over {times[-1] - times[0]:.0f} s")

    def _brim(self) -> _Reach | None:
        """New heights, held for a while, at which the load that came before does not fit any more."""
        policy, recent, rises = self._policy, self._recent, self._rises
        assert rises is not None
        newest = recent[-1]
        if rises.age_seconds(newest.time) < policy.settle_seconds or len(recent) < policy.steady_samples:
            return None
        height = median([point.calm for point in recent])
        if height + self._swing < (1 - policy.reserve_ratio) * self._limit_bytes:
            return None
        grown = (height - rises.start) / rises.age_seconds(newest.time)
        eta = max(0.0, (self._limit_bytes - newest.memory) / grown) if grown > 0 else 0.0
        return _Reach(grown, eta, f"with the usual load of {_gib(self._swing)} on top it is over the limit already")

    def _slow(self, blind: float, horizon: float) -> _Reach | None:
        """The level of the long window rises, and with the load that came before it meets the limit."""
        policy, limit, level = self._policy, self._limit_bytes, self._level
        assert level is not None
        top = max(level.level + self._swing, self._recent[-1].memory)
        # Minutes of growth that end within the horizon have used most of the limit; lower, there is nothing to compute.
        share = policy.long_window_seconds / (policy.long_window_seconds + 2 * horizon)
        if top <= max(self.foreseen.upper_bytes, limit * share):
            return None
        if (trend := level.trend()) is None:
            return None
        velocity, sigma = trend
        if velocity <= 0 or velocity * level.span_seconds < policy.slow_noise_sigmas * sigma:
            return None
        older, newer, seconds = level.halves()
        if older < velocity / 4 or self._dies(older, newer, seconds):
            # One step somewhere in the window, or growth that fades.
            return None
        if level.level - level.before < velocity * level.span_seconds / 2:
            # It has been there before: a wander, not a climb.
            return None
        room = limit * (1 - policy.reserve_ratio) - 2 * sigma - top
        eta = max(0.0, room / velocity - blind)
        if eta > horizon:
            return None
        return _Reach(velocity, eta, f"the level grows {_mib_s(velocity)} over {level.span_seconds:.0f} s")

    def _starving(self) -> str | None:
        """Why the pod crawls for want of memory, or None."""
        policy, pace = self._policy, self._pace
        last = pace[-1]
        if self._shut_seconds >= policy.gate_shut_seconds:
            return f"the gate has been shut for {self._shut_seconds:.0f} s: let the pod have more memory"
        if self._wanted_since is not None and last.t_seconds - self._wanted_since >= policy.wanted_seconds:
            waited = last.t_seconds - self._wanted_since
            return f"an image has waited {waited:.0f} s for a limit of {_gib(last.wanted_bytes)}"
        elapsed = last.t_seconds - pace[0].t_seconds
        if len(pace) < 3 or elapsed < policy.slow_window_seconds or self.foreseen.images_per_second <= 0:
            return None
        rate = (last.acked - pace[0].acked) / elapsed
        middle = pace[len(pace) // 2]
        # Shut in both halves: one short closing that happens to fall into a slow minute is no crawl.
        shut = min(
            (later.gate_closed_seconds - earlier.gate_closed_seconds) / (later.t_seconds - earlier.t_seconds)
            for earlier, later in ((pace[0], middle), (middle, last))
        )
        if rate < policy.slow_pace_ratio * self.foreseen.images_per_second and shut >= policy.slow_gate_ratio:
            return (
                f"{rate:.2f} images/s over {elapsed:.0f} s where the plan has {self.foreseen.images_per_second:.2f}, "
                f"with the gate shut at least {shut:.0%} of the time"
            )
        return None

    def _character(self) -> Character:
        """Leak if each image leaves about as much behind as the one before; load if what is in flight explains it."""
        rises = self._rises
        assert rises is not None
        end = self._recent[-1]
        since = end.time - rises.age_seconds(end.time)
        points = [point for point in self._history if since <= point.time < self._recent[0].time] + list(self._recent)
        start, middle = points[0], points[len(points) // 2]
        grown = end.memory - start.memory
        if grown <= 0 or len(points) < 3:
            return Character.UNKNOWN
        if end.told and end.in_flight - start.in_flight >= grown / 2:
            return Character.LOAD
        before, after = middle.acked - start.acked, end.acked - middle.acked
        if min(before, after) <= 0:
            return Character.UNKNOWN
        growth_before, growth_after = (middle.memory - start.memory) / before, (end.memory - middle.memory) / after
        if growth_before > 0 and 0.5 <= growth_after / growth_before <= 2.0:
            return Character.LEAK
        return Character.UNKNOWN if end.told else Character.LOAD

    def _evidence(self, reach: _Reach | None, starving: str | None, signals: tuple[Signal, ...]) -> tuple[str, ...]:
        last = self._last
        assert last is not None
        lines = []
        if reach is not None:
            used = last.nonreclaimable_bytes / last.limit_bytes
            lines.append(
                f"{_gib(last.nonreclaimable_bytes)} of {_gib(last.limit_bytes)} ({used:.0%}) reaches the limit in "
                f"{reach.eta_seconds:.0f} s; the slowest remedy takes {self._policy.remedy_seconds:.0f} s"
            )
            lines.append(reach.sentence)
            if last.nonreclaimable_bytes > self.foreseen.upper_bytes > 0:
                lines.append(f"the plan foresaw at most {_gib(self.foreseen.upper_bytes)}")
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
