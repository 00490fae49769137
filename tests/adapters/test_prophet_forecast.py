"""The seasonal forecast of a peak by the real Prophet; without it, in an interpreter that does not find it."""

from __future__ import annotations

import logging

import pytest

from tidegate.adapters import prophet_forecast
from tidegate.adapters.prophet_forecast import LEAST_RUNS, judge_peak
from tidegate.core.baseline import DAY_SECONDS, Sample
from tidegate.core.contract import GIB
from tidegate.core.volume import Verdict

#: 20:00 UTC on a Monday.
MONDAY = 1_735_588_800.0
SATURDAY = 5

pytestmark = pytest.mark.skipif(
    not prophet_forecast.is_installed(),
    reason="Prophet is not installed here: scripts/setup control, or pip install 'tidegate[prophet]'",
)


def nights(count: int, *, saturday_bytes: int = 4 * GIB) -> list[Sample]:
    """So many nights of 4 GiB with a little noise; Saturdays may be of their own kind."""
    samples = []
    for night in range(count):
        usual = saturday_bytes if night % 7 == SATURDAY else 4 * GIB
        noise = (night * 37 % 11 - 5) * GIB // 100
        samples.append(Sample(at=MONDAY + night * DAY_SECONDS, images=1000, peak_bytes=usual + noise))
    return samples


def night(number: int) -> float:
    return MONDAY + number * DAY_SECONDS


def test_a_peak_as_ever_is_usual_and_twice_as_much_is_not() -> None:
    history = nights(42)
    assert judge_peak(4 * GIB, night(42), history).verdict is Verdict.USUAL
    judged = judge_peak(8 * GIB, night(42), history)
    assert judged.verdict is Verdict.UNUSUAL
    assert judged.ratio == pytest.approx(2, rel=0.1)
    assert "seasonal model of 42 runs expects 4.0" in judged.reason
    assert "for a Monday" in judged.reason


def test_a_weekday_has_a_forecast_of_its_own() -> None:
    history = nights(56, saturday_bytes=8 * GIB)
    saturday, sunday = night(56 + SATURDAY), night(56 + SATURDAY + 1)
    assert judge_peak(8 * GIB, saturday, history).verdict is Verdict.USUAL
    assert judge_peak(8 * GIB, sunday, history).verdict is Verdict.UNUSUAL
    assert judge_peak(4 * GIB, saturday, history).verdict is Verdict.UNUSUAL


def test_a_tenth_more_than_a_history_without_any_spread_is_nobodys_incident() -> None:
    steady = [Sample(at=night(number), images=1000, peak_bytes=4 * GIB) for number in range(30)]
    assert judge_peak(int(4.4 * GIB), night(30), steady).verdict is Verdict.USUAL
    assert judge_peak(6 * GIB, night(30), steady).verdict is Verdict.UNUSUAL


def test_with_few_runs_it_says_so_and_killed_or_later_runs_are_none() -> None:
    few = nights(LEAST_RUNS - 1)
    killed = [Sample(at=night(100 + number), images=1000) for number in range(20)]
    for history in ([], few, few + killed):
        judged = judge_peak(8 * GIB, night(200), history)
        assert (judged.verdict, judged.ratio) == (Verdict.UNKNOWN, None)
        assert "no history" in judged.reason
    assert judge_peak(8 * GIB, MONDAY, nights(42)).verdict is Verdict.UNKNOWN


def test_its_libraries_do_not_talk_in_the_tasks_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    judge_peak(4 * GIB, night(20), nights(20))
    assert [record.name for record in caplog.records if record.name.startswith(("prophet", "cmdstanpy"))] == []
