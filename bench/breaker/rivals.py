"""The alert rules that people use today, on the same samples: two static levels, `predict_linear`, and velocity alone.

Each takes sampled times and values and says when it would fire, as Prometheus evaluates `expr` with `for`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


def firing(times: Array, condition: Mask, for_seconds: float) -> Array:
    """Times at which `condition` has held since at least `for_seconds`."""
    if not times.size:
        return times
    index = np.arange(times.size)
    broken = np.where(condition, -1, index)
    last_broken = np.maximum.accumulate(broken)
    first_held = np.minimum(last_broken + 1, times.size - 1)
    return np.asarray(times[condition & (times - times[first_held] >= for_seconds)])


def slopes(times: Array, values: Array, window_seconds: float) -> tuple[Array, Array]:
    """Least-squares slope over the trailing window at each sample, and the value of that line there."""
    start = np.searchsorted(times, times - window_seconds)
    origin = float(times[0])
    t = times - origin

    def window_sum(column: Array) -> Array:
        total = np.concatenate([[0.0], np.cumsum(column)])
        return np.asarray(total[1:] - total[start])

    count = window_sum(np.ones_like(t))
    sum_t, sum_v = window_sum(t), window_sum(values)
    variance = window_sum(t * t) - sum_t**2 / count
    covariance = window_sum(t * values) - sum_t * sum_v / count
    slope = np.divide(covariance, variance, out=np.zeros_like(t), where=variance > 1e-6)
    return slope, (sum_v + slope * (count * t - sum_t)) / count


def static_85(times: Array, ratio: Array, _baseline: float) -> Array:
    return firing(times, ratio > 0.85, 60)


def static_95(times: Array, ratio: Array, _baseline: float) -> Array:
    return firing(times, ratio > 0.95, 60)


def predict_linear(times: Array, ratio: Array, _baseline: float) -> Array:
    slope, here = slopes(times, ratio, 600)
    return firing(times, here + 600 * slope > 1, 60)


def velocity_3x(times: Array, ratio: Array, baseline: float) -> Array:
    slope, _ = slopes(times, ratio, 60)
    return firing(times, slope > 3 * max(baseline, 1e-6), 30)


#: Name -> rule(times, ratio, baseline velocity in shares of the limit a second) -> times at which it fires.
RIVALS: Final[dict[str, Callable[[Array, Array, float], Array]]] = {
    "static_85": static_85,
    "static_95": static_95,
    "predict_linear": predict_linear,
    "velocity_3x": velocity_3x,
}
