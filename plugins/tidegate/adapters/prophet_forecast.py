"""A seasonal forecast of a run's peak memory by Prophet, for those who install `tidegate[prophet]`.

Covers the translation between run samples and Prophet alone; what needs nothing, the comparison with the same weekday,
is `tidegate.core.volume`, and the run's report shows both.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

from tidegate.core.baseline import Sample
from tidegate.core.contract import GIB
from tidegate.core.volume import PEAK_FACTOR, Judgement, Verdict

#: Two weeks: fewer nights cannot tell a weekday from a trend.
LEAST_RUNS: Final = 14
_INTERVAL: Final = 0.99
#: They tell of every fit, and one calls a plotting library that is not there an error.
_TALKATIVE: Final = ("prophet", "prophet.plot", "cmdstanpy")
_SILENT: Final = logging.NullHandler()


def is_installed() -> bool:
    return find_spec("prophet") is not None


def judge_peak(peak_bytes: int, at: float, recent: Sequence[Sample]) -> Judgement:
    """The verdict on the peak of a run that began at `at`, from a seasonal model of the earlier healthy runs."""
    earlier = [(each.at, each.peak_bytes) for each in recent if each.peak_bytes is not None and each.at < at]
    if len(earlier) < LEAST_RUNS:
        reason = f"no history: {len(earlier)} earlier healthy runs, {LEAST_RUNS} are needed for a seasonal model"
        return Judgement(Verdict.UNKNOWN, reason)
    try:
        low, usual, high = _forecast(at, earlier)
    except (RuntimeError, ValueError) as error:
        # A report must not fail for a model that does not.
        return Judgement(Verdict.UNKNOWN, f"the seasonal model could not be fitted: {type(error).__name__}")
    ratio = (peak_bytes + 1) / (usual + 1)
    # A steady history makes an interval of no width: as with the weekdays, a small factor is nobody's incident.
    is_material = not 1 / PEAK_FACTOR < ratio < PEAK_FACTOR
    verdict = Verdict.UNUSUAL if is_material and not low <= peak_bytes <= high else Verdict.USUAL
    reason = (
        f"{peak_bytes / GIB:.2f} GiB; the seasonal model of {len(earlier)} runs expects {usual / GIB:.2f} GiB"
        f" ({low / GIB:.2f} to {high / GIB:.2f}) for a {_day(at):%A}"
    )
    return Judgement(verdict, reason, ratio)


def _forecast(at: float, earlier: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Lower end, middle and upper end of what is expected at `at`, in bytes."""
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.CRITICAL)
        # One that finds no handler makes its own, and talks.
        logging.getLogger(name).addHandler(_SILENT)
    prophet: Any = import_module("prophet")
    pandas: Any = import_module("pandas")
    # Sizes differ by factors, and a forecast below zero bytes is none: the model sees logarithms.
    history = pandas.DataFrame(
        {"ds": [_day(when) for when, _ in earlier], "y": [math.log1p(peak) for _, peak in earlier]}
    )
    model = prophet.Prophet(
        interval_width=_INTERVAL, weekly_seasonality=True, daily_seasonality=False, yearly_seasonality=False
    )
    model.fit(history)
    expected = model.predict(pandas.DataFrame({"ds": [_day(at)]})).iloc[0]
    low, usual, high = (math.expm1(float(expected[name])) for name in ("yhat_lower", "yhat", "yhat_upper"))
    return low, usual, high


def _day(at: float) -> datetime:
    # Prophet refuses times with a zone.
    return datetime.fromtimestamp(at, UTC).replace(tzinfo=None)
