"""How much memory to give a run whose input size and predecessors alone are known.

Covers the online forecast of a run's peak and the choice of the limit that wastes the least memory-time while kills
stay within a budget; a run that a probe measured needs none of it. How it decides:

1. Each key (one kind of run) is seen through three views: its level (the highest peak so far), a line through peak over
   input size, and the runs nearest in input size. Each forecasts a peak and remembers how wrong it was.
2. Beyond the worst error of a view lies a surprise. How often and how far surprises go is learnt from all keys whose
   view had as little history and a like spread: a key with three runs borrows the caution that others paid for.
3. Of all limits the one of least expected cost is taken: memory held x seconds, what a kill loses, and the price of a
   kill. Where a kill loses little (resume) limits may be tight; a small run gets generous room for next to nothing.
4. The price rises with each kill and falls with each run without one, so that kills settle at the budget. Kills at a
   request that was too small count too, though nobody chose them.

A key without history gets what was asked for.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from typing import Final

#: Runs of a key that are remembered; older ones describe an older tool.
_HISTORY: Final = 128
_NEIGHBOURS: Final = 3
#: By how much, as a logarithm, a surprise passes all that was seen, before any was: most by little, a few by much.
_PRIOR_EXCESSES: Final = ((0.02, 1.0), (0.1, 1.0), (0.4, 0.5), (1.0, 0.25))
#: How many runs the textbook's chance of a surprise, one in n + 1, counts against what the book has seen.
_PRIOR_RUNS: Final = 10.0
#: Ends of the classes of history length and of mean error, by which the book files what it learnt.
_LENGTH_ENDS: Final = (1, 2, 4, 8, 16, 32)
_SPREAD_ENDS: Final = (0.002, 0.01, 0.04, 0.15)
#: Bins of the book's excesses: fine near zero, where tight keys differ, coarse in the tails.
_BIN_SCALE: Final = 0.002
_BIN_WIDTH: Final = 0.2
#: After a kill, what the retry holds at the end over the peak it turned out to need.
_RETRY_OVERSHOOT: Final = 1.15
#: Peaks repeat to the page, not to the byte.
_MARGIN: Final = 1.001
#: While the book is younger than this, a kill counts for more: little is known of what surprises to expect.
_YOUNG_RUNS: Final = 500.0
#: However long no kill came it costs something, and however many came never so much that nothing can run.
_LEAST_PRICE_RUNS: Final = 1e-3
_MOST_PRICE_RUNS: Final = 1e9
_LEAST_SECONDS: Final = 1e-3
#: The furthest that a forecast may lie above everything seen.
_STRETCH: Final = 8.0
#: How much each kill beyond the budget adds to the price at once, until runs without one have paid for it.
_OVERSPENT_GAIN: Final = 0.5
_BLIND_GROWTH: Final = 2.0
_LEAST_GROWTH: Final = 1.1


@dataclass(frozen=True, slots=True)
class HeadroomPolicy:
    """What a kill costs here."""

    #: Share of a run that is done again after a kill: small with resume, one without.
    lost_ratio: float = 0.02
    #: Share of runs that may meet a kill.
    kill_budget_ratio: float = 0.024
    #: The first price of a kill, in mean runs; the budget moves it from there.
    first_price_runs: float = 2.0
    #: How fast the price follows: the logarithm it gains with one kill.
    price_gain: float = 0.15

    def __post_init__(self) -> None:
        for name, least, most in (
            ("lost_ratio", 0.0, 1.0),
            ("kill_budget_ratio", 0.0, 1.0),
            ("first_price_runs", 0.0, math.inf),
            ("price_gain", 0.0, math.inf),
        ):
            value = getattr(self, name)
            if not least <= value <= most or value == math.inf:
                raise ValueError(f"{name} must lie between {least} and {most}, is {value}")


@dataclass(frozen=True, slots=True)
class EndedRun:
    """A run that ended, with the peak it needed; never the limit at which it was killed."""

    input_bytes: float
    peak_bytes: float
    runtime_seconds: float

    def __post_init__(self) -> None:
        if not 0 < self.peak_bytes < math.inf:
            raise ValueError(f"peak_bytes must be positive and finite, is {self.peak_bytes}")
        for name in ("input_bytes", "runtime_seconds"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be finite and not negative, is {value}")


@dataclass(frozen=True, slots=True)
class _Forecast:
    """Where a peak may fall: rising values, each with its weight."""

    peaks: Sequence[float]
    weights: Sequence[float]


@dataclass(slots=True)
class _Key:
    runs: deque[EndedRun] = field(default_factory=lambda: deque(maxlen=_HISTORY))
    #: log(peak / forecast) of each view, made before the run it judges was known.
    errors: dict[str, deque[float]] = field(default_factory=dict)


@dataclass(slots=True)
class _Shelf:
    """What the book knows of one view at one length of history and one spread: how often and how far peaks surprise."""

    runs: int = 0
    surprises: int = 0
    excesses: dict[int, int] = field(default_factory=dict)

    def add(self, excess: float) -> None:
        self.runs += 1
        if excess > 0:
            self.surprises += 1
            self.excesses[_bin(excess)] = self.excesses.get(_bin(excess), 0) + 1

    def chance(self, known: int) -> float:
        """Of passing all `known` errors: one in known + 1 where they are alike, corrected by what came of it."""
        return (_PRIOR_RUNS / (known + 1) + self.surprises) / (_PRIOR_RUNS + self.runs)

    def surprise(self) -> list[tuple[float, float]]:
        """(excess, share) of the surprises, shares adding up to one."""
        seen = [*_PRIOR_EXCESSES, *((_bin_end(each), float(count)) for each, count in self.excesses.items())]
        total = sum(weight for _, weight in seen)
        return [(excess, weight / total) for excess, weight in seen]


class Headroom:
    """Forecasts and limits for many keys, learning from each run that ends."""

    def __init__(self, policy: HeadroomPolicy | None = None) -> None:
        self._policy = policy or HeadroomPolicy()
        self._keys: dict[str, _Key] = {}
        self._book: dict[tuple[str, int, int], _Shelf] = {}
        self._runs = 0
        self._kills = 0
        self._byte_seconds = 0.0
        self._price_runs = self._policy.first_price_runs

    def limit_bytes(self, key: str, input_bytes: float, request_bytes: float) -> float:
        """The limit to start with; the request where the key has no history."""
        known = self._keys.get(key)
        if known is None or not known.runs:
            return request_bytes
        seconds, ceiling = _seconds(known, input_bytes), _ceiling(known, request_bytes)
        forecasts = self._forecasts(known, input_bytes)
        return min(self._cheapest(each, seconds, ceiling, self._price()) for each in forecasts)[1]

    def next_limit_bytes(self, key: str, input_bytes: float, request_bytes: float, limit_bytes: float) -> float:
        """The limit after a kill at `limit_bytes`: the cheapest for the peaks that are still possible."""
        least = limit_bytes * _LEAST_GROWTH
        known = self._keys.get(key)
        if known is not None and known.runs and least < (ceiling := _ceiling(known, request_bytes)):
            seconds = _seconds(known, input_bytes)
            tails = [_beyond(each, least) for each in self._forecasts(known, input_bytes)]
            choices = [self._cheapest(tail, seconds, ceiling, 0.0) for tail in tails if tail.peaks]
            return max(least, min(choices)[1]) if choices else max(least, request_bytes)
        return max(request_bytes, limit_bytes * _BLIND_GROWTH)

    def observe(self, key: str, run: EndedRun, killed: bool) -> None:
        """Learn from a run that ended; `killed` says whether a kill came before its end."""
        known = self._keys.setdefault(key, _Key())
        if known.runs:
            for view, forecast in _views(known, run.input_bytes).items():
                error = math.log(run.peak_bytes / forecast)
                before = _errors(view, known)
                if before:
                    self._book.setdefault(_address(view, known), _Shelf()).add(error - max(before))
                known.errors.setdefault(view, deque(maxlen=_HISTORY)).append(error)
        known.runs.append(run)
        self._runs += 1
        self._kills += killed
        self._byte_seconds += run.peak_bytes * run.runtime_seconds
        step = self._policy.price_gain * (killed - self._policy.kill_budget_ratio)
        self._price_runs = min(max(self._price_runs * math.exp(step), _LEAST_PRICE_RUNS), _MOST_PRICE_RUNS)

    def _price(self) -> float:
        """What one kill counts, in byte-seconds."""
        young = 1 + _YOUNG_RUNS / (self._runs + 1)
        overspent = max(0.0, self._kills - self._policy.kill_budget_ratio * self._runs)
        return young * (1 + _OVERSPENT_GAIN * overspent) * self._price_runs * self._byte_seconds / max(1, self._runs)

    def _forecasts(self, known: _Key, input_bytes: float) -> Iterable[_Forecast]:
        for view, centre in _views(known, input_bytes).items():
            errors = _errors(view, known)
            if not errors:
                continue
            shelf = self._book.get(_address(view, known), _Shelf())
            chance = shelf.chance(len(errors))
            highest = max(errors)
            samples = [(centre * math.exp(error), (1 - chance) / len(errors)) for error in errors]
            samples += [(centre * math.exp(highest + excess), chance * share) for excess, share in shelf.surprise()]
            samples.sort()
            yield _Forecast([peak for peak, _ in samples], [weight for _, weight in samples])

    def _cheapest(self, forecast: _Forecast, seconds: float, ceiling: float, price: float) -> tuple[float, float]:
        """(cost, limit) of the cheapest limit; only peaks that may occur are tried, between two a limit just wastes."""
        total = sum(forecast.weights)
        beyond = total
        beyond_bytes = sum(peak * weight for peak, weight in zip(forecast.peaks, forecast.weights, strict=True))
        # Views compare by cost per expected byte: the lowest forecast must not win by being low.
        expected = beyond_bytes * seconds
        best = (math.inf, ceiling)
        for peak, weight in zip(forecast.peaks, forecast.weights, strict=True):
            beyond -= weight
            beyond_bytes -= peak * weight
            limit = min(peak * _MARGIN, ceiling)
            kept = total - beyond
            held = kept * limit + beyond * self._policy.lost_ratio * limit + _RETRY_OVERSHOOT * beyond_bytes
            best = min(best, ((held * seconds + beyond * price) / expected, limit))
            if limit >= ceiling:
                break
        return best


def forecast_limit_bytes(
    runs: Iterable[EndedRun], input_bytes: float, most_bytes: float, policy: HeadroomPolicy
) -> float:
    """The limit for the next run of a single key, from its earlier runs; at most `most_bytes`."""
    headroom = Headroom(policy)
    for run in runs:
        headroom.observe("", run, killed=False)
    return min(most_bytes, headroom.limit_bytes("", input_bytes, most_bytes))


def _seconds(known: _Key, input_bytes: float) -> float:
    near = _nearest(known.runs, input_bytes)
    # Runs too short to be timed are logged as zero, and still hold memory.
    return max(_LEAST_SECONDS, sum(run.runtime_seconds for run in near) / len(near))


def _ceiling(known: _Key, request_bytes: float) -> float:
    """Nobody gets more than was asked for, unless this key has needed more than that before."""
    highest = max(run.peak_bytes for run in known.runs)
    return request_bytes if highest * _MARGIN <= request_bytes else highest * _STRETCH


def _views(known: _Key, input_bytes: float) -> dict[str, float]:
    """What each view expects of a run on `input_bytes`."""
    highest = max(run.peak_bytes for run in known.runs)
    views = {"level": highest}
    if len(known.runs) < 3 or input_bytes <= 0:
        return views
    near = _nearest(known.runs, input_bytes)
    views["near"] = max(run.peak_bytes for run in near)
    line = _line(known.runs, input_bytes)
    if line is not None:
        # Far from all inputs seen, a line through few points says anything.
        views["line"] = min(max(line, min(run.peak_bytes for run in known.runs) / 2), highest * _STRETCH)
    return views


def _nearest(runs: Iterable[EndedRun], input_bytes: float) -> list[EndedRun]:
    at = math.log1p(input_bytes)
    return nsmallest(_NEIGHBOURS, runs, key=lambda run: abs(math.log1p(run.input_bytes) - at))


def _line(runs: Iterable[EndedRun], input_bytes: float) -> float | None:
    """Least squares of relative errors: a small run's gigabyte counts more than a large one's."""
    weight = sum_x = sum_y = sum_xx = sum_xy = 0.0
    for run in runs:
        relative = run.peak_bytes**-2
        weight += relative
        sum_x += relative * run.input_bytes
        sum_y += relative * run.peak_bytes
        sum_xx += relative * run.input_bytes**2
        sum_xy += relative * run.input_bytes * run.peak_bytes
    spread = sum_xx - sum_x**2 / weight
    if spread <= 1e-9 * sum_xx:
        return None
    slope = (sum_xy - sum_x * sum_y / weight) / spread
    return (sum_y - slope * sum_x) / weight + slope * input_bytes


def _beyond(forecast: _Forecast, limit: float) -> _Forecast:
    first = bisect_right(forecast.peaks, limit)
    return _Forecast(forecast.peaks[first:], forecast.weights[first:])


def _errors(view: str, known: _Key) -> Sequence[float]:
    """How wrong a view was on this key's runs; the level is wrong by what each peak lies below it."""
    if view == "level":
        highest = max(run.peak_bytes for run in known.runs)
        return [math.log(run.peak_bytes / highest) for run in known.runs]
    return known.errors.get(view, ())


def _address(view: str, known: _Key) -> tuple[str, int, int]:
    """Where the book files `view` for a key with this much history and this spread."""
    errors = _errors(view, known)
    middle = sum(errors) / len(errors) if errors else 0.0
    spread = sum(abs(error - middle) for error in errors) / len(errors) if len(errors) > 1 else math.inf
    length = len(errors)
    return (
        view,
        next((at for at, end in enumerate(_LENGTH_ENDS) if length <= end), len(_LENGTH_ENDS)),
        next((at for at, end in enumerate(_SPREAD_ENDS) if spread <= end), len(_SPREAD_ENDS)),
    )


def _bin(error: float) -> int:
    return math.ceil(math.asinh(error / _BIN_SCALE) / _BIN_WIDTH)


def _bin_end(number: int) -> float:
    return _BIN_SCALE * math.sinh(number * _BIN_WIDTH)
