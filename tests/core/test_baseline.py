"""What is remembered of healthy runs, how it fades, and how tonight's volume is judged against it."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tidegate.core.baseline import (
    RECENT_RUNS,
    Baseline,
    BaselineKey,
    DecayingHistogram,
    FinishedRun,
    Quantity,
    Sample,
)
from tidegate.core.contract import GIB
from tidegate.core.errors import ContractMismatch
from tidegate.core.volume import Verdict, judge_peak, judge_volume, robust_z, weekday

DAY = 86_400.0
#: A Monday, 2024-01-01 00:00 UTC.
MONDAY = 1_704_067_200.0
EMPTY = Baseline(key=BaselineKey(pipeline="moths", model_version="2024", job_kind="antenna"))

values = st.one_of(st.just(0.0), st.floats(1e-6, 1e15))


def run(night: int, **changes: Any) -> FinishedRun:
    return FinishedRun(**({"at": MONDAY + night * DAY, "images": 500_000, "peak_bytes": 4 * GIB} | changes))


def nights(*volumes: int, first: float = MONDAY) -> list[Sample]:
    return [Sample(at=first + night * DAY, images=images) for night, images in enumerate(volumes)]


@given(seen=st.lists(values, min_size=1, max_size=40), share=st.floats(0, 1))
def test_a_percentile_is_never_below_its_value_and_at_most_a_bucket_above(seen: list[float], share: float) -> None:
    histogram = DecayingHistogram()
    for value in seen:
        histogram = histogram.add(value, at=MONDAY)
    exact = sorted(seen)[max(0, math.ceil(share * len(seen) - 1e-9) - 1)]
    found = histogram.percentile(share)
    assert found is not None
    assert exact * (1 - 1e-9) <= found <= exact * 1.05 * (1 + 1e-9)


@given(seen=st.lists(st.tuples(values, st.floats(0, 400)), min_size=1, max_size=30))
def test_what_is_remembered_does_not_depend_on_the_order_of_arrival(seen: list[tuple[float, float]]) -> None:
    forward, backward = DecayingHistogram(), DecayingHistogram()
    for value, night in seen:
        forward = forward.add(value, MONDAY + night * DAY)
    for value, night in reversed(seen):
        backward = backward.add(value, MONDAY + night * DAY)
    assert forward.percentile(1.0) is not None
    after, before = dict(forward.weights), dict(backward.weights)
    for bucket in after.keys() | before.keys():
        assert after.get(bucket, 0.0) == pytest.approx(before.get(bucket, 0.0), rel=1e-6, abs=1e-4)


def test_a_sample_counts_half_after_one_half_life() -> None:
    histogram = DecayingHistogram(half_life_seconds=7 * DAY).add(1e9, MONDAY).add(4e9, MONDAY + 7 * DAY)
    assert [weight for _, weight in histogram.weights] == pytest.approx([0.5, 1.0])
    assert histogram.percentile(0.33) == pytest.approx(1e9, rel=0.05)
    assert histogram.percentile(0.34) == pytest.approx(4e9, rel=0.05)


def test_an_empty_histogram_has_no_percentiles() -> None:
    assert DecayingHistogram().percentile(0.9) is None
    assert EMPTY.percentile(Quantity.PEAK_BYTES, 0.9) is None


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_a_value_that_is_no_size_is_refused_by_name(value: float) -> None:
    with pytest.raises(ValueError, match="value"):
        DecayingHistogram().add(value, MONDAY)


def test_own_kills_do_not_inflate_the_peak_but_their_volume_counts() -> None:
    calm = EMPTY
    for night in range(5):
        calm = calm.observe(run(night))
    killed = calm.observe(run(5, peak_bytes=16 * GIB, oom_kills=1, images=900_000))
    failed = calm.observe(run(5, peak_bytes=16 * GIB, completed=False))
    healthy = calm.observe(run(5, peak_bytes=16 * GIB))
    peak = calm.percentile(Quantity.PEAK_BYTES, 1.0)
    assert killed.percentile(Quantity.PEAK_BYTES, 1.0) == failed.percentile(Quantity.PEAK_BYTES, 1.0) == peak
    assert healthy.percentile(Quantity.PEAK_BYTES, 1.0) == pytest.approx(16 * GIB, rel=0.05)
    assert (killed.healthy_runs, killed.unhealthy_runs) == (5, 1)
    assert killed.recent[-1] == Sample(at=MONDAY + 5 * DAY, images=900_000, peak_bytes=None)


def test_what_a_run_did_not_measure_is_not_taken_for_zero() -> None:
    baseline = EMPTY.observe(run(0)).observe(run(1, floor_bytes=GIB))
    assert baseline.percentile(Quantity.FLOOR_BYTES, 0.0) == pytest.approx(GIB, rel=0.05)


def test_five_healthy_runs_settle_a_baseline_until_they_are_a_month_old() -> None:
    baseline = EMPTY
    for night in range(4):
        baseline = baseline.observe(run(night))
    assert not baseline.settled(MONDAY + 4 * DAY)
    baseline = baseline.observe(run(4))
    assert baseline.settled(MONDAY + 5 * DAY)
    assert not baseline.settled(MONDAY + 35 * DAY)


def test_a_baseline_stays_small_however_many_runs_it_has_seen() -> None:
    baseline = EMPTY
    for night in range(3 * RECENT_RUNS):
        baseline = baseline.observe(run(night, floor_bytes=GIB + night * 10**6, image_bytes=10**8 + night))
    assert len(baseline.recent) == RECENT_RUNS
    assert len(baseline.to_json()) < 20_000


def test_a_baseline_survives_the_store_as_json() -> None:
    baseline = EMPTY.observe(run(0, infer_seconds=0.3, cores=2.0, has_cuda=True)).observe(run(1, oom_kills=2))
    assert Baseline.from_json(baseline.to_json()) == baseline
    assert Baseline.from_json(json.dumps(baseline.model_dump(mode="json"))) == baseline


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"schema_version": 99}, "schema_version"),
        ({"healthy_runs": -1}, "healthy_runs"),
        ({"key": {"pipeline": "moths"}}, "key.model_version"),
    ],
)
def test_a_snapshot_that_is_not_ours_is_refused_by_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ContractMismatch) as refused:
        Baseline.from_json(json.dumps(json.loads(EMPTY.to_json()) | change))
    assert refused.value.field == field


def test_a_run_with_a_wrong_number_is_refused_by_field() -> None:
    with pytest.raises(ValidationError, match="peak_bytes"):
        run(0, peak_bytes=-1)


@pytest.mark.parametrize(("night", "day"), [(0, 0), (5, 5), (6, 6), (7, 0)])
def test_weekdays_are_told_from_unix_time(night: int, day: int) -> None:
    assert weekday(MONDAY + night * DAY) == weekday(MONDAY + night * DAY + DAY - 1) == day


def test_ten_times_the_usual_records_are_unusual_before_the_first_image() -> None:
    verdict = judge_volume(5_000_000, MONDAY + 7 * DAY, nights(*[500_000 + 9_000 * (night % 4) for night in range(7)]))
    assert verdict.verdict is Verdict.UNUSUAL
    assert verdict.ratio == pytest.approx(10, rel=0.1)
    assert "5,000,000 images" in verdict.reason


@pytest.mark.parametrize("images", [480_000, 510_000, 600_000, 900_000])
def test_the_ordinary_ups_and_downs_of_a_steady_job_are_usual(images: int) -> None:
    assert judge_volume(images, MONDAY + 9 * DAY, nights(*[500_000] * 9)).verdict is Verdict.USUAL


def test_nothing_at_all_is_unusual_where_there_is_always_something() -> None:
    assert judge_volume(0, MONDAY + 9 * DAY, nights(*[500_000] * 9)).verdict is Verdict.UNUSUAL


def test_a_quiet_sunday_is_compared_with_sundays() -> None:
    weeks = [1000, 1000, 1000, 1000, 1000, 1000, 50] * 5
    sunday, monday = MONDAY + 34 * DAY, MONDAY + 35 * DAY
    quiet = judge_volume(52, sunday, nights(*weeks))
    assert quiet.verdict is Verdict.USUAL
    assert "on a Sunday" in quiet.reason
    assert judge_volume(52, monday, nights(*weeks)).verdict is Verdict.UNUSUAL


def test_with_few_of_this_weekday_all_days_are_compared_and_the_reason_says_so() -> None:
    verdict = judge_volume(1000, MONDAY + 8 * DAY, nights(*[1000] * 8))
    assert verdict.verdict is Verdict.USUAL
    assert "any day" in verdict.reason


def test_without_history_the_verdict_is_unknown_not_usual() -> None:
    verdict = judge_volume(5_000_000, MONDAY + 4 * DAY, nights(*[500_000] * 4))
    assert verdict.verdict is Verdict.UNKNOWN
    assert verdict.z is None
    assert "no history" in verdict.reason


def test_later_runs_are_no_history() -> None:
    assert judge_volume(10, MONDAY, nights(*[10] * 30)).verdict is Verdict.UNKNOWN


def test_one_odd_night_does_not_make_the_next_one_usual() -> None:
    assert judge_volume(5_000_000, MONDAY + 10 * DAY, nights(*[500_000] * 9, 5_000_000)).verdict is Verdict.UNUSUAL


def test_a_peak_far_above_its_weekday_is_unusual_and_killed_runs_are_no_measure() -> None:
    samples = [Sample(at=MONDAY + night * DAY, images=1, peak_bytes=4 * GIB + night) for night in range(8)]
    killed = [Sample(at=MONDAY + night * DAY, images=1) for night in range(8)]
    assert judge_peak(8 * GIB, MONDAY + 9 * DAY, samples).verdict is Verdict.UNUSUAL
    assert judge_peak(int(4.2 * GIB), MONDAY + 9 * DAY, samples).verdict is Verdict.USUAL
    assert judge_peak(8 * GIB, MONDAY + 9 * DAY, killed).verdict is Verdict.UNKNOWN


@given(history=st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=30), shift=st.floats(-1e6, 1e6))
def test_a_z_score_moves_with_its_history(history: list[float], shift: float) -> None:
    here = robust_z(history[0], history, least_spread=1.0)
    there = robust_z(history[0] + shift, [each + shift for each in history], least_spread=1.0)
    assert there == pytest.approx(here, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(("history", "least", "name"), [([], 1.0, "history"), ([1.0], 0.0, "least_spread")])
def test_a_z_score_of_nothing_is_refused_by_name(history: list[float], least: float, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        robust_z(1.0, history, least)
