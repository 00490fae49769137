"""One seed's share of the corpus: draw traces, let every judge see the same samples, and tally.

The detector's thresholds were chosen on even seeds; odd seeds were never looked at, and the headline is theirs.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from bench.breaker.rivals import RIVALS
from bench.breaker.simulate import (
    DETECTORS,
    REMEDIES,
    Score,
    Scrapes,
    averted,
    excuse,
    is_avertable,
    judge,
    judge_rivals,
    scrape,
    starved_after,
    without_worker_series,
)
from bench.breaker.traces import HEALTHY, HELD, RAMPS, Trace, doomed, healthy, held
from tidegate.core.detector import Foreseen, Policy

JUDGES: Final = (*DETECTORS, *RIVALS)
SCRAPE_SECONDS: Final = (5.0, 15.0, 30.0)
#: The detector without the worker's series costs as much again, so it sees every fourth trace.
MEMORY_ONLY_EVERY: Final = 4
#: A trace that starves must trip within the longest threshold of the rules (a minute) and three scrapes.
STARVED_WITHIN_SECONDS: Final = 60.0


@dataclass(slots=True)
class Tally:
    """What one judge did over many traces."""

    healthy_hours: float = 0.0
    false_trips: int = 0
    false_kinds: Counter[str] = field(default_factory=Counter)
    #: By remedy.
    avertable: Counter[str] = field(default_factory=Counter)
    averted: Counter[str] = field(default_factory=Counter)
    #: Of these, without what the warm-up or the network put out of reach.
    in_reach: Counter[str] = field(default_factory=Counter)
    reached: Counter[str] = field(default_factory=Counter)
    #: Avertable and yet out of reach, by reason and remedy.
    excused: Counter[str] = field(default_factory=Counter)
    #: Of those that a second scrape after the onset just suffices for: the limit comes within half as much again.
    tight: Counter[str] = field(default_factory=Counter)
    tight_averted: Counter[str] = field(default_factory=Counter)
    missed_kinds: Counter[str] = field(default_factory=Counter)
    lead_seconds: list[float] = field(default_factory=list)
    held: int = 0
    held_starved: int = 0
    starved_seconds: list[float] = field(default_factory=list)
    polls: int = 0
    cpu_seconds: float = 0.0

    def add(self, other: Tally) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, Counter):
                value.update(getattr(other, name))
            elif isinstance(value, list):
                value.extend(getattr(other, name))
            else:
                setattr(self, name, value + getattr(other, name))

    @property
    def false_trips_per_1000h(self) -> float:
        return 1000 * self.false_trips / self.healthy_hours if self.healthy_hours else 0.0

    def averted_ratio(self, remedy: str) -> float:
        return self.averted[remedy] / self.avertable[remedy] if self.avertable[remedy] else 0.0

    def reached_ratio(self, remedy: str) -> float:
        return self.reached[remedy] / self.in_reach[remedy] if self.in_reach[remedy] else 0.0


def _judged(trace: Trace, scrapes: Scrapes, policy: Policy, number: int, tallies: dict[str, Tally]) -> dict[str, Score]:
    scores = judge_rivals(scrapes, trace.foreseen)
    variants = [("tidegate", scrapes, trace.foreseen)]
    if number % MEMORY_ONLY_EVERY == 0:
        variants.append(("tidegate_memory_only", without_worker_series(scrapes), Foreseen()))
    for name, seen, foreseen in variants:
        start = time.process_time()
        scores[name] = judge(seen, foreseen, policy)
        tallies[name].cpu_seconds += time.process_time() - start
        tallies[name].polls += len(seen.polls)
    return scores


def _scraped(rng: np.random.Generator, trace: Trace) -> Scrapes:
    return scrape(rng, trace, float(rng.choice(SCRAPE_SECONDS)), 0.02 if rng.random() < 0.8 else 0.05)


def run_seed(seed: int, hours: float, ramps: int, policy: Policy) -> dict[str, Tally]:
    """Tallies by judge over `hours` of healthy jobs, `ramps` doomed ones and a few that the gate holds."""
    tallies = {name: Tally() for name in JUDGES}
    done, number = 0.0, 0
    while done < hours:
        rng = np.random.default_rng([1, seed, number])
        kind = HEALTHY[number % len(HEALTHY)]
        trace = healthy(rng, kind, rng.uniform(0.5, 4))
        if trace.limit_at is not None:
            raise AssertionError(f"a healthy trace reached its limit: kind {kind}, seed {seed}, number {number}")
        for name, score in _judged(trace, _scraped(rng, trace), policy, number, tallies).items():
            tallies[name].healthy_hours += trace.seconds / 3600
            tallies[name].false_trips += len(score.trips)
            tallies[name].false_kinds[kind] += len(score.trips)
        done += trace.seconds / 3600
        number += 1
    for number in range(ramps):
        rng = np.random.default_rng([2, seed, number])
        trace = doomed(rng, RAMPS[number % len(RAMPS)])
        scrapes = _scraped(rng, trace)
        for name, score in _judged(trace, scrapes, policy, number, tallies).items():
            _tally_doomed(tallies[name], trace, scrapes, score)
    for number in range(max(3, ramps // 10)):
        rng = np.random.default_rng([3, seed, number])
        trace = held(rng, HELD[number % len(HELD)])
        scrapes = _scraped(rng, trace)
        for name, score in _judged(trace, scrapes, policy, number, tallies).items():
            _tally_held(tallies[name], trace, scrapes, score)
    return tallies


def _tally_doomed(tally: Tally, trace: Trace, scrapes: Scrapes, score: Score) -> None:
    limit_at, onset = trace.limit_at, trace.onset
    if limit_at is None or onset is None or limit_at <= onset:
        return
    tally.healthy_hours += onset / 3600
    tally.false_trips += score.before(onset)
    tally.false_kinds["before the onset"] += score.before(onset)
    for remedy, seconds in REMEDIES.items():
        if not is_avertable(trace, scrapes.interval_seconds, seconds):
            continue
        saved = averted(trace, score, seconds)
        tight = limit_at - onset < 1.5 * (2 * scrapes.interval_seconds + seconds)
        tally.avertable[remedy] += 1
        tally.averted[remedy] += saved
        tally.tight[remedy] += tight
        tally.tight_averted[remedy] += tight and saved
        if not saved:
            tally.missed_kinds[trace.kind] += 1
        elif remedy == "relaunch":
            tally.lead_seconds.append(limit_at - (score.first_after(onset) or limit_at))
        if (reason := excuse(trace, scrapes, seconds)) is not None:
            tally.excused[f"{reason}, {remedy}"] += 1
            continue
        tally.in_reach[remedy] += 1
        tally.reached[remedy] += saved


def _tally_held(tally: Tally, trace: Trace, scrapes: Scrapes, score: Score) -> None:
    tally.held += 1
    seconds = starved_after(trace, score)
    if seconds is not None and seconds <= STARVED_WITHIN_SECONDS + 3 * scrapes.interval_seconds:
        tally.held_starved += 1
        tally.starved_seconds.append(seconds)


def merged(parts: Iterable[dict[str, Tally]]) -> dict[str, Tally]:
    """The sum of several seeds' tallies, by judge."""
    total = {name: Tally() for name in JUDGES}
    for part in parts:
        for name, tally in part.items():
            total[name].add(tally)
    return total


def run_share(seed: int, hours: float, ramps: int, policy: Policy) -> dict[str, Tally]:
    """Even seeds only show whether the thresholds fit them better than the rest: a quarter of the hours is enough."""
    return run_seed(seed, hours if seed % 2 else hours / 4, ramps if seed % 2 else max(1, ramps // 4), policy)
