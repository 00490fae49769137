"""`python -m bench.sizing [--trace FILE] [--seed N] [--family F]`: a table, and as the last line one JSON object.

The object holds the figures of Tidegate's policy with resume, and under `rivals` those of every other, by name, with
and without resume. Progress goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from bench.sizing.generate import Family, generate
from bench.sizing.policies import AsRequested, MaxWithMargin, Percentile99, Policy, Tidegate, VerticalAutoscaler
from bench.sizing.replay import Figures, replay
from bench.sizing.trace import COLUMNS, START, Run, read_trace
from tidegate.core.errors import FixConfig

#: What is done again after a kill: two minutes of a two-hour run with resume, all of it without.
LOST_WITH_RESUME: Final = 0.02
LOST_WITHOUT_RESUME: Final = 1.0
OURS: Final = "tidegate"
POLICIES: Final[dict[str, Callable[[float], Policy]]] = {
    "as requested": lambda _: AsRequested(),
    "max + 15 %": lambda _: MaxWithMargin(),
    "vpa p90 + 15 %": lambda _: VerticalAutoscaler(),
    "p99": lambda _: Percentile99(),
    OURS: Tidegate,
}


def measure(runs: Sequence[Run], say: Callable[[str], None]) -> dict[str, Figures]:
    """The figures of every policy, with resume under its own name, without under `NAME, no resume`."""
    figures = {}
    for lost_ratio, suffix in ((LOST_WITH_RESUME, ""), (LOST_WITHOUT_RESUME, ", no resume")):
        for name, policy in POLICIES.items():
            say(f"replaying {len(runs)} runs: {name}{suffix}")
            figures[name + suffix] = replay(runs, policy(lost_ratio), lost_ratio)
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay, print, and return the exit code: 78 where the trace must be mended first."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.sizing", description="Sizing policies over a history of runs."
    )
    parser.add_argument("--trace", type=Path, help=f"CSV with {', '.join(COLUMNS)} and, optionally, {START}")
    parser.add_argument("--seed", type=int, default=0, help="of the generated history")
    parser.add_argument("--family", type=Family, choices=list(Family), default=Family.WORKFLOW)
    chosen = parser.parse_args(arguments)
    try:
        runs = read_trace(chosen.trace) if chosen.trace else generate(chosen.seed, chosen.family)
    except FixConfig as error:
        print(error, file=sys.stderr)
        return 78
    figures = measure(runs, lambda line: print(line, file=sys.stderr, flush=True))
    print(f"{len(runs)} runs of {len({run.key for run in runs})} keys\n")
    print(f"{'policy':28} {'MAQ':>6} {'runs with OOM':>14} {'wasted GBh':>12}")
    for name, each in figures.items():
        print(f"{name:28} {each.maq:6.3f} {each.oom_rate:14.2%} {each.wasted_gbh:12,.1f}")
    ours = figures.pop(OURS)
    better = [name for name, each in figures.items() if each.beats(ours)]
    print(f"\nbetter on both than {OURS}: {', '.join(better) or 'none'}")
    print(json.dumps({**asdict(ours), "rivals": {name: asdict(each) for name, each in figures.items()}}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
