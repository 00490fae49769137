"""The benchmark tells the truth about its traces, replays files from elsewhere, and ends with one JSON object."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench.breaker.__main__ import main
from bench.breaker.rivals import firing, slopes
from bench.breaker.simulate import Score, Scrapes, averted, excuse, is_avertable, judge, scrape, starved_after
from bench.breaker.traces import HEALTHY, HELD, RAMPS, doomed, healthy, held

from tidegate.core.contract import GIB
from tidegate.core.detector import Policy, Sample

FIGURES = {"averted_ratio", "false_trips_per_1000h", "median_lead_seconds"}
RIVALS = {"static_85", "static_95", "predict_linear", "velocity_3x"}


def written(path: Path, memory: list[float], interval: float = 5.0, **columns: list[float]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["t_seconds", "nonreclaimable_bytes", "limit_bytes", *columns])
        for number, value in enumerate(memory):
            extra = [values[number] for values in columns.values()]
            writer.writerow([number * interval, value * 8 * GIB, 8 * GIB, *extra])
    return path


def replayed(directory: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    assert main(["--traces", str(directory)]) == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    return {trace["trace"]: trace for trace in json.loads(last)["traces"]}


@pytest.mark.parametrize("kind", HEALTHY)
def test_a_healthy_trace_never_reaches_its_limit_and_is_not_avertable(kind: str) -> None:
    trace = healthy(np.random.default_rng([9, HEALTHY.index(kind)]), kind, 1.0)
    assert trace.limit_at is None
    assert float(np.max(trace.memory)) < trace.limit_bytes
    assert not is_avertable(trace, 5.0, 15.0)


@pytest.mark.parametrize("ramp", RAMPS)
def test_a_doomed_trace_ends_at_its_limit_after_its_onset(ramp: str) -> None:
    trace = doomed(np.random.default_rng([9, RAMPS.index(ramp)]), ramp)
    assert trace.limit_at == trace.seconds - 1
    assert trace.onset is not None
    assert trace.onset < trace.limit_at
    assert trace.memory[-1] >= trace.limit_bytes
    assert float(np.max(trace.memory[: int(trace.onset)])) < trace.limit_bytes


@pytest.mark.parametrize("kind", HELD)
def test_a_held_trace_stays_under_its_limit_and_is_seen_to_starve(kind: str) -> None:
    rng = np.random.default_rng([9, HELD.index(kind)])
    trace = held(rng, kind)
    assert trace.limit_at is None
    seconds = starved_after(trace, judge(scrape(rng, trace, 5.0, 0.0), trace.foreseen, Policy()))
    assert seconds is not None
    assert 25 < seconds < 90


def test_a_trip_averts_only_after_the_onset_and_a_remedy_before_the_limit() -> None:
    trace = doomed(np.random.default_rng(4), "linear")
    assert trace.onset is not None
    assert trace.limit_at is not None
    assert averted(trace, Score([(trace.limit_at - 60, "velocity")]), 60)
    assert not averted(trace, Score([(trace.limit_at - 59, "velocity")]), 60)
    assert not averted(trace, Score([(trace.onset - 1, "velocity")]), 15)
    assert not averted(trace, Score(), 15)
    span = trace.limit_at - trace.onset
    assert is_avertable(trace, (span - 60) / 2, 60)
    assert not is_avertable(trace, (span - 58) / 2, 60)


def test_a_trace_is_excused_only_where_the_warm_up_or_lost_scrapes_left_no_two_samples() -> None:
    trace = doomed(np.random.default_rng(4), "linear")
    assert trace.onset is not None
    assert trace.limit_at is not None
    assert trace.onset > trace.work_at + 120
    seen = [Sample(trace.onset + seconds, 1.0, trace.limit_bytes) for seconds in (-5, 1, 6)]
    polls = [(sample.t_seconds + 0.5, sample) for sample in seen]
    assert excuse(trace, Scrapes(5.0, [*polls]), 15) is None
    assert excuse(trace, Scrapes(5.0, [*polls[:2], (trace.onset + 6.5, None)]), 15) == "lost scrapes"
    late = replace(trace, work_at=trace.limit_at - 120 - 20)
    assert excuse(late, Scrapes(5.0, [*polls]), 15) == "the warm-up"


def test_only_a_wrong_plan_or_a_hand_set_limit_lets_a_healthy_pod_over_four_fifths_of_it() -> None:
    over = 0
    for number in range(60):
        trace = healthy(np.random.default_rng([9, number]), "steady", 0.5)
        high = float(np.max(trace.memory)) > 0.801 * trace.limit_bytes
        over += high
        assert not high or trace.foreseen.upper_bytes < float(np.max(trace.memory))
    assert over <= 12


def test_a_lost_scrape_is_polled_but_brings_no_sample() -> None:
    trace = healthy(np.random.default_rng(1), "steady", 1.0)
    scrapes = scrape(np.random.default_rng(2), trace, 5.0, 0.3)
    lost = sum(sample is None for _, sample in scrapes.polls)
    assert 0.2 < lost / len(scrapes.polls) < 0.5
    assert len(scrapes.polls) == pytest.approx(720, abs=2)


def test_a_rival_fires_once_its_condition_has_held_for_its_time() -> None:
    times = np.arange(0, 200, 10.0)
    assert firing(times, times >= 50, 60).tolist() == [110, 120, 130, 140, 150, 160, 170, 180, 190]
    assert firing(times, (times >= 50) & (times != 100), 60).tolist() == [170, 180, 190]


def test_a_rival_predicts_a_straight_line_exactly() -> None:
    times = np.arange(0, 600, 15.0)
    slope, here = slopes(times, 0.1 + 0.001 * times, 300)
    assert slope[2:] == pytest.approx(0.001)
    assert here[2:] == pytest.approx(0.1 + 0.001 * times[2:])


def test_the_last_line_is_one_json_object_with_the_figures_of_every_judge() -> None:
    # As `make` runs it: what its own processes are to run must be found from there.
    size = ("--seeds", "2", "--hours", "3", "--ramps", "5", "--processes", "2")
    ran = subprocess.run((sys.executable, "-m", "bench.breaker", *size), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    result = json.loads(ran.stdout.strip().splitlines()[-1])
    assert result.keys() >= FIGURES
    assert result["rivals"].keys() == RIVALS
    assert all(figures.keys() == FIGURES for figures in result["rivals"].values())
    assert result["starved"]["tripped_in_time"] == result["starved"]["traces"] > 0
    assert "seed 2 of 2" in ran.stderr


def test_files_from_elsewhere_are_replayed_with_every_judges_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flat = [0.4] * 120
    written(tmp_path / "ramp.csv", [*flat, *(0.4 + 0.6 * n / 60 for n in range(61))])
    written(tmp_path / "flat.csv", [*flat, *flat])
    shut = [0.0] * 120 + [5.0 * n for n in range(120)]
    written(tmp_path / "held.csv", [*flat, *([0.8] * 120)], gate_closed_seconds=shut)
    traces = replayed(tmp_path, capsys)
    assert traces["ramp.csv"]["limit_reached_at"] == 900
    assert traces["ramp.csv"]["verdicts"].keys() == {"tidegate", *RIVALS}
    assert set(traces["ramp.csv"]["averted_by"]["tidegate"]) == {"resize", "relaunch"}
    assert 600 < traces["ramp.csv"]["verdicts"]["tidegate"][0]["t_seconds"] < 840
    assert traces["flat.csv"]["limit_reached_at"] is None
    assert not any(traces["flat.csv"]["verdicts"].values())
    assert traces["held.csv"]["verdicts"]["tidegate"][0]["cause"] == "starved"


def test_a_file_with_nonsense_in_it_is_replayed_and_the_nonsense_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "odd.csv", [0.4] * 100)
    lines = path.read_text().splitlines()
    lines[20] = "95,oops,8589934592"
    lines[30] = lines[29]
    lines[40] = ",,"
    path.write_text("\n".join(lines))
    assert replayed(tmp_path, capsys)["odd.csv"]["dropped_samples"] == 3


def test_a_file_without_the_columns_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "wrong.csv").write_text("time,memory\n1,2\n")
    assert main(["--traces", str(tmp_path)]) == 2
    assert "wrong.csv" in capsys.readouterr().err


def test_a_directory_without_traces_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--traces", str(tmp_path)]) == 2
    assert "no *.csv" in capsys.readouterr().err
