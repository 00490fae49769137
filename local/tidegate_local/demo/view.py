"""The live view of a run: what a person would look for in four windows, in one; reads the run store and Prometheus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import requests
from rich.console import Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from tidegate.adapters.run_store import RunStore, StoredTrip
from tidegate.core.contract import MIB, Metric
from tidegate.core.slot import SlotState
from tidegate_local.stack.doors import Doors

QUERY_SECONDS: Final = 2.0
BAR_CELLS: Final = 24


@dataclass(frozen=True, slots=True)
class Moment:
    """What is known of a run at one time."""

    seconds: float
    stage: str
    done: int
    total: int
    slots: tuple[SlotState, ...]
    #: Bytes in use by slot, where a worker has been scraped.
    used_bytes: Mapping[int, float]
    trips: tuple[StoredTrip, ...]


class Memory:
    """The newest memory sample of each pod of a run."""

    def __init__(self, doors: Doors) -> None:
        self._url = f"{doors.prometheus_url}/api/v1/query"
        self._auth = (doors.prometheus_user, doors.prometheus_password)

    def by_pod(self, prefix: str) -> dict[str, float]:
        query = f'{Metric.MEMORY_NONRECLAIMABLE}{{pod=~"{prefix}run-.*"}}'
        try:
            answer = requests.get(self._url, params={"query": query}, auth=self._auth, timeout=QUERY_SECONDS)
            found = answer.json()["data"]["result"]
        except (requests.RequestException, ValueError, KeyError):
            # A view shows what it has; the run does not depend on it.
            return {}
        return {series["metric"]["pod"]: float(series["value"][1]) for series in found}


def slots_of(store: RunStore, run_id: str) -> tuple[SlotState, ...]:
    return tuple(stored.state for stored in store.slots(run_id))


def line(moment: Moment) -> str:
    """The moment in one line, for logs and pipes."""
    slots = "; ".join(
        f"slot {slot.slot} {slot.phase.value} {_memory(moment.used_bytes.get(slot.slot), slot.limit_bytes)}"
        for slot in moment.slots
    )
    return (
        f"{moment.seconds:4.0f} s  {moment.stage:10} {moment.done}/{moment.total} images"
        f"  trips {len(moment.trips)}  {slots}"
    )


def picture(moment: Moment) -> Group:
    """The moment as a picture for a terminal."""
    progress = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    progress.add_task(f"{moment.seconds:4.0f} s  {moment.stage}", completed=moment.done, total=max(1, moment.total))
    table = Table(box=None, pad_edge=False)
    for title in ("slot", "breaker", "memory", "", "pods", "reason"):
        table.add_column(title)
    for slot in moment.slots:
        used = moment.used_bytes.get(slot.slot)
        table.add_row(
            str(slot.slot),
            slot.phase.value,
            _memory(used, slot.limit_bytes),
            _bar(used, slot.limit_bytes),
            str(slot.generation),
            slot.reason[:70],
        )
    trips = Table(box=None, pad_edge=False, show_header=False)
    for stored in moment.trips[-5:]:
        evidence = stored.trip.evidence[0] if stored.trip.evidence else ""
        trips.add_row("trip", str(stored.trip.cause), "->", stored.remedy, evidence[:80])
    return Group(progress, table, trips)


def _memory(used: float | None, limit: float) -> str:
    return f"{'-' if used is None else f'{used / MIB:.0f}'} of {limit / MIB:.0f} MiB"


def _bar(used: float | None, limit: float) -> str:
    filled = min(BAR_CELLS, round(BAR_CELLS * (used or 0.0) / limit))
    return "#" * filled + "." * (BAR_CELLS - filled)
