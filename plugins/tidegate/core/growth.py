"""Whether one process's memory grows into its limit: fast, steady, slow, or already at the brim.

Growth counts when several samples agree on it, it does not fade, and it is news: beyond noise, beyond what the plan
foresaw, and higher, longer or steeper than the rises that ended well. Where the worker tells its byte credits in
flight, the load they stand for is taken off first, for load ends with the budget and growth beyond it does not.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from tidegate.core.contract import Character
from tidegate.core.detection import Foreseen, Policy, Sample, in_gib, in_mib_per_second
from tidegate.core.trend import Noise, Parts, Rises, Share, Stretches, median, theil_sen


@dataclass(frozen=True, slots=True)
class Reach:
    """Growth that reaches the limit soon enough to be a reason, and how it was seen."""

    velocity_bytes_per_second: float
    limit_in_seconds: float
    sentence: str


@dataclass(frozen=True, slots=True)
class _Point:
    """A sample as the trends see it: its memory, and how much of it is judged, which leaves out what credits stand for.

    Memory follows its credits by a moment, so what is judged may jump where memory does not, up or down; `calm` then
    waits.
    """

    time: float
    judged: Parts
    calm: Parts
    #: With the load as it was a sample ago, where that was more: what is left surely is no load.
    least: Parts
    told: bool
    acked: float

    @property
    def memory(self) -> float:
        return self.judged.whole

    @property
    def in_flight(self) -> float:
        return self.judged.load


class Growth:
    """The memory of one process since it started."""

    def __init__(self, policy: Policy, first: Sample) -> None:
        limit = first.limit_bytes
        self._policy = policy
        self._first_at = first.t_seconds
        self._work_at: float | None = None
        self._warm_at = first.t_seconds
        self._limit_bytes = limit
        self._interval_seconds = 0.0
        self._noise = Noise(policy.noise_floor_ratio * limit)
        self._noise_bytes = self._noise.sigma
        self._rises = Rises(first.t_seconds, Parts(first.nonreclaimable_bytes), policy.usual_rise_seconds)
        self._load_share = Share(
            policy.load_share_low,
            policy.load_share_high,
            policy.load_share_usual,
            policy.load_share_scale_ratio * limit,
        )
        self._swing_bytes = 0.0
        self._range_bytes = math.inf
        self.warming_up = True
        self.peak_bytes = 0.0
        self._recent: deque[_Point] = deque(maxlen=policy.steady_samples)
        self._history: deque[_Point] = deque(maxlen=policy.long_window_stretches)
        self._stretch_seconds = policy.long_window_seconds / policy.long_window_stretches
        self._clear_levels(1)

    def _clear_levels(self, side: int) -> None:
        policy = self._policy
        self._middle = Stretches(policy.middle_window_stretches, side)
        self._long = Stretches(policy.long_window_stretches, side)
        self._tops = Stretches(policy.long_window_stretches, 1)

    def broke_off(self) -> None:
        """Samples were missing for long: what was learnt of the process stays, trends across the gap do not."""
        self._recent.clear()
        self._history.clear()
        self._clear_levels(1)

    def observe(self, sample: Sample, interval_seconds: float) -> None:
        """Take in a sample later than the last; samples come about every `interval_seconds`."""
        policy, recent = self._policy, self._recent
        self._limit_bytes, self._interval_seconds = sample.limit_bytes, interval_seconds
        if recent and recent[-1].told != (sample.in_flight_bytes is not None):
            # Levels with and without load do not compare.
            self.broke_off()
        point = self._point(sample)
        if self._work_at is None and (sample.acked > 0 or point.in_flight > 0):
            self._work_at = point.time
            self._rises.wake()
        recent.append(point)
        if not self._history or point.time - self._history[-1].time >= self._stretch_seconds:
            self._history.append(point)
            levels = [self._beyond(each.judged) for each in self._history]
            earlier = levels[: len(levels) - policy.range_stretches_left_out]
            self._range_bytes = max(earlier) - min(earlier) if len(levels) == self._history.maxlen else math.inf
        if len(recent) >= 3:
            a, b = recent[-3], recent[-2]
            self._noise.observe(*((each.time, self._beyond(each.judged)) for each in (a, b, point)))
        # Teeth scatter by no more than their height, which a median of deviations cannot know.
        floor = policy.noise_floor_ratio * sample.limit_bytes
        self._noise_bytes = max(floor, min(self._noise.sigma, self._range_bytes / policy.range_sigmas))
        was_warming_up, self.warming_up = self.warming_up, self._warms_up(point.time)
        if was_warming_up and not self.warming_up:
            self._rises.arm(point.time, point.calm)
            self._warm_at = point.time
        settle = max(policy.settle_seconds, policy.settle_scrapes * interval_seconds)
        share = self._load_share.value
        self._rises.observe(point.time, point.calm, share, policy.noise_sigmas * self._noise_bytes, settle)
        if self.warming_up or len(recent) == 1:
            # Load is taken off where it is told, so the highs are the level; where not, the level lies under the load.
            self._clear_levels(1 if point.told else -1)
        stretch = policy.stretch_samples * interval_seconds * 0.98
        self._middle.observe(point.time, point.least, share, stretch)
        stretch = max(self._stretch_seconds, policy.long_stretch_samples * interval_seconds * 0.98)
        self._long.observe(point.time, point.least, share, stretch)
        stretch = policy.tops_window_seconds / policy.long_window_stretches
        self._tops.observe(point.time, Parts(point.memory), share, stretch)
        if not self.warming_up:
            self._swing_bytes *= 0.5 ** (interval_seconds / policy.swing_half_life_seconds)
            self._swing_bytes = max(self._swing_bytes, point.memory - self._long.level)
        self.peak_bytes = max(self.peak_bytes, point.memory)

    def _point(self, sample: Sample) -> _Point:
        policy, memory, recent = self._policy, sample.nonreclaimable_bytes, self._recent
        in_flight, told = sample.in_flight_bytes or 0.0, sample.in_flight_bytes is not None
        if recent and told:
            # Over a few samples: memory follows its credits with a lag, which blurs the change between two.
            earlier = recent[-min(3, len(recent))]
            self._load_share.observe(
                memory - earlier.memory, in_flight - earlier.in_flight, policy.share_noise_sigmas * self._noise_bytes
            )
        judged = calm = Parts(memory, in_flight)
        least = judged
        if recent:
            last = recent[-1]
            least = Parts(memory, max(in_flight, last.in_flight))
            change = self._beyond(judged) - self._beyond(last.judged)
            if len(recent) >= 2 and (memory - last.memory) * change < change * change / 2:
                calm = sorted((recent[-2].judged, last.judged, judged), key=self._beyond)[1]
        return _Point(sample.t_seconds, judged, calm, least, told, sample.acked)

    def _beyond(self, parts: Parts) -> float:
        """Memory beyond the load, as far as the worth of credits is known by now."""
        return parts.without(self._load_share.value)

    def _warms_up(self, time: float) -> bool:
        if self._rises.rested and (self._work_at is not None or not self._recent[-1].told):
            return False
        since = self._first_at + self._policy.warm_up_seconds if self._work_at is None else self._work_at
        return time - since < self._policy.warm_up_seconds

    @property
    def velocity_bytes_per_second(self) -> float:
        """Over the middle window; zero before three samples."""
        if len(self._recent) < 3:
            return 0.0
        return theil_sen([point.time for point in self._recent], [point.memory for point in self._recent])

    def reach(self, foreseen: Foreseen, horizon: float, blind: float) -> Reach | None:
        """Growth that meets the limit within `horizon` seconds, the fastest window first.

        The newest sample is `blind` seconds old.
        """
        if len(self._recent) < 3:
            return None
        newest = self._recent[-1]
        height = self._height(foreseen)
        # A young pod has not shown its heights: those that healthy runs have come to count like the plan's.
        expected = newest.memory <= (height if self._is_young else foreseen.upper_bytes)
        if expected:
            # Such heights are no news: no margin, hence the last moment.
            horizon /= self._policy.horizon_margin_ratio
        steady_horizon = horizon if expected else horizon * self._policy.steady_horizon_factor
        # Growth beyond the load is always judged; growth with the load where nothing says that the load must end.
        loads = ([False] if newest.told else []) + ([] if self._is_explained(foreseen) else [True])
        for with_load in loads:
            if self._is_news(newest.least, foreseen) and (reach := self._fast(blind, horizon, with_load)):
                return reach
            if self._is_news(newest.calm, foreseen) and (reach := self._steady(blind, steady_horizon, with_load)):
                return reach
        crowded = newest.memory <= height and height > self._policy.crowded_ratio * self._limit_bytes
        if newest.told and not self.warming_up and not crowded and (reach := self._brisk(foreseen, blind, horizon)):
            return reach
        if newest.told and not self._is_young and (reach := self._over_the_top(blind, horizon)):
            return reach
        if not expected and self._is_news(newest.calm, foreseen) and (reach := self._brim()):
            return reach
        slow_horizon = horizon if expected else max(horizon, self._policy.slow_horizon_seconds)
        swing = self._swing_bytes
        return (
            self._climb(self._long, swing, foreseen, blind, slow_horizon)
            or self._climb(self._middle, swing, foreseen, blind, steady_horizon)
            or self._climb(self._tops, 0.0, foreseen, blind, slow_horizon)
        )

    def _height(self, foreseen: Foreseen) -> float:
        """The highest that plan or history foresaw under this limit."""
        return foreseen.height_bytes((1 - self._policy.reserve_ratio) * self._limit_bytes)

    def _is_explained(self, foreseen: Foreseen) -> bool:
        """Whether credits in flight are known, and memory stays under the limit with the whole budget in use."""
        newest = self._recent[-1]
        if not newest.told or foreseen.budget_bytes <= 0:
            return False
        return self._beyond(newest.calm) + self._load_share.value * foreseen.budget_bytes < self._limit_bytes

    @property
    def _is_young(self) -> bool:
        """Whether the process may still have to show its ordinary rises."""
        return self.warming_up or self._recent[-1].time - self._warm_at < self._policy.acquaintance_seconds

    def _is_news(self, parts: Parts, foreseen: Foreseen, acquaintance_seconds: float = math.inf) -> bool:
        """Whether a rise to `parts` is more than noise, more than the plan foresaw, and unlike those the pod survived.

        Heights that the plan foresaw are none for as long as the pod is young, or for `acquaintance_seconds` of that.
        """
        policy, rises = self._policy, self._rises
        newest, height = self._recent[-1], self._beyond(parts)
        rise = height - rises.start
        headroom = self._limit_bytes - newest.memory
        if rise < policy.noise_sigmas * self._noise_bytes or rise < policy.headroom_used_ratio * (headroom + rise):
            return False
        upper = foreseen.upper_bytes
        if self.warming_up:
            # Plans err most here, so growth means nothing before it has used some of the room above what was foreseen.
            known = self._height(foreseen)
            return newest.memory > (
                known + policy.warm_up_room * (self._limit_bytes - known)
                if known
                else policy.warm_up_ratio * self._limit_bytes
            )
        if newest.memory <= upper and self._is_young and newest.time - self._warm_at < acquaintance_seconds:
            # Just after its warm-up the process has not shown its ordinary rises, and the plan knows better.
            return False
        if newest.told and 0 < policy.steeper_ratio * rises.steepest < rises.pace:
            return True
        if self._is_a_tooth(height):
            return False
        new_height = rises.highest + max(
            policy.new_height_ratio * self._limit_bytes, policy.noise_sigmas / 2 * self._noise_bytes
        )
        if height > new_height and (newest.memory > upper or newest.told):
            return True
        return rises.age_seconds(newest.time) > policy.longer_ratio * rises.longest_seconds + self._interval_seconds

    def _is_a_tooth(self, height: float) -> bool:
        """Whether a collector has let memory rise about as far before, and would still free it below the limit."""
        rises = self._rises
        # What happened once is no habit, but a pod that has only just warmed up had no time for twice.
        tooth = rises.tallest if self._is_young else rises.tooth
        spread = self._policy.tooth_spread * tooth
        top = rises.highest + spread
        load = self._recent[-1].memory - height
        return (
            height - rises.start <= tooth + spread
            and height <= top
            and top + load < (1 - self._policy.reserve_ratio) * self._limit_bytes
        )

    @property
    def _quickest(self) -> float:
        """The horizon of the quickest remedy, as a share of the slowest one's."""
        policy, waited = self._policy, self._policy.scrapes_waited * self._interval_seconds
        return (policy.quick_remedy_seconds + waited) / (policy.remedy_seconds + waited)

    def _spans_loading(self, oldest: _Point) -> bool:
        """Whether samples since `oldest` still hold the steps of a model that loads and of its first batch."""
        return self.warming_up and self._work_at is not None and oldest.time < self._work_at

    def _fast(self, blind: float, horizon: float, with_load: bool) -> Reach | None:
        """A few rises in a row, each beyond noise."""
        policy, recent = self._policy, self._recent
        if self._beyond(recent[-1].judged) < self._rises.top:
            return None
        needed = policy.rises_in_a_row
        if with_load:
            # An admitted burst rises in a row too, and is over by then.
            needed = max(needed, math.ceil(policy.usual_rise_seconds / self._interval_seconds - 0.2))
        return self._row(needed, blind, horizon, with_load)

    def _brisk(self, foreseen: Foreseen, blind: float, horizon: float) -> Reach | None:
        """Growth beyond the load, too quick to wait for many samples or for all that the pod ordinarily does."""
        policy, newest = self._policy, self._recent[-1]
        acquaintance, needed = policy.brisk_acquaintance_seconds, policy.rises_in_a_row_unexplained
        if (
            self._beyond(newest.judged) >= self._rises.top
            and self._is_news(newest.least, foreseen, acquaintance)
            and self._beyond_doubt(needed)
            and (reach := self._row(needed, blind, horizon, with_load=False))
        ):
            return reach
        if not self._is_news(newest.calm, foreseen, acquaintance):
            return None
        if (policy.brisk_samples_least - 1) * self._interval_seconds >= policy.usual_rise_seconds and (
            reach := self._trend(policy.brisk_samples_least, blind, horizon, with_load=False)
        ):
            return reach
        return self._trend(policy.brisk_samples, blind, horizon, with_load=False)

    def _beyond_doubt(self, needed: int) -> bool:
        """Whether the last rises are growth even if credits err and memory is late in giving up what they left."""
        policy, recent, sigma = self._policy, self._recent, self._noise_bytes
        if len(recent) <= needed:
            return False
        total = 0.0
        for index in range(len(recent) - needed, len(recent)):
            before, after = recent[index - 1], recent[index]
            load = after.in_flight - before.in_flight
            share = self._load_share.value
            share = share + policy.load_share_doubt if load > 0 else share / 2
            rise = after.memory - before.memory - share * load
            if rise <= policy.rise_noise_sigmas * sigma:
                return False
            total += rise
        if load < 0 and after.memory - before.memory < policy.lag_ratio * (
            self._beyond(after.judged) - self._beyond(before.judged)
        ):
            # Only a further sample can tell what is late from what stays.
            return False
        return total >= policy.unexplained_noise_sigmas * sigma

    def _row(self, needed: int, blind: float, horizon: float, with_load: bool) -> Reach | None:
        """As many rises in a row as `needed`, fast enough to matter."""
        recent = self._recent
        if len(recent) <= needed or self._spans_loading(recent[-1 - needed]):
            return None
        # Load may give way to growth beyond it, as a good inlet makes it; memory that falls now is no emergency.
        if recent[-1].memory < recent[-1 - needed if with_load else -2].memory:
            return None
        rises, paces, beyond = [], [], []
        for index in range(len(recent) - needed, len(recent)):
            before, after = recent[index - 1], recent[index]
            rise = after.memory - before.memory
            beyond_load = rise if with_load else self._beyond(after.judged) - self._beyond(before.judged)
            if beyond_load <= self._policy.rise_noise_sigmas * self._noise_bytes:
                return None
            # Load that only follows growth beyond it, as with credits that stand for too little, is part of it.
            rises.append(rise if beyond_load < rise <= 3 * beyond_load else beyond_load)
            paces.append(rises[-1] / (after.time - before.time))
            beyond.append(beyond_load / (after.time - before.time))
        if rises[0] < self._policy.first_rise_ratio * rises[-1]:
            return None
        # The first rise may have begun between two scrapes, so its pace says nothing; of the rest the slowest counts.
        velocity = min(paces[1:])
        eta = max(0.0, (self._limit_bytes - recent[-1].memory) / velocity - blind)
        if with_load and eta < self._policy.remedy_seconds / self._policy.horizon_margin_ratio:
            # Too late for the slowest remedy: there is time to see whether it ends before the quickest one is due.
            horizon *= self._quickest
        if eta > horizon or self._dies(beyond[-2], beyond[-1], recent[-1].time - recent[-2].time):
            return None
        return Reach(velocity, eta, f"{needed} rises in a row, the last at {in_mib_per_second(paces[-1])}")

    def _steady(self, blind: float, horizon: float, with_load: bool) -> Reach | None:
        """The middle window rises, and has for half of its time."""
        seconds = self._recent[-1].time - self._recent[0].time
        if self._rises.age_seconds(self._recent[-1].time) < seconds / 2:
            return None
        return self._trend(self._policy.steady_samples, blind, horizon, with_load)

    def _trend(self, samples: int, blind: float, horizon: float, with_load: bool) -> Reach | None:
        """The last so many samples rise, the newest of them too."""
        policy, recent = self._policy, list(self._recent)[-samples:]
        if len(recent) < samples or self._spans_loading(recent[0]):
            return None
        times = [point.time for point in recent]
        share = 0.0 if with_load else self._load_share.value
        values = [point.memory - share * point.in_flight for point in recent]
        velocity = theil_sen(times, values)
        if velocity * (times[-1] - times[0]) < policy.noise_sigmas * self._noise_bytes:
            return None
        if not with_load and theil_sen(times, [point.memory for point in recent]) < velocity / 2:
            return None
        half = len(times) // 2
        if theil_sen(times[half:], values[half:]) < velocity / 2:
            return None
        if recent[-1].memory < recent[-3].memory - 2 * self._noise_bytes:
            return None
        if values[-1] - values[-3] < velocity * (times[-1] - times[-3]) / 2 - 2 * self._noise_bytes:
            # A step that is over by now.
            return None
        room = self._limit_bytes - max(
            recent[-1].memory, 0.0 if with_load else self._beyond(recent[-1].calm) + self._swing_bytes
        )
        eta = max(0.0, room / velocity - blind)
        if eta > horizon:
            return None
        earlier = (values[half] - values[0]) / (times[half] - times[0])
        later = (values[-1] - values[half]) / (times[-1] - times[half])
        if self._dies(earlier, later, times[-1] - times[half]):
            return None
        if samples < policy.brisk_samples and earlier < velocity / 2:
            # So few that one jump bends the median of their slopes.
            return None
        if with_load and earlier < velocity / 4:
            # One step, as an admitted burst makes it.
            return None
        return Reach(velocity, eta, f"{in_mib_per_second(velocity)} over {times[-1] - times[0]:.0f} s")

    def _over_the_top(self, blind: float, horizon: float) -> Reach | None:
        """The tops of quick teeth rise over all that was survived: two of three samples, whatever lies between them."""
        policy, recent, rises = self._policy, self._recent, self._rises
        newest, earlier, latest = recent[-1], list(recent)[:-3], list(recent)[-3:]
        known = rises.highest
        if not known or len(earlier) < 3 or newest.memory < min(point.memory for point in earlier):
            return None
        if 2 * sum(self._beyond(point.least) > known for point in earlier) > len(earlier):
            # It has stood above them for a while.
            return None
        load = max(point.in_flight for point in latest) - min(point.in_flight for point in recent)
        margin = max(
            policy.new_height_ratio * self._limit_bytes, (known - rises.start) / 2, policy.load_share_doubt * load
        )
        _, second, top = sorted(self._beyond(point.least) for point in latest)
        if second <= known + margin or top < rises.top:
            return None
        grown = top - known
        headroom = self._limit_bytes - max(point.memory for point in latest)
        seconds = newest.time - max(point.time for point in recent if self._beyond(point.least) <= known)
        if grown < policy.headroom_used_ratio * (headroom + grown) or seconds <= 0:
            return None
        eta = max(0.0, headroom * seconds / grown - blind)
        if eta > horizon:
            return None
        return Reach(grown / seconds, eta, f"{in_gib(grown)} over all that was survived, in {seconds:.0f} s")

    def _brim(self) -> Reach | None:
        """New heights, held for a while, at which the load that came before does not fit any more."""
        policy, recent, rises = self._policy, self._recent, self._rises
        newest = recent[-1]
        if rises.age_seconds(newest.time) < policy.settle_seconds or len(recent) < policy.steady_samples:
            return None
        height = median([self._beyond(point.calm) for point in recent])
        # Without credits the load is in the height already.
        load = self._swing_bytes if newest.told else 0.0
        if height + load < (1 - policy.reserve_ratio) * self._limit_bytes:
            return None
        grown = (height - rises.start) / rises.age_seconds(newest.time)
        eta = max(0.0, (self._limit_bytes - newest.memory) / grown) if grown > 0 else 0.0
        return Reach(grown, eta, f"with the usual load of {in_gib(load)} on top it is at the limit already")

    def _climb(self, level: Stretches, swing: float, foreseen: Foreseen, blind: float, horizon: float) -> Reach | None:
        """The level of a window of stretches rises, and with `swing`, the load that came before, meets the limit."""
        policy, limit, newest = self._policy, self._limit_bytes, self._recent[-1]
        # Where nobody tells the load it is in the memory already.
        height = level.level
        top = max(height + swing, newest.memory) if newest.told else max(point.memory for point in self._recent)
        # Minutes of growth that end within the horizon have used most of the limit; lower, there is nothing to compute.
        used = level.span_seconds / (level.span_seconds + 2 * horizon)
        if top <= max(self._height(foreseen), limit * used):
            return None
        if (trend := level.trend()) is None:
            return None
        velocity, sigma = trend
        sigma = max(sigma, self._policy.noise_floor_ratio * limit)
        if velocity <= 0 or velocity * level.span_seconds < policy.slow_noise_sigmas * sigma:
            return None
        if newest.told:
            if level.least_slope(policy.load_share_low, policy.load_share_high) < velocity / 2:
                # It rises only if a credit stands for just as much as it seems to.
                return None
            # Whatever the highest level and the highest load come to, together they have not been beyond the peak.
            top = max(newest.memory, min(top, self.peak_bytes + velocity * level.span_seconds))
        older, newer, seconds = level.halves()
        if older < velocity / 4 or self._dies(older, newer, seconds):
            # One step somewhere in the window, or growth that fades.
            return None
        if height - level.before < velocity * level.span_seconds / 2:
            # It has been there before: a wander, not a climb.
            return None
        if newest.memory < self._recent[-3].memory - 2 * self._noise_bytes:
            return None
        room = limit * (1 - policy.reserve_ratio) - 2 * sigma - top
        eta = max(0.0, room / velocity - blind)
        if eta > horizon:
            return None
        return Reach(velocity, eta, f"the level grows {in_mib_per_second(velocity)} over {level.span_seconds:.0f} s")

    def _dies(self, earlier_pace: float, later_pace: float, stretch_seconds: float) -> bool:
        """Whether growth whose pace falls like this ends below the limit, summed as a geometric series."""
        ratio = later_pace / earlier_pace if earlier_pace > 0 else 1.0
        if ratio >= self._policy.dying_ratio:
            return False
        if ratio <= 0:
            return True
        rest = later_pace * stretch_seconds * ratio / (1 - ratio)
        return self._recent[-1].memory + rest < (1 - self._policy.reserve_ratio) * self._limit_bytes

    def character(self) -> Character:
        """Leak if each image leaves about as much behind as the one before; load if what is in flight explains it."""
        rises = self._rises
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
