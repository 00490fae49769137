"""The replay counts what it says it counts, the policy keeps its promises on histories it was not made for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from bench.sizing.generate import Family, generate
from bench.sizing.policies import AsRequested, Ended, MaxWithMargin, Percentile99, Policy, Tidegate, VerticalAutoscaler
from bench.sizing.replay import replay
from bench.sizing.trace import Run, read_trace
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.core.errors import FixConfig
from tidegate.core.headroom import EndedRun, Headroom, HeadroomPolicy

GB = 1e9
ROOT = Path(__file__).parents[2]
HEADER = "key,input_bytes,request_bytes,peak_bytes,runtime_seconds"


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


class Fixed:
    """A policy of the test: one first limit, doubled after a kill; notes what it was told and when."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.known: list[Run] = []
        self.known_at_start: list[int] = []

    def limit_bytes(self, _run: Run) -> float:
        self.known_at_start.append(len(self.known))
        return self.limit

    def next_limit_bytes(self, _run: Run, limit_bytes: float) -> float:
        return 2 * limit_bytes

    def observe(self, ended: Ended) -> None:
        self.known.append(ended.run)


@pytest.mark.parametrize(
    ("limit", "lost_ratio", "allocated", "oom_rate"),
    [
        (4.0, 1.0, 4.0, 0.0),
        (2.0, 1.0, 2.0 + 4.0, 1.0),
        (2.0, 0.02, 2.0 * 0.02 + 4.0, 1.0),
        (1.0, 0.02, (1.0 + 2.0) * 0.02 + 4.0, 1.0),
    ],
)
def test_killed_attempts_are_paid_for_by_what_they_lose(
    limit: float, lost_ratio: float, allocated: float, oom_rate: float
) -> None:
    figures = replay([Run("a", 1, 8 * GB, 3 * GB, 3600)], Fixed(limit * GB), lost_ratio)
    assert figures.maq == pytest.approx(3 / allocated)
    assert figures.wasted_gbh == pytest.approx(allocated - 3)
    assert figures.oom_rate == oom_rate


def test_a_run_is_sized_only_from_runs_that_ended_before_it_began() -> None:
    runs = [Run("a", 1, GB, GB, 100, start) for start in (0.0, 50.0, 100.0, 149.0, 151.0)]
    policy = Fixed(GB)
    replay(runs, policy, 0.02)
    assert policy.known_at_start == [0, 0, 1, 1, 2]


def test_without_starts_runs_follow_each_other() -> None:
    policy = Fixed(GB)
    replay([Run("a", 1, GB, GB, 100)] * 3, policy, 0.02)
    assert policy.known_at_start == [0, 1, 2]


def test_a_policy_that_answers_a_kill_with_no_more_memory_is_refused() -> None:
    class Stubborn(Fixed):
        def next_limit_bytes(self, _run: Run, limit_bytes: float) -> float:
            return limit_bytes

    with pytest.raises(ValueError, match="Stubborn"):
        replay([Run("a", 1, GB, 2 * GB, 1)], Stubborn(GB), 0.02)


@pytest.mark.parametrize("family", list(Family))
def test_the_same_seed_gives_the_same_history_and_another_seed_another(family: Family) -> None:
    assert generate(3, family, 200) == generate(3, family, 200) != generate(4, family, 200)


@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize("seed", [101, 102])
def test_on_histories_it_was_not_tuned_on_kills_stay_in_budget_and_no_rival_is_better_on_both(
    family: Family, seed: int
) -> None:
    runs = generate(seed, family, 2500)
    ours = replay(runs, Tidegate(0.02), 0.02)
    rivals: list[Policy] = [AsRequested(), MaxWithMargin(), VerticalAutoscaler(), Percentile99()]
    assert ours.oom_rate <= 0.03
    for rival in rivals:
        figures = replay(runs, rival, 0.02)
        assert not figures.beats(ours)
        assert ours.maq > figures.maq


def test_a_key_without_history_gets_what_was_asked_for() -> None:
    headroom = Headroom()
    headroom.observe("other", EndedRun(1, GB, 60), killed=False)
    assert headroom.limit_bytes("new", 1, 7 * GB) == 7 * GB


def test_a_steady_key_ends_within_a_few_percent_of_its_peak() -> None:
    headroom = Headroom()
    for number in range(60):
        headroom.observe("steady", EndedRun(1, (1 + 0.001 * (number % 3)) * GB, 3600), killed=False)
    assert GB < headroom.limit_bytes("steady", 1, 64 * GB) < 1.1 * GB


def test_a_key_that_follows_its_input_is_sized_by_its_input() -> None:
    headroom = Headroom()
    for number in range(60):
        size = (1 + number % 10) * GB
        headroom.observe("linear", EndedRun(size, 0.5 * GB + 2 * size, 3600), killed=False)
    small, large = (headroom.limit_bytes("linear", size, 64 * GB) for size in (2 * GB, 12 * GB))
    assert 4.5 * GB <= small < 5.5 * GB
    assert 24.5 * GB <= large < 30 * GB


