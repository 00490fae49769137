"""Every image that this worker holds, where it is on its way, and the counts of what became of it.

One `Lease` object travels through the stages; the `Ledger` is its only registry, so that a report, a journal entry or
a drain never has to ask the stages. Not covered: memory (the inlet's) and files (staging's).
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tidegate.core.contract import JournalEntry
from tidegate_worker.pipeline.credits import Credit
from tidegate_worker.ports import Answer, Failure, ImageHeader, Task
from tidegate_worker.staging import StagedFile

_LONGEST: Final = 512


class Place(StrEnum):
    QUEUED = "queued"
    STAGED = "staged"
    #: Too large for the limit of the moment.
    PARKED = "parked"
    #: Admitted to decoding and not yet predicted: what a kill makes suspect.
    IN_FLIGHT = "in_flight"
    #: Handed to the job, not yet acked.
    ANSWERED = "answered"


@dataclass(slots=True, eq=False)
class Lease:
    """One image on its way; owned by one stage at a time."""

    task: Task
    alone: bool = False
    place: Place = Place.QUEUED
    #: Nobody waits for its answer any more.
    dropped: bool = False
    fetch_failures: int = 0
    first_failed_at: float = 0.0
    memory_failures: int = 0
    file: StagedFile | None = None
    header: ImageHeader | None = None
    divisor: int = 1
    cost_bytes: int = 0
    credit: Credit | None = None
    answered_at: float = 0.0

    def expired(self, now: float) -> bool:
        """It will be delivered again: working on it would be for nothing. A last delivery never comes again."""
        return now > self.task.expires_at and not self.task.last_delivery


@dataclass(frozen=True, slots=True)
class Tally:
    #: Answers accepted for good, failures among them.
    acked: int = 0
    failed: int = 0
    #: Of the failed: answered without another decode, because it kills or cannot fit.
    quarantined: int = 0
    redelivered: int = 0


class Ledger:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._leases: dict[str, Lease] = {}
        self._counts: Counter[str] = Counter()

    def add(self, task: Task, alone: bool) -> Lease | None:
        """The new lease; None where this image is held already, which then goes on under the newer delivery."""
        with self._lock:
            if task.delivery > 1:
                self._counts["redelivered"] += 1
            held = self._leases.get(task.image_id)
            if held is not None and not held.dropped:
                held.task = task
                return None
            lease = self._leases[task.image_id] = Lease(task=task, alone=alone)
            return lease

    def move(self, lease: Lease, place: Place) -> None:
        with self._lock:
            lease.place = place

    def forget(self, lease: Lease) -> None:
        """It is nobody's any more: its lease ran out or its job stopped being served."""
        with self._lock:
            # A dropped lease may have been succeeded by a new one of the same image.
            if self._leases.get(lease.task.image_id) is lease:
                del self._leases[lease.task.image_id]

    def acked(self, answer: Answer) -> Lease | None:
        """Count an answer that was accepted for good; its lease, unless it was acked before."""
        with self._lock:
            lease = self._leases.pop(answer.task.image_id, None)
            if lease is None:
                return None
            self._counts["acked"] += 1
            if isinstance(answer.outcome, Failure):
                self._counts["failed"] += 1
                self._counts["quarantined"] += answer.outcome.quarantined
            return lease

    def drop_unanswered(self) -> None:
        """The job is not served any more: what is not answered yet never will be."""
        with self._lock:
            for lease in self._leases.values():
                if lease.place is not Place.ANSWERED:
                    lease.dropped = True

    def tally(self) -> Tally:
        with self._lock:
            return Tally(**self._counts)

    def count(self, *places: Place) -> int:
        """How many are held, in `places` if any is named."""
        with self._lock:
            if not places:
                return len(self._leases)
            return sum(lease.place in places for lease in self._leases.values())

    def oldest_leased_at(self) -> float | None:
        with self._lock:
            return min((lease.task.leased_at for lease in self._leases.values()), default=None)

    def next_expires_at(self) -> float | None:
        """When the first lease runs out that is held; None where none does."""
        with self._lock:
            ends = [lease.task.expires_at for lease in self._leases.values() if not lease.dropped]
        return min((end for end in ends if end < math.inf), default=None)

    def held(self, *places: Place) -> tuple[Lease, ...]:
        with self._lock:
            return tuple(lease for lease in self._leases.values() if not places or lease.place in places)


def journal_id(task: Task) -> str:
    """By this an image is known again after a kill; the contract bounds its length."""
    return task.image_id[:_LONGEST]


def journal_entries(leases: Iterable[Lease]) -> tuple[JournalEntry, ...]:
    held = tuple(leases)
    return tuple(
        JournalEntry(
            image_id=journal_id(lease.task),
            reply_subject=lease.task.reply_subject and lease.task.reply_subject[:_LONGEST],
            delivery=lease.task.delivery,
            alone=len(held) == 1,
        )
        for lease in held
    )
