"""Replay memory traces from CSV files: every judge's verdicts with their times, against the limit in the file itself.

Columns `t_seconds`, `nonreclaimable_bytes`, `limit_bytes`; optional `gate_closed_seconds`, `wanted_bytes`, `acked`,
`in_flight_bytes`. Rows are the samples; the judges see them as they are, gaps and nonsense included.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.breaker.rivals import RIVALS
from bench.breaker.simulate import DELAY_SECONDS, REMEDIES, REST_SECONDS, Scrapes, judge_rivals
from tidegate.core.detector import Detector, Foreseen, Policy, Sample
from tidegate.core.errors import FixConfig

REQUIRED: Final = ("t_seconds", "nonreclaimable_bytes", "limit_bytes")
OPTIONAL: Final = ("gate_closed_seconds", "wanted_bytes", "acked", "in_flight_bytes")


def read(path: Path) -> list[Sample]:
    """The samples of one file; a cell that is no number becomes NaN, which the detector drops and counts."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = [name for name in REQUIRED if name not in (reader.fieldnames or ())]
        if missing:
            raise FixConfig(
                f"{path}: column {', '.join(missing)} is missing; the header must name {', '.join(REQUIRED)}"
            )
        return [_sample(row) for row in reader]


def _sample(row: dict[str, str]) -> Sample:
    values = {name: _number(row[name]) for name in REQUIRED}
    values.update({name: _number(row[name]) for name in OPTIONAL if row.get(name)})
    return Sample(**values)


def _number(text: str | None) -> float:
    try:
        return float(text) if text else math.nan
    except ValueError:
        return math.nan


def replay(path: Path, policy: Policy) -> dict[str, Any]:
    """Verdicts of every judge on one file."""
    samples = read(path)
    detector, trips, resting_until = Detector(policy, Foreseen()), [], -math.inf
    for sample in samples:
        detector.observe(sample)
        now = sample.t_seconds + DELAY_SECONDS
        if not math.isfinite(now):
            continue
        assessment = detector.assess(now)
        if assessment.trip is not None and now >= resting_until:
            trips.append({"t_seconds": now, "cause": assessment.trip.value, "evidence": list(assessment.evidence)})
            detector.acted(now)
            resting_until = now + REST_SECONDS
    sound = _sound(samples)
    over = next((sample.t_seconds for sample in sound if sample.nonreclaimable_bytes >= sample.limit_bytes), None)
    rivals = judge_rivals(Scrapes(0.0, [(sample.t_seconds, sample) for sample in sound]), _usual(sound))
    verdicts: dict[str, list[Any]] = {"tidegate": trips}
    verdicts.update({name: [{"t_seconds": time} for time, _ in rivals[name].trips] for name in RIVALS})
    return {
        "trace": path.name,
        "samples": len(samples),
        "dropped_samples": detector.dropped_samples,
        "limit_reached_at": over,
        "verdicts": verdicts,
        "averted_by": {
            name: [
                remedy
                for remedy, seconds in REMEDIES.items()
                if over is not None and found and found[0]["t_seconds"] + seconds <= over
            ]
            for name, found in verdicts.items()
        },
    }


def _sound(samples: list[Sample]) -> list[Sample]:
    """The samples that the rivals can compute with: finite, with a limit, forward in time."""
    kept: list[Sample] = []
    for sample in samples:
        numbers = (sample.t_seconds, sample.nonreclaimable_bytes, sample.limit_bytes)
        if not all(map(math.isfinite, numbers)) or sample.limit_bytes <= 0 or sample.nonreclaimable_bytes < 0:
            continue
        if not kept or sample.t_seconds > kept[-1].t_seconds:
            kept.append(sample)
    return kept


def _usual(samples: list[Sample]) -> Foreseen:
    """The velocity rival's baseline: the 95th percentile of growth in the first third of the trace."""
    third = samples[: max(2, len(samples) // 3)]
    if len(third) < 2:
        return Foreseen()
    memory = np.array([sample.nonreclaimable_bytes for sample in third])
    times = np.array([sample.t_seconds for sample in third])
    rising = np.diff(memory) / np.diff(times)
    rising = rising[rising > 0]
    usual = float(np.percentile(rising, 95)) if rising.size else 0.0
    return Foreseen(baseline_velocity_bytes_per_second=usual)


def text(result: dict[str, Any]) -> str:
    """One file's verdicts for people."""
    over = result["limit_reached_at"]
    head = f"{result['trace']}: {result['samples']} samples, {result['dropped_samples']} dropped, "
    lines = [head + (f"reaches its limit at {over:.0f} s" if over is not None else "never reaches its limit")]
    for name, found in result["verdicts"].items():
        times = ", ".join(
            f"{trip['t_seconds']:.0f} s" + (f" ({trip['cause']})" if "cause" in trip else "") for trip in found
        )
        in_time = ", ".join(result["averted_by"][name])
        lines.append(f"  {name:16} {times or 'silent'}" + (f"; in time for {in_time}" if in_time else ""))
    for trip in result["verdicts"]["tidegate"]:
        lines.extend(f"    {trip['t_seconds']:.0f} s: {line}" for line in trip["evidence"])
    return "\n".join(lines)
