"""What is read of the run store at a scrape: live runs and those of the last day, sums, baselines; no series yet.

An ended run is read once and kept until it is reopened; a record that cannot be read is left out and logged, so that
one of them blinds nobody to the others.
"""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import dataclass
from typing import Final

from tidegate.adapters.run_store import Attempt, Run, RunState, RunStore, StoredSlot, StoredTrip, Totals
from tidegate.control.closing import Measured, measure
from tidegate.control.opening import baseline_key
from tidegate.core.baseline import Baseline
from tidegate.core.errors import ContractMismatch
from tidegate.core.slot import WITHOUT_POD, Phase
from tidegate.core.volume import Judgement, UsualPeak, judge_volume, usual_peak

log = logging.getLogger(__name__)

#: An alert about a run that failed at night still names it in the morning.
KEEP_SECONDS: Final = 86_400.0
#: Without a pod that runs: the phases in which a slot answers nothing.
_PAUSED: Final = frozenset({Phase.CLOSED_WAITING, Phase.CLOSED_STARTING, Phase.OPEN_WAITING, Phase.OPEN_STARTING})


@dataclass(frozen=True, slots=True)
class Told:
    """One run with all that is told of it."""

    run: Run
    slots: list[StoredSlot]
    attempts: list[Attempt]
    trips: list[StoredTrip]
    measured: Measured
    #: By the source's own count once the run is over, until then by its pods.
    acked: int
    volume: Judgement | None
    usual_peak: UsualPeak | None

    def attempt(self, slot: int) -> Attempt | None:
        """The newest of the slot."""
        mine = (each for each in self.attempts if each.slot == slot)
        return max(mine, key=lambda each: each.created_at, default=None)

    def node(self, pod_uid: str) -> str:
        """Where that pod runs or ran."""
        return next((each.node for each in self.attempts if each.pod_uid == pod_uid and each.node), "")

    def paused_seconds(self, slot: StoredSlot, now: float) -> float:
        """How long nothing of the slot has run; a pod that drains still answers."""
        if self.run.state is not RunState.RUNNING or slot.state.phase not in _PAUSED:
            return 0.0
        ends = [each.ended_at for each in self.attempts if each.slot == slot.state.slot and each.ended_at is not None]
        # Its last change would be no beginning: each refused launch is one, and a long pause would never look long.
        if slot.state.reset_at is not None:
            ends.append(slot.state.reset_at)
        since = max(ends, default=slot.changed_at)
        return max(0.0, now - since) if since is not None else 0.0

    def seen_at(self, slot: StoredSlot, now: float) -> float | None:
        """When the breaker last saw its pod, one that it has never seen counting from its creation; None without one.

        Nor of a pod that has been unseen for a day: nobody has told its run that it is over.
        """
        if self.run.state is not RunState.RUNNING or slot.state.phase in WITHOUT_POD:
            return None
        attempt = self.attempt(slot.state.slot)
        known = [slot.seen_at, attempt.created_at if attempt and attempt.ended_at is None else None]
        newest = max((at for at in known if at is not None), default=None)
        return newest if newest is not None and newest >= now - KEEP_SECONDS else None


@dataclass(frozen=True, slots=True)
class Reading:
    at: float
    runs: list[Told]
    totals: Totals
    baselines: list[Baseline]


class Reader:
    """Safe to share between the threads of a server."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._ended: dict[tuple[str, float], Told] = {}
        self._lock = threading.Lock()

    def read(self, now: float) -> Reading:
        runs = self._store.recent_runs(now - KEEP_SECONDS)
        # Its successor speaks for a run that was resumed.
        resumed = {run.resume_of for run in runs}
        with self._lock:
            told = [each for run in runs if run.run_id not in resumed and (each := self._told(run, now)) is not None]
            self._ended = {(each.run.run_id, each.run.ended_at): each for each in told if each.run.ended_at is not None}
        return Reading(now, told, self._store.totals(), self._store.baselines())

    def _told(self, run: Run, now: float) -> Told | None:
        if run.ended_at is not None and (known := self._ended.get((run.run_id, run.ended_at))) is not None:
            return known
        try:
            return self._read(run, now)
        except (ContractMismatch, ValueError, TypeError, AttributeError) as error:
            log.warning("run %s is left out, its record cannot be read: %s", run.run_id, error)
            return None

    def _read(self, run: Run, now: float) -> Told:
        store = self._store
        baseline = store.baseline(baseline_key(run))
        slots, attempts = store.slots(run.run_id), store.attempts(run.run_id)
        measured = measure(attempts, now if run.ended_at is None else run.ended_at)
        counted = json.loads(run.summary).get("acked") if run.summary and run.ended_at is not None else None
        return Told(
            run=run,
            slots=slots,
            attempts=attempts,
            trips=store.trips(run.run_id),
            measured=measured,
            acked=counted if counted is not None else max(measured.acked, sum(slot.state.acked for slot in slots)),
            volume=judge_volume(run.images_offered, run.created_at, baseline.recent)
            if baseline is not None and run.images_offered is not None
            else None,
            usual_peak=usual_peak(run.created_at, baseline.recent) if baseline is not None else None,
        )
