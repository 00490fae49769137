"""One policy over one history: what it allocated, what was used, how often it was too small.

    MAQ (memory allocation quality) = used / allocated
    used      = sum over runs of peak_bytes x runtime_seconds
    allocated = sum over attempts of limit_bytes x the seconds the attempt held it
    wasted    = allocated - used

The last attempt of a run holds its limit for runtime_seconds. A killed attempt holds its own, smaller limit for
lost_ratio x runtime_seconds: 1 where a kill loses the whole run, 0.02 where it resumes. The OOM rate is the share of
runs that met a kill, however many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Final

from bench.sizing.policies import Ended, Policy
from bench.sizing.trace import Run

_GB_HOUR: Final = 1e9 * 3600


@dataclass(frozen=True, slots=True)
class Figures:
    """How well a policy did; all three beside each other, for each alone is easily bought with the others."""

    maq: float
    oom_rate: float
    wasted_gbh: float

    def beats(self, other: Figures) -> bool:
        """Whether this is better on both counts that matter."""
        return self.maq > other.maq and self.oom_rate < other.oom_rate


def replay(runs: Sequence[Run], policy: Policy, lost_ratio: float) -> Figures:
    """The figures of `policy` over `runs` (by start), each sized from the runs that ended before it began."""
    used = allocated = clock = 0.0
    killed_runs = 0
    running: list[tuple[float, int, Ended]] = []
    for number, run in enumerate(runs):
        start = clock if run.start_seconds is None else run.start_seconds
        while running and running[0][0] <= start:
            policy.observe(heappop(running)[2])
        limit, kills, held = policy.limit_bytes(run), 0, 0.0
        while limit < run.peak_bytes:
            held += limit * lost_ratio
            kills += 1
            larger = policy.next_limit_bytes(run, limit)
            if larger <= limit:
                raise ValueError(f"{type(policy).__name__} answers a kill at {limit:g} bytes with {larger:g}")
            limit = larger
        used += run.peak_bytes * run.runtime_seconds
        allocated += (held + limit) * run.runtime_seconds
        killed_runs += kills > 0
        clock = start + run.runtime_seconds * (1 + kills * lost_ratio)
        heappush(running, (clock, number, Ended(run, clock, kills > 0)))
    return Figures(used / allocated if allocated else 0.0, killed_runs / len(runs), (allocated - used) / _GB_HOUR)
