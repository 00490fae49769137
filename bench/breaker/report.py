"""The tallies as tables for people and as one JSON object for machines."""

from __future__ import annotations

import json
from typing import Any

from bench.breaker.corpus import JUDGES, Tally
from bench.breaker.rivals import RIVALS
from bench.breaker.simulate import REMEDIES
from tidegate.core.trend import median

#: Judges are polled this often in production, and this many pods at once: the CPU budget is stated for it.
PODS = 1000


def figures(tally: Tally) -> dict[str, Any]:
    """The three figures of one judge; the ratio is that of the remedy for which it is lowest, and excuses nothing."""
    return {
        "averted_ratio": round(min(tally.averted_ratio(remedy) for remedy in REMEDIES), 4),
        "false_trips_per_1000h": round(tally.false_trips_per_1000h, 3),
        "median_lead_seconds": round(median(tally.lead_seconds), 1) if tally.lead_seconds else 0.0,
    }


def table(title: str, tallies: dict[str, Tally]) -> str:
    """One row a judge."""
    head = f"{'judge':22}" + "".join(f"{'averted, ' + remedy:>19}" for remedy in REMEDIES)
    head += f"{'tight, relaunch':>17}{'false/1000 h':>14}{'median lead':>13}{'starved seen':>14}"
    lines = [title, head]
    for name in JUDGES:
        tally = tallies[name]
        row = f"{name:22}"
        for remedy in REMEDIES:
            row += f"{tally.averted_ratio(remedy):10.2%} of {tally.avertable[remedy]:5d}"
        tight = tally.tight_averted["relaunch"] / tally.tight["relaunch"] if tally.tight["relaunch"] else 0.0
        row += f"{tight:9.1%} of {tally.tight['relaunch']:4d}{tally.false_trips_per_1000h:14.2f}"
        row += f"{figures(tally)['median_lead_seconds']:11.0f} s{tally.held_starved:7d} of {tally.held:3d}"
        lines.append(row)
    return "\n".join(lines)


def summary(held_out: dict[str, Tally], tuned: dict[str, Tally]) -> str:
    """The last line: headline on the seeds that nothing was tuned on."""
    own = held_out["tidegate"]
    payload: dict[str, Any] = figures(own)
    payload["rivals"] = {name: figures(held_out[name]) for name in RIVALS}
    payload["memory_only"] = figures(held_out["tidegate_memory_only"])
    payload["tuned"] = figures(tuned["tidegate"])
    payload["by_remedy"] = {
        remedy: {
            "avertable": own.avertable[remedy],
            "averted_ratio": round(own.averted_ratio(remedy), 4),
        }
        for remedy in REMEDIES
    }
    payload["without_excused"] = {
        remedy: {"avertable": own.in_reach[remedy], "averted_ratio": round(own.reached_ratio(remedy), 4)}
        for remedy in REMEDIES
    }
    payload["excused"] = dict(own.excused)
    payload["job_hours"] = round(own.healthy_hours)
    payload["starved"] = {
        "traces": own.held,
        "tripped_in_time": own.held_starved,
        "median_seconds": round(median(own.starved_seconds), 1) if own.starved_seconds else None,
    }
    per_poll = own.cpu_seconds / own.polls if own.polls else 0.0
    payload["cpu_seconds_per_1000_pods"] = round(per_poll * PODS, 4)
    return json.dumps(payload)


def details(tallies: dict[str, Tally]) -> str:
    """Where the detector errs."""
    own = tallies["tidegate"]
    false = ", ".join(f"{kind} {count}" for kind, count in own.false_kinds.most_common() if count) or "none"
    missed = ", ".join(f"{kind} {count}" for kind, count in own.missed_kinds.most_common()) or "none"
    excused = ", ".join(f"{reason} {count}" for reason, count in own.excused.most_common()) or "none"
    rest = ", ".join(f"{remedy} {own.reached_ratio(remedy):.2%} of {own.in_reach[remedy]}" for remedy in REMEDIES)
    return (
        f"tidegate: out of reach: {excused}; without these: {rest}\n"
        f"tidegate: false trips by kind: {false}; missed by ramp (both remedies): {missed}"
    )