def test_a_key_of_two_modes_starts_low_where_it_resumes_and_high_where_a_kill_loses_the_run() -> None:
    limits = []
    for lost_ratio in (0.02, 1.0):
        headroom = Headroom(HeadroomPolicy(lost_ratio=lost_ratio, first_price_runs=0.01))
        for number in range(80):
            peak = (1.0 if number % 3 == 0 else 3.0) * GB
            headroom.observe("modes", EndedRun(1, peak, 3600), killed=False)
        limits.append(headroom.limit_bytes("modes", 1, 64 * GB))
    assert limits[0] < 1.2 * GB
    assert limits[1] >= 3 * GB


runs_of_a_key = st.lists(st.tuples(st.floats(0, 1e13), st.floats(1, 1e13), st.floats(0, 1e6)), min_size=0, max_size=25)


@settings(deadline=None)
@given(seen=runs_of_a_key, size=st.floats(0, 1e13), request=st.floats(1, 1e13))
def test_limits_are_finite_positive_and_rise_until_any_peak_fits(
    seen: list[tuple[float, float, float]], size: float, request: float
) -> None:
    headroom = Headroom()
    for run in seen:
        headroom.observe("a", EndedRun(*run), killed=run[1] > request)
    limit = headroom.limit_bytes("a", size, request)
    assert limit > 0
    assert limit <= request or any(peak * 1.001 > request for _, peak, _ in seen)
    steps = 0
    while limit < 1e14:
        larger = headroom.next_limit_bytes("a", size, request, limit)
        assert larger > limit * 1.05
        limit, steps = larger, steps + 1
    assert steps < 400


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"lost_ratio": 1.5}, "lost_ratio"), ({"kill_budget_ratio": -0.1}, "kill_budget_ratio")],
)
def test_a_wrong_policy_is_refused_by_name(changes: dict[str, float], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        HeadroomPolicy(**changes)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["key,input_bytes,request_bytes,runtime_seconds", "a,1,1,1"], "peak_bytes"),
        ([HEADER, "a,1,1,many,1"], ":2: peak_bytes is 'many'"),
        ([HEADER, "a,1,1,1,1", "a,1,1,0,1"], ":3: peak_bytes"),
        ([HEADER, "a,1,-5,1,1"], "request_bytes"),
        ([HEADER, "a,1,1,1,inf"], "runtime_seconds"),
        ([HEADER, ",1,1,1,1"], "key"),
        ([HEADER, "a,1,1"], "peak_bytes"),
        ([HEADER], "no runs"),
        ([HEADER + ",start_seconds", "a,1,1,1,1,5", "a,1,1,1,1,"], "start_seconds"),
    ],
)
def test_a_bad_trace_is_refused_by_line_and_column(tmp_path: Path, lines: list[str], problem: str) -> None:
    with pytest.raises(FixConfig, match=problem):
        read_trace(write(tmp_path / "trace.csv", *lines))


def test_an_input_of_unknown_size_a_run_too_short_to_time_and_powers_of_ten_are_read(tmp_path: Path) -> None:
    (run,) = read_trace(write(tmp_path / "trace.csv", HEADER, "a,,8e9,3.5E+06,0"))
    assert (run.input_bytes, run.request_bytes, run.peak_bytes, run.runtime_seconds) == (0.0, 8e9, 3.5e6, 0.0)


def test_a_trace_is_replayed_in_the_order_of_its_starts(tmp_path: Path) -> None:
    trace = write(tmp_path / "trace.csv", HEADER + ",start_seconds", "late,1,1,1,1,9", "early,1,1,1,1,2")
    assert [run.key for run in read_trace(trace)] == ["early", "late"]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench.sizing", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_last_line_is_one_json_object_with_ours_and_every_rival(tmp_path: Path) -> None:
    rows = [f"tool,{size * 10**6},8000000000,{10**9 + size},600" for size in range(40)]
    done = bench("--trace", str(write(tmp_path / "trace.csv", HEADER, *rows)))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result) == {"maq", "oom_rate", "wasted_gbh", "rivals"}
    assert set(result["rivals"]) >= {"as requested", "max + 15 %", "vpa p90 + 15 %", "p99", "tidegate, no resume"}
    assert all(set(figures) == {"maq", "oom_rate", "wasted_gbh"} for figures in result["rivals"].values())
    assert result["rivals"]["as requested"]["maq"] == pytest.approx(0.125, rel=0.01)
    assert "replaying" in done.stderr


def test_a_missing_trace_ends_with_the_exit_code_for_configuration() -> None:
    done = bench("--trace", "/nowhere/trace.csv")
    assert done.returncode == 78
    assert "/nowhere/trace.csv" in done.stderr
    assert done.stdout == ""
