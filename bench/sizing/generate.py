"""Synthetic histories of runs, shaped like the task logs of scientific workflows and of nightly inference.

Covers three families: `workflow` (the default: many tools, few runs of most of them, waves of samples), `nightly` (few
keys, a run or more a night, drift and weekends) and `heavy` (heavy tails and modes that the input size does not tell).
What a tool's peak depends on is drawn a tool at a time; no policy sees more of it than a CSV would hold. `workflow` is
set so that the requests of authors do as badly as on the public logs of nf-core (MAQ 0.38); most seeds are harder than
those logs for every policy that learns.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from heapq import heappop, heappush
from typing import Final

from bench.sizing.trace import Run

MB: Final = 1e6
GB: Final = 1e9
#: What workflow authors ask for: a few labels for everything.
_REQUESTS: Final = tuple(size * 2**30 for size in (1, 2, 4, 6, 8, 12, 16, 36, 72, 144, 288, 576, 1152))
#: One request in so many is too small for its run.
_SHORT_REQUEST: Final = 0.005
#: Of the logarithm of the size of samples in one study.
_SAMPLE_SPREAD: Final = 0.35

Peak = Callable[[random.Random, float], float]


class Family(StrEnum):
    WORKFLOW = "workflow"
    NIGHTLY = "nightly"
    HEAVY = "heavy"


def generate(seed: int, family: Family = Family.WORKFLOW, runs: int = 6000) -> list[Run]:
    """About `runs` runs by start; the same seed gives the same history."""
    draw = random.Random(f"{family}-{seed}")
    history = list(_nightly(draw, runs) if family is Family.NIGHTLY else _workflows(draw, runs, family))
    return sorted(history, key=lambda run: run.start_seconds or 0.0)


def _workflows(draw: random.Random, runs: int, family: Family) -> Iterator[Run]:
    """A few workflows, each run now and then: lanes take its samples, and each sample passes through all its tools."""
    workflows: list[list[_Tool]] = []
    made, clock = 0, 0.0
    while made < runs:
        if not workflows or draw.random() < 0.6:
            name = f"workflow{len(workflows)}"
            workflows.append([_tool(draw, family, f"{name}:tool{number}") for number in range(draw.randint(6, 25))])
        tools = draw.choice(workflows)
        lanes = [clock] * draw.choice((1, 4, 8, 16))
        for _ in range(_cohort(draw)):
            sample = draw.lognormvariate(math.log(4 * GB), _SAMPLE_SPREAD)
            at = heappop(lanes)
            for tool in tools:
                for run in tool.runs(draw, sample, at):
                    at += run.runtime_seconds
                    made += 1
                    yield run
            heappush(lanes, at)
        clock = max(lanes)


def _cohort(draw: random.Random) -> int:
    """Samples of one workflow: dozens, now and then hundreds."""
    return max(3, min(400, round(draw.lognormvariate(math.log(70), 0.9))))


@dataclass(frozen=True, slots=True)
class _Tool:
    key: str
    peak: Peak
    request_bytes: float
    #: Runs for one sample; below one, only some samples need it.
    fan: float
    input_share: float
    pace_seconds: float

    def runs(self, draw: random.Random, sample: float, at: float) -> Iterator[Run]:
        count = int(self.fan) if self.fan >= 1 else int(draw.random() < self.fan)
        for _ in range(count):
            size = sample * self.input_share * draw.lognormvariate(0, 0.1)
            needed = self.peak(draw, size / self.input_share)
            asked = needed * draw.uniform(0.7, 0.98) if draw.random() < _SHORT_REQUEST else self.request_bytes
            seconds = max(
                1.0, self.pace_seconds * (0.2 + size / self.input_share / (4 * GB)) * draw.lognormvariate(0, 0.3)
            )
            yield Run(self.key, size, asked, needed, seconds, at)


def _tool(draw: random.Random, family: Family, key: str) -> _Tool:
    """How one tool's peak comes about, and what its author asks for."""
    base = min(60 * GB, draw.lognormvariate(math.log(600 * MB), 1.8))
    noise = draw.choice((0.001, 0.005, 0.02, 0.06))
    level = min(60 * GB, base * draw.uniform(1.5, 5))
    spread, tail = (0.25, 1.8) if family is Family.HEAVY else (0.12, 2.5)

    def constant(each: random.Random, _sample: float) -> float:
        return base * each.lognormvariate(0, noise)

    def linear(each: random.Random, sample: float) -> float:
        return base * (0.3 + 0.7 * sample / (4 * GB)) * each.lognormvariate(0, noise)

    def saturating(each: random.Random, sample: float) -> float:
        return min(level, base * (0.2 + 2 * sample / (4 * GB))) * each.lognormvariate(0, noise / 2)

    def modes(each: random.Random, _sample: float) -> float:
        return (base if each.random() < 0.75 else level) * each.lognormvariate(0, noise)

    def noisy(each: random.Random, _sample: float) -> float:
        return base * each.lognormvariate(0, spread)

    def tailed(each: random.Random, _sample: float) -> float:
        return base * (1 + 0.05 * each.paretovariate(tail)) * each.lognormvariate(0, noise)

    kinds: list[Peak] = [constant, linear, saturating, modes, noisy, tailed]
    if family is Family.HEAVY:
        weights = (1.0, 2.0, 1.0, 3.0, 3.0, 4.0)
    elif base > 4 * GB:
        # What needs much memory mostly loads one index or fills one buffer.
        weights = (8.0, 0.7, 2.0, 0.2, 0.1, 0.1)
    else:
        weights = (6.0, 3.0, 2.0, 0.5, 0.7, 0.4)
    kind = draw.choices(kinds, weights)[0]
    # Authors ask for the label above what they have seen; who needs much has looked closer.
    seen = max(kind(draw, draw.lognormvariate(math.log(4 * GB), _SAMPLE_SPREAD)) for _ in range(30))
    asked = seen * (draw.uniform(1.1, 2.2) if seen > 4 * GB else draw.choice((1.5, 2.0, 4.0)))
    # What holds an index or an assembly in memory also works on it for hours.
    pace = draw.lognormvariate(math.log(60 + 600 * math.sqrt(base / GB)), 1.0)
    return _Tool(
        key=key,
        peak=kind,
        request_bytes=next((size for size in _REQUESTS if size >= asked), _REQUESTS[-1]),
        fan=draw.choice((0.1, 1, 1, 1, 2)),
        input_share=draw.lognormvariate(-1.5, 1.2),
        pace_seconds=pace,
    )


