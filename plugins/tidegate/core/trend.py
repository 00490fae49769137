"""Robust trends of one noisy memory series in constant space: slope, noise, envelope, and the rises it has survived.

Covers what can be said of a series by itself. What a trend means for a pod, and when it is a reason to act,
is the detector's business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

#: A median absolute deviation times this is the standard deviation of a normal distribution.
MAD_TO_SIGMA: Final = 1.4826


def median(values: Sequence[float]) -> float:
    """The middle value; `values` must not be empty."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def theil_sen(times: Sequence[float], values: Sequence[float]) -> float:
    """The median of all pairwise slopes: up to 29 % of the points may lie anywhere. Zero for fewer than two points.

    Quadratic, hence meant for a dozen points: `Envelope` condenses a long window to that.
    """
    slopes = [
        (values[j] - values[i]) / (times[j] - times[i])
        for i in range(len(times) - 1)
        for j in range(i + 1, len(times))
        if times[j] > times[i]
    ]
    return median(slopes) if slopes else 0.0


class Noise:
    """The scatter of a series around its local line, which neither a ramp nor a plateau nor a rare jump changes.

    The middle of three neighbours is compared with the line through the other two; the median of that is tracked by
    steps up and down, so that an outlier moves it no more than any other value.
    """

    __slots__ = ("_floor", "_median", "_step")

    #: The median deviation of a normal distribution is 0.6745 sigma, and the middle of three evenly spaced points
    #: misses the line through the others by sqrt(1.5) sigma.
    _TO_SIGMA: Final = 1 / (0.6745 * 1.2247)
    _FIRST_STEP: Final = 0.4
    _LAST_STEP: Final = 0.05
    _SHRINK: Final = 0.95

    def __init__(self, floor: float) -> None:
        self._floor = floor
        self._median = floor
        self._step = self._FIRST_STEP

    def observe(self, a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> None:
        """Take in three successive (time, value) points."""
        share = (b[0] - a[0]) / (c[0] - a[0])
        deviation = abs(b[1] - (a[1] + share * (c[1] - a[1])))
        self._median *= (1 + self._step) if deviation > self._median else 1 / (1 + self._step)
        self._median = max(self._median, self._floor / 4)
        self._step = max(self._LAST_STEP, self._step * self._SHRINK)

    @property
    def sigma(self) -> float:
        return max(self._floor, self._median * self._TO_SIGMA)


class Parts(NamedTuple):
    """A value in two parts, the whole and the load in it: what a load is worth may be learnt later."""

    whole: float
    load: float = 0.0

    def without(self, share: float) -> float:
        """The whole less its load, of which `share` counts."""
        return self.whole - share * self.load


class Stretches:
    """The extremes of the last few equal stretches of time: the level under (or over) the swings of a long window.

    `side` +1 keeps the highest value of each stretch, -1 the lowest. Values are without their load, at the share of it
    that the newest one came with: a lesson on that counts for the whole window alike.
    """

    __slots__ = ("_before", "_extremes", "_keep", "_share", "_side", "_starts", "_times")

    def __init__(self, keep: int, side: int) -> None:
        self._keep = keep
        self._side = side
        self._share = 0.0
        self._starts: deque[float] = deque(maxlen=keep)
        self._times: deque[float] = deque(maxlen=keep)
        self._extremes: deque[Parts] = deque(maxlen=keep)
        self._before = Parts(0.0)

    def observe(self, time: float, value: Parts, share: float, width_seconds: float) -> None:
        """Take in a value no older than the last; a stretch is at least `width_seconds` wide."""
        self._share = share
        if not self._starts or time - self._starts[-1] >= width_seconds:
            if len(self._extremes) == self._keep:
                self._before = max(self._before, self._extremes[0], key=lambda parts: parts.without(share))
            self._starts.append(time)
            self._times.append(time)
            self._extremes.append(value)
        elif (value.without(share) - self._extremes[-1].without(share)) * self._side > 0:
            self._times[-1] = time
            self._extremes[-1] = value

    def _values(self, share: float) -> list[float]:
        return [parts.without(share) for parts in self._extremes]

    def least_slope(self, low: float, high: float) -> float:
        """The lesser slope of the extremes at two shares of their load."""
        return min(theil_sen(self._times, self._values(share)) for share in (low, high))

    def trend(self) -> tuple[float, float] | None:
        """Slope of the extremes and their sigma around it, or None before the window is full."""
        if len(self._extremes) < self._keep:
            return None
        values = self._values(self._share)
        slope = theil_sen(self._times, values)
        offsets = [value - slope * time for time, value in zip(self._times, values, strict=True)]
        centre = median(offsets)
        return slope, MAD_TO_SIGMA * median([abs(offset - centre) for offset in offsets])

    def halves(self) -> tuple[float, float, float]:
        """Slopes of the older and the newer half, and the seconds the newer one spans."""
        times, values = list(self._times), self._values(self._share)
        middle = len(times) // 2
        older = theil_sen(times[: middle + 1], values[: middle + 1])
        return older, theil_sen(times[middle:], values[middle:]), times[-1] - times[middle]

    @property
    def span_seconds(self) -> float:
        """From the first stretch kept to the newest value."""
        return self._times[-1] - self._times[0] if self._times else 0.0

    @property
    def level(self) -> float:
        """The extreme of the newest two stretches; zero before the first value."""
        newest = [parts.without(self._share) for parts in list(self._extremes)[-2:]]
        return (max(newest) if self._side > 0 else min(newest)) if newest else 0.0

    @property
    def before(self) -> float:
        """The highest extreme that has left the window; zero before one has."""
        return self._before.without(self._share)


class Share:
    """How many bytes of memory move with a byte of another series, learnt from how both change.

    Changes, not levels, are compared: a leak beside the load then tells nothing about the load.
    """

    __slots__ = ("_high", "_low", "_product", "_square", "value")

    _FORGET: Final = 0.998

    def __init__(self, low: float, high: float, usual: float, scale: float) -> None:
        self._low, self._high = low, high
        #: The belief at the start is `usual`, held with the weight of one change of `scale`.
        self._square = scale * scale
        self._product = usual * self._square
        self.value = usual

    def observe(self, memory_change: float, other_change: float, noise: float) -> None:
        """Take in how both changed between two samples; of a change no share explains, `noise` and no more counts."""
        least, most = sorted((self._low * other_change, self._high * other_change))
        memory_change = min(most + noise, max(least - noise, memory_change))
        self._square = self._FORGET * self._square + other_change * other_change
        self._product = self._FORGET * self._product + memory_change * other_change
        if self._square > 0:
            self.value = min(self._high, max(self._low, self._product / self._square))


class Rises:
    """The rise under way, and how high, how far and how long those went that ended well.

    A rise starts at the last moment the series lay within `step` of its low, and ends when the series gives a good
    part of it back or reaches no new high for `settle_seconds`. Values are without their load, at the share of it that
    the newest one came with.
    """

    __slots__ = (
        "_before",
        "_high",
        "_high_at",
        "_highest",
        "_last",
        "_low",
        "_low_until",
        "_share",
        "_steepest",
        "longest_seconds",
        "pace",
        "rested",
        "steepest",
        "tallest",
        "tooth",
    )

    #: Giving back this share of a rise ends it: a tooth of a collector inside a leak does not.
    _GIVEN_BACK: Final = 0.4

    def __init__(self, time: float, value: Parts, usual_seconds: float) -> None:
        self._share = 0.0
        self._low = self._high = value
        self._low_until = self._high_at = time
        self._highest = Parts(0.0)
        self.longest_seconds = usual_seconds
        self.tallest = 0.0
        #: Bytes per second over the last two gaps, and the most over one gap in the rises that ended.
        self.pace = self.steepest = 0.0
        self._steepest = 0.0
        self._before = self._last = (time, value)
        #: How far the second tallest rise went that was given back: what happened once is no habit.
        self.tooth = 0.0
        #: Whether the series has once stopped rising for the settling time: a plateau, not a dip.
        self.rested = False

    def observe(self, time: float, value: Parts, share: float, step: float, settle_seconds: float) -> None:
        """Take in a value later than the last."""
        self._share = share
        now, low, high = value.without(share), self.start, self.top
        if time > self._last[0]:
            self.pace = (now - self._before[1].without(share)) / (time - self._before[0])
            self._steepest = max(self._steepest, (now - self._last[1].without(share)) / (time - self._last[0]))
        self._before, self._last = self._last, (time, value)
        gave_back = now < high - max(step, self._GIVEN_BACK * (high - low))
        came_to_rest = time - self._high_at >= settle_seconds and now <= high
        self.rested = self.rested or came_to_rest
        if gave_back or came_to_rest:
            if gave_back:
                size = high - now
                self.tooth = max(self.tooth, min(self.tallest, size))
                self.tallest = max(self.tallest, size)
            if high - low > step:
                self.longest_seconds = max(self.longest_seconds, self._high_at - self._low_until)
            self.close(time, value)
            return
        if now <= low + step:
            self._low = min(self._low, value, key=lambda parts: parts.without(share))
            self._low_until = time
        if now > high:
            self._high, self._high_at = value, time

    def close(self, time: float, value: Parts) -> None:
        """Count what rose so far as survived, and look at what rises from here."""
        self._highest = max(self._highest, self._high, key=lambda parts: parts.without(self._share))
        self.steepest, self._steepest = max(self.steepest, self._steepest), 0.0
        self._low = self._high = value
        self._low_until = self._high_at = time

    def wake(self) -> None:
        """Begin to work: to wait for work was no plateau."""
        self.rested = False

    def arm(self, time: float, value: Parts) -> None:
        """End the warm-up: what rose is survived, but a model loads faster than any leak, so its pace says nothing."""
        self.close(time, value)
        self.steepest = 0.0

    @property
    def highest(self) -> float:
        """The highest level held and left, or held and kept; zero before one was."""
        return self._highest.without(self._share)

    @property
    def top(self) -> float:
        """The highest level since the present rise started, or since the last ended."""
        return self._high.without(self._share)

    @property
    def start(self) -> float:
        """The level from which the present rise started."""
        return self._low.without(self._share)

    def age_seconds(self, now_seconds: float) -> float:
        """How long the present rise has lasted."""
        return max(0.0, now_seconds - self._low_until)
