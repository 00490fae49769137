"""Seasonal judgement of input volume by Prophet, for those who install `tidegate[prophet]`.

Covers the translation between run samples and Prophet alone; without it `tidegate.core.volume` compares weekdays.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from typing import Any, Final

from tidegate.core.baseline import Sample
from tidegate.core.errors import FixConfig
from tidegate.core.volume import Judgement, Verdict

#: Two weeks: fewer nights cannot tell a weekday from a trend.
LEAST_RUNS: Final = 14
_INTERVAL: Final = 0.99


def judge_volume(images: int, at: float, recent: Sequence[Sample]) -> Judgement:
    """The verdict on an input of `images` at `at` from a seasonal model of the earlier runs."""
    prophet, pandas = _libraries()
    earlier = [sample for sample in recent if sample.at < at]
    if len(earlier) < LEAST_RUNS:
        reason = f"no history: {len(earlier)} earlier runs, {LEAST_RUNS} are needed for a seasonal model"
        return Judgement(Verdict.UNKNOWN, reason)
    model = prophet.Prophet(interval_width=_INTERVAL, weekly_seasonality=True, daily_seasonality=False)
    model.fit(pandas.DataFrame({"ds": [_day(each.at) for each in earlier], "y": [each.images for each in earlier]}))
    expected = model.predict(pandas.DataFrame({"ds": [_day(at)]})).iloc[0]
    low, usual, high = (max(0.0, float(expected[name])) for name in ("yhat_lower", "yhat", "yhat_upper"))
    verdict = Verdict.USUAL if low <= images <= high else Verdict.UNUSUAL
    reason = (
        f"{images:,} images; the seasonal model of {len(earlier)} runs expects {usual:,.0f} ({low:,.0f}-{high:,.0f})"
    )
    return Judgement(verdict, reason, ratio=(images + 1) / (usual + 1))


def _libraries() -> tuple[Any, Any]:
    """Prophet and the pandas it brings; neither is part of any other installation of Tidegate."""
    try:
        return import_module("prophet"), import_module("pandas")
    except ImportError:
        raise FixConfig(
            "the seasonal forecast needs Prophet, which is not installed: pip install 'tidegate[prophet]',"
            " or choose the weekday comparison, which needs nothing"
        ) from None


def _day(at: float) -> datetime:
    # Prophet refuses times with a zone.
    return datetime.fromtimestamp(at, UTC).replace(tzinfo=None)