def _nightly(draw: random.Random, runs: int) -> Iterator[Run]:
    """Jobs of a dozen pipelines, each night: input by weekday, models that grow with a release."""
    pipelines = [
        (
            f"pipeline{number}",
            draw.uniform(0.6, 6) * GB,
            draw.choice((0.0, 0.0, 5e3, 2e4)),
            draw.lognormvariate(math.log(20_000), 0.8),
            draw.choice((0.01, 0.03, 0.10)),
            draw.randint(1, 6),
        )
        for number in range(12)
    ]
    made, night = 0, 0
    while made < runs:
        for name, floor, per_image, usual, noise, jobs in pipelines:
            release = 1.0 + 0.15 * (night // 60)
            weekend = 0.3 if night % 7 >= 5 else 1.0
            for _ in range(jobs):
                images = usual * weekend * draw.lognormvariate(0, 0.4) * (10 if draw.random() < 0.005 else 1)
                budget = draw.choice((0.3, 0.3, 1.2)) * GB
                needed = (floor * release + budget + per_image * images) * draw.lognormvariate(0, noise)
                seconds = max(60.0, images / 15 * draw.lognormvariate(0, 0.2))
                start = night * 86_400 + draw.uniform(0, 4 * 3600)
                yield Run(name, images * 1.5 * MB, max(16 * 2**30, needed), needed, seconds, start)
                made += 1
        night += 1
