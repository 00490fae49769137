"""`python -m bench.recovery`: decision, pauses and the breaker's own cost; the last line on standard output is JSON."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from bench.recovery import scenario, thousand


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.recovery", description=__doc__)
    parser.add_argument("--pods", type=int, default=1000, help="pods whose series are simulated (default: %(default)s)")
    parser.add_argument("--only", choices=("stack", "cpu"), help="only the stack's part, or only the CPU part")
    arguments = parser.parse_args()
    figures: dict[str, float] = {}
    if arguments.only != "stack":
        figures |= thousand.measure(arguments.pods)
    if arguments.only != "cpu":
        with tempfile.TemporaryDirectory(prefix="tidegate-recovery-") as home:
            measured = scenario.measure(Path(home))
        figures |= {
            "decide_seconds": max(each.decide_seconds for each in measured.values()),
            "resize_pause_seconds": measured["resize"].pause_seconds,
            "relaunch_seconds": measured["relaunch"].pause_seconds,
            "images_redone": sum(each.images_redone for each in measured.values()),
        }
    for name, value in figures.items():
        print(f"{name:32} {value:.3f}")
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
