"""How much memory to give a run whose input size and predecessors alone are known.

Covers the online forecast of a run's peak and the choice of the limit that wastes the least memory-time while kills
stay within a budget; a run that a probe measured needs none of it. How it decides:

1. Each key (one kind of run) is seen through three views: its level (the highest peak so far), a line through peak over
   input size, and the runs nearest in input size. Each forecasts a peak and remembers how wrong it was.
2. A view's errors on this key are mixed with the errors the same view made on all keys of like spread and as little
   history: a key with three runs borrows the caution that other keys paid for.
3. Of all limits the one of least expected cost is taken: memory held x seconds, what a kill loses, and the price of a
   kill. Where a kill loses little (resume) limits may be tight; a small run gets generous room for next to nothing.
4. The price rises with each kill and falls with each run without one, so that kills settle at the budget.

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
_NEIGHBOURS: Final = 5
#: How much the book's experience weighs against a key's own runs, in runs.
_BORROWED_RUNS: Final = 2.0
#: Errors of one view, as log(peak / forecast), before any run was seen: half of all surprises are small, a few are not.
_PRIOR_ERRORS: Final = ((0.0, 1.5), (0.1, 0.75), (0.4, 0.5), (1.0, 0.25))
#: Ends of the classes of history length and of mean error, by which the book files what it learnt.
_LENGTH_ENDS: Final = (1, 2, 4, 8, 16, 32)
_SPREAD_ENDS: Final = (0.002, 0.01, 0.04, 0.15)
#: Bins of the book's errors: fine around zero, where tight keys differ, coarse in the tails.
_BIN_SCALE: Final = 0.002
_BIN_WIDTH: Final = 0.2
#: After a kill, what the retry holds at the end over the peak it turned out to need.
_RETRY_OVERSHOOT: Final = 1.15
#: Peaks repeat to the page, not to the byte.
_MARGIN: Final = 1.005
_BLIND_GROWTH: Final = 2.0
_LEAST_GROWTH: Final = 1.1


@dataclass(frozen=True, slots=True)
class HeadroomPolicy:
    """What a kill costs here."""

    #: Share of a run that is done again after a kill: small with resume, one without.
    lost_ratio: float = 0.02
    #: Share of runs that may meet a kill.
    kill_budget_ratio: float = 0.02
    #: The first price of a kill, in mean runs; the budget moves it from there.
    first_price_runs: float = 10.0
    #: How fast the price follows: the logarithm it gains with one kill.
    price_gain: float = 0.3

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


class Headroom:
    """Forecasts and limits for many keys, learning from each run that ends."""

    def __init__(self, policy: HeadroomPolicy | None = None) -> None:
        self._policy = policy or HeadroomPolicy()
        self._keys: dict[str, _Key] = {}
        self._book: dict[tuple[str, int, int], dict[int, float]] = {}
        self._runs = 0
        self._byte_seconds = 0.0
        self._price_runs = self._policy.first_price_runs

    def limit_bytes(self, key: str, input_bytes: float, request_bytes: float) -> float:
        """The limit to start with; the request where the key has no history."""
        known = self._keys.get(key)
        if known is None or not known.runs:
            return request_bytes
        ceiling = max(request_bytes, max(run.peak_bytes for run in known.runs) * _MARGIN)
        seconds = self._seconds(known, input_bytes)
        choices = (
            self._cheapest(forecast, seconds, ceiling, self._price())
            for forecast in self._forecasts(known, input_bytes)
        )
        return min(choices)[1]

    def next_limit_bytes(self, key: str, input_bytes: float, request_bytes: float, limit_bytes: float) -> float:
        """The limit after a kill at `limit_bytes`: the cheapest for the peaks that are still possible."""
        blind = max(request_bytes, limit_bytes * _LEAST_GROWTH)
        known = self._keys.get(key)
        if limit_bytes >= request_bytes or known is None or not known.runs:
            blind = limit_bytes * _BLIND_GROWTH
        else:
            seconds = self._seconds(known, input_bytes)
            tails = [_beyond(each, limit_bytes * _LEAST_GROWTH) for each in self._forecasts(known, input_bytes)]
            choices = [self._cheapest(tail, seconds, request_bytes, 0.0) for tail in tails if tail.peaks]
            if choices:
                return max(min(choices)[1], limit_bytes * _LEAST_GROWTH)
        return blind

    def observe(self, key: str, run: EndedRun, killed: bool) -> None:
        """Learn from a run that ended; `killed` says whether a kill came before its end."""
        known = self._keys.setdefault(key, _Key())
        if known.runs:
            for view, forecast in _views(known, run.input_bytes).items():
                error = math.log(run.peak_bytes / forecast)
                own = known.errors.setdefault(view, deque(maxlen=_HISTORY))
                shelf = self._book.setdefault(_shelf(view, known), {})
                shelf[_bin(error)] = shelf.get(_bin(error), 0.0) + 1.0
                own.append(error)
        known.runs.append(run)
        self._runs += 1
        self._byte_seconds += run.peak_bytes * run.runtime_seconds
        self._price_runs *= math.exp(self._policy.price_gain * (killed - self._policy.kill_budget_ratio))

    def _price(self) -> float:
        """What one kill counts, in byte-seconds."""
        return self._price_runs * self._byte_seconds / max(1, self._runs)

    def _seconds(self, known: _Key, input_bytes: float) -> float:
        near = _nearest(known.runs, input_bytes)
        return sum(run.runtime_seconds for run in near) / len(near)

    def _forecasts(self, known: _Key, input_bytes: float) -> Iterable[_Forecast]:
        for view, centre in _views(known, input_bytes).items():
            if view == "level":
                samples = [(run.peak_bytes, 1.0) for run in known.runs]
            else:
                samples = [(centre * math.exp(error), 1.0) for error in known.errors.get(view, ())]
            shelf = self._book.get(_shelf(view, known), {})
            borrowed = [*_PRIOR_ERRORS, *((_bin_end(each), weight) for each, weight in shelf.items())]
            share = _BORROWED_RUNS / sum(weight for _, weight in borrowed)
            samples += [(centre * math.exp(error), weight * share) for error, weight in borrowed]
            samples.sort()
            yield _Forecast([peak for peak, _ in samples], [weight for _, weight in samples])

    def _cheapest(self, forecast: _Forecast, seconds: float, ceiling: float, price: float) -> tuple[float, float]:
        """(cost, limit) of the cheapest limit; only peaks that may occur are tried, between two a limit just wastes."""
        total = sum(forecast.weights)
        beyond = total
        beyond_bytes = sum(peak * weight for peak, weight in zip(forecast.peaks, forecast.weights, strict=True))
        best = (math.inf, ceiling)
        for peak, weight in zip(forecast.peaks, forecast.weights, strict=True):
            beyond -= weight
            beyond_bytes -= peak * weight
            limit = min(peak * _MARGIN, ceiling)
            kept = total - beyond
            held = kept * limit + beyond * self._policy.lost_ratio * limit + _RETRY_OVERSHOOT * beyond_bytes
            best = min(best, ((held * seconds + beyond * price) / total, limit))
            if limit >= ceiling:
                break
        return best


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
        # A line may not leave what was seen by more than its own rise does.
        views["line"] = min(max(line, min(run.peak_bytes for run in known.runs) * 0.5), highest * 8)
    return views


def _nearest(runs: Iterable[EndedRun], input_bytes: float) -> list[EndedRun]:
    at = math.log1p(max(0.0, input_bytes))
    return nsmallest(_NEIGHBOURS, runs, key=lambda run: abs(math.log1p(max(0.0, run.input_bytes)) - at))


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


def _shelf(view: str, known: _Key) -> tuple[str, int, int]:
    """Where the book files an error of `view` on a key with this much history and this spread."""
    errors = known.errors.get(view, ())
    spread = sum(map(abs, errors)) / len(errors) if errors else math.inf
    length = len(known.runs)
    return (
        view,
        next((at for at, end in enumerate(_LENGTH_ENDS) if length <= end), len(_LENGTH_ENDS)),
        next((at for at, end in enumerate(_SPREAD_ENDS) if spread <= end), len(_SPREAD_ENDS)),
    )


def _bin(error: float) -> int:
    return math.ceil(math.asinh(error / _BIN_SCALE) / _BIN_WIDTH)


def _bin_end(number: int) -> float:
    return _BIN_SCALE * math.sinh(number * _BIN_WIDTH)
