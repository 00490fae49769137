"""`python -m bench.ingest`: the worker against the seed's loader, default and worked around, on the same job server.

Tables on stdout, progress on stderr, and one JSON object as the last line of stdout. Every client runs in a memory
cgroup of its own; clients take turns, and of several turns the medians are told.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.ingest.contest import DEFAULT, OURS, WORKAROUND, Arena, Client, Outcome
from bench.ingest.questions import ask
from bench.ingest.tables import table
from tidegate.core.contract import GIB, MIB
from tidegate_local.jobserver.control import JobServerProcess

#: Job -> images a turn; and with --quick.
IMAGES: Final = {"large": (64, 24), "typical": (960, 192), "trap4k": (160, 40), "models": (8, 4)}
#: The default cannot do these jobs; how it ends is shown once, within this limit and time.
HOPELESS: Final = Client("seed default (bs24 w4 pf4 pin)", 8 * GIB, (), most_seconds=120)
OURS_R50: Final = Client("tidegate, R50 networks", 1536 * MIB)
SEED_R50: Final = Client(
    "seed work-around, R50 networks", 8 * GIB, ("--batch", "4", "--workers", "1", "--models", "r50")
)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.ingest", description=__doc__)
    parser.add_argument(
        "--jobs", default="large,typical,trap4k,models", help="of large, typical, trap4k, models (default: all)"
    )
    parser.add_argument("--images", type=int, help="images a turn (default: by job)")
    parser.add_argument("--turns", type=int, default=3, help="turns each client has (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one short turn each")
    parser.add_argument("--questions", action="store_true", help="answer the seed's open questions instead")
    parser.add_argument("--workdir", type=Path, help="keep logs here (default: a folder that is removed)")
    options = parser.parse_args(argv)
    options.jobs = [word for word in options.jobs.split(",") if word]
    if not set(options.jobs) <= set(IMAGES) or options.turns < 1 or (options.images is not None and options.images < 2):
        parser.error(f"--jobs are of {', '.join(IMAGES)}; --turns is at least 1, --images at least 2")
    return options


def main(argv: list[str] | None = None) -> None:
    options = _arguments(argv)
    # As Ctrl-C does it: nothing that was started outlives this process.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as scratch:
        folder = options.workdir or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        with JobServerProcess(folder / "jobserver", collect_seconds=0.0, save_delay_seconds=0.0) as server:
            arena = Arena(server, folder, _say)
            if options.questions:
                print(json.dumps(ask(arena, quick=options.quick)))
                return
            results = {}
            for kind in options.jobs:
                outcomes, results[kind] = _measure(arena, kind, options)
                print(table(outcomes))
                print()
    print(json.dumps(results))


def _measure(arena: Arena, kind: str, options: argparse.Namespace) -> tuple[list[Outcome], dict[str, Any]]:
    images = options.images or IMAGES[kind][options.quick]
    turns = 1 if options.quick else options.turns
    if kind == "models":
        ours, theirs = _in_turn(arena, "large", images, turns, (OURS_R50, SEED_R50), "bench_r50")
        return [*ours, *theirs], _told(ours, theirs)
    rival = DEFAULT if kind == "typical" else WORKAROUND
    ours, theirs = _in_turn(arena, kind, images, turns, (OURS, rival), "bench_nothing")
    told = _told(ours, theirs)
    if kind == "typical":
        told["peak_ratio"] = round(median(each.peak_gb for each in ours) / median(each.peak_gb for each in theirs), 3)
        return [*ours, *theirs], told
    hopeless = arena.contest(HOPELESS, kind, 914)
    return [*ours, *theirs, hopeless], told | {"default": hopeless.ended}


def _in_turn(
    arena: Arena, kind: str, images: int, turns: int, clients: Sequence[Client], pipeline: str
) -> list[list[Outcome]]:
    """The outcomes of each client; they take turns, so that what else the machine does meets all alike."""
    outcomes: list[list[Outcome]] = [[] for _ in clients]
    for _ in range(turns):
        for client, had in zip(clients, outcomes, strict=True):
            had.append(arena.contest(client, kind, images, pipeline))
    return outcomes


def _told(ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> dict[str, Any]:
    rates = [(mine.images_per_second, other.images_per_second) for mine, other in zip(ours, theirs, strict=True)]
    whole = [(mine, other) for mine, other in rates if mine and other]
    return {
        "speedup": round(median(mine / other for mine, other in whole), 2) if whole else None,
        "images_per_s": round(median(mine for mine, _ in whole), 2) if whole else None,
        "peak_gb": round(max(each.peak_gb for each in ours), 3),
        "oom_kills": sum(each.seen.oom_kills for each in ours),
        "rival_images_per_s": round(median(other for _, other in whole), 2) if whole else None,
        "rival_peak_gb": round(max(each.peak_gb for each in theirs), 2),
        "done": all(each.ended == "done" for each in ours),
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
