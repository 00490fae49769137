"""What the seed still had to verify, each question answered by a measurement that anyone can repeat.

Of `pin_memory` this can say nothing on a machine without a GPU: there the DataLoader ignores it.
"""

from __future__ import annotations

import itertools
import subprocess
from typing import Any, Final

from bench.ingest.contest import DEFAULT, OURS, WORKAROUND, WORKER_PYTHON, Arena, Client, Outcome
from bench.ingest.tables import table
from tidegate.core.contract import GIB

_LARGE_LIMIT_BYTES: Final = 8 * GIB
_BATCH_ALONE: Final = ("--batch", "4")
_NO_PIN: Final = ("--no-pin",)


def ask(arena: Arena, *, quick: bool) -> dict[str, Any]:
    """Print every answer; the figures."""
    large, typical, long = (16, 96, 480) if quick else (48, 480, 4000)
    told: dict[str, Any] = {}
    for question, kind, images, clients in (
        (
            "Is a batch of 4 alone enough for large images? Is no pinning with a prefetch of 4?",
            "large",
            large,
            (
                Client("seed bs4 w4 pf4 pin", _LARGE_LIMIT_BYTES, _BATCH_ALONE),
                Client("seed bs4 w4 pf1 no pin", _LARGE_LIMIT_BYTES, (*_BATCH_ALONE, *_NO_PIN, "--prefetch", "1")),
                Client("seed bs24 w4 pf4 no pin", _LARGE_LIMIT_BYTES, _NO_PIN, most_seconds=120),
                WORKAROUND,
                OURS,
            ),
        ),
        (
            "What does that cost small images?",
            "typical",
            typical,
            (
                DEFAULT,
                Client("seed bs24 w4 pf4 no pin", DEFAULT.limit_bytes, _NO_PIN),
                Client("seed bs4 w4 pf4 pin", DEFAULT.limit_bytes, _BATCH_ALONE),
                WORKAROUND,
                OURS,
            ),
        ),
    ):
        print(f"## {question}\n")
        outcomes = [arena.contest(client, kind, images) for client in clients]
        print(f"{table(outcomes)}\n")
        told[kind] = {
            each.client: {"images_per_s": each.images_per_second, "peak_gb": each.peak_gb} for each in outcomes
        }
    told["stages"] = _stages(arena)
    told["open_files"] = _open_files(arena, long)
    told["profile"] = _profile(arena, large)
    return told


def _stages(arena: Arena) -> dict[str, dict[str, float]]:
    """How long an image takes to download, to decode and to predict by R50 networks on this CPU."""
    print("## What is downloading to inference?\n")
    print("| job | download s | decode s | infer s (R50 networks, CPU) | inference / download |")
    print("| --- | --- | --- | --- | --- |")
    told = {}
    for kind in ("typical", "large"):
        report, _ = arena.planned(kind, "bench_r50", 2 * GIB)
        seconds = (report.download_seconds, report.decode_seconds, report.infer_seconds)
        print(f"| {kind} | {' | '.join(f'{each:.3f}' for each in seconds)} | {seconds[2] / seconds[0]:.0f} |")
        told[kind] = dict(zip(("download", "decode", "infer"), seconds, strict=True))
    print()
    return told


def _open_files(arena: Arena, images: int) -> dict[str, list[int]]:
    """Open files of all processes together, the most in each quarter of a long job."""
    print(f"## Do file handles leak? The most open at once in each quarter of {images} images\n")
    print("| client | first | second | third | last |")
    print("| --- | --- | --- | --- | --- |")
    told = {}
    for client in (DEFAULT, OURS):
        quarters = _quarters(arena.contest(client, "tiny", images))
        print(f"| {client.name} | {' | '.join(map(str, quarters))} |")
        told[client.name] = quarters
    print()
    return told


def _quarters(outcome: Outcome) -> list[int]:
    counts = outcome.seen.open_files
    bounds = [len(counts) * quarter // 4 for quarter in range(5)]
    return [max(counts[start:end], default=0) for start, end in itertools.pairwise(bounds)]


def _profile(arena: Arena, images: int) -> str:
    """The worker's own memory, by memray: what is allocated most."""
    arena.contest(
        Client("tidegate, recorded by memray", OURS.limit_bytes, run=("--profile", "memray")), "large", images
    )
    recording = max(arena.profiles.glob("*.bin"))
    command = [str(WORKER_PYTHON), "-m", "memray", "stats", "-n", "5", str(recording)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    print(f"## Where does the worker's memory go? `memray stats` over {images} large images\n")
    print(f"```\n{text.strip()}\n```\n")
    return text
