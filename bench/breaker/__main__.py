"""`python -m bench.breaker`: simulate the corpus, or replay CSV files with --traces.

Tables on stdout, progress on stderr, and one JSON object as the last line of stdout.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from functools import partial
from pathlib import Path

from bench.breaker.corpus import merged, run_share
from bench.breaker.replay import replay, text
from bench.breaker.report import details, summary, table
from tidegate.core.detector import Policy
from tidegate.core.errors import FixConfig


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.breaker", description=__doc__)
    parser.add_argument("--seeds", type=int, default=40, help="seeds; the odd half is the headline")
    parser.add_argument(
        "--hours", type=float, default=500.0, help="healthy job-hours a seed, a quarter of it on even seeds"
    )
    parser.add_argument("--ramps", type=int, default=120, help="jobs a seed that reach their limit, likewise")
    parser.add_argument("--traces", type=Path, help="a directory of CSV files to replay instead")
    parser.add_argument("--sensitivity", choices=("low", "normal", "high"), default="normal")
    parser.add_argument(
        "--processes", type=int, default=len(os.sched_getaffinity(0)), help="by default one for each usable processor"
    )
    options = parser.parse_args(argv)
    if options.seeds < 2 or options.hours <= 0 or options.ramps < 1 or options.processes < 1:
        parser.error("--seeds must be at least 2, --hours, --ramps and --processes positive")
    return options


def _replay(directory: Path, policy: Policy) -> None:
    paths = sorted(directory.glob("*.csv"))
    if not paths:
        raise FixConfig(f"{directory} holds no *.csv file; give --traces a directory that does")
    results = []
    for path in paths:
        results.append(replay(path, policy))
        print(text(results[-1]))
    print(json.dumps({"traces": results}))


def _simulate(options: argparse.Namespace, policy: Policy) -> None:
    start = time.monotonic()
    run = partial(run_share, hours=options.hours, ramps=options.ramps, policy=policy)
    parts = []
    with multiprocessing.get_context("spawn").Pool(min(options.processes, options.seeds)) as pool:
        for part in pool.imap(run, range(options.seeds)):
            parts.append(part)
            elapsed = time.monotonic() - start
            print(f"seed {len(parts)} of {options.seeds}, {elapsed:.0f} s", file=sys.stderr, flush=True)
    tuned, held_out = merged(parts[::2]), merged(parts[1::2])
    print(table(f"tuned on (even seeds), {tuned['tidegate'].healthy_hours:.0f} job-hours", tuned))
    print()
    print(table(f"held out (odd seeds), {held_out['tidegate'].healthy_hours:.0f} job-hours", held_out))
    print(details(held_out))
    print(summary(held_out, tuned))


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; 2 where the arguments or files must be changed."""
    options = _arguments(argv)
    policy = Policy.preset(options.sensitivity)
    try:
        if options.traces is not None:
            _replay(options.traces, policy)
        else:
            _simulate(options, policy)
    except FixConfig as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
