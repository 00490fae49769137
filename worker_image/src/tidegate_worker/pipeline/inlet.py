"""The one door to memory: images wait here until their byte credit fits and the gate is open.

It asks the pure policies (`policy.admission`, `policy.gate`) and keeps what they need: the order of waiting, the sum of
credits, the parked images and the last readings. It never touches what is past it: draining, posting and acking go on
behind a closed gate.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from tidegate.core.contract import Assignment
from tidegate_worker.pipeline.credits import Credits
from tidegate_worker.pipeline.lease import Lease
from tidegate_worker.policy.admission import Situation, Verdict, judge, wanted_bytes
from tidegate_worker.policy.gate import Gate, Reading
from tidegate_worker.policy.growth import Growth

_log = logging.getLogger(__name__)

#: Credits may come free in a thread that wakes nobody (see `Credits`); then they are seen after this time.
_LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Memory:
    """What the inlet knows, at one moment."""

    reading: Reading
    gate: Gate
    floor_bytes: int
    peak_bytes: int
    growth_bytes_per_image: int
    wanted_bytes: int
    in_flight_bytes: int
    in_flight_images: int
    waiting_images: int
    parked_images: int


class Inlet:
    def __init__(
        self,
        assignment: Assignment,
        read_memory: Callable[[], Reading],
        trim: Callable[[], None],
        images_done: Callable[[], int],
        own_bytes: int,
        first_alone: int = 0,
    ) -> None:
        self._cap_bytes = assignment.cap_bytes
        self._one_at_a_time = assignment.ingest.one_at_a_time
        #: A probe takes its first images one by one, so that each leaves a clean reading.
        self._first_alone = first_alone
        self._read_memory = read_memory
        self._trim = trim
        self._images_done = images_done
        #: Neighbours in the same cgroup come and go; an image is refused for good only over what is this process's own.
        self._own_bytes = own_bytes
        self._changed = threading.Condition()
        self._waiting: deque[Lease] = deque()
        self._parked: list[Lease] = []
        self._credits = Credits()
        self._in_flight_images = 0
        self._occupied = False
        self._closed = False
        self._draining = False
        self._gate = Gate.opened(assignment.ingest.budget_bytes)
        #: From readings with nothing in flight, which are the better ones but seldom come, and from all.
        self._idle_growth = Growth()
        self._growth = Growth()
        self._growth_bytes_per_image = 0
        self._reading = read_memory()
        self._idle_bytes = self._floor_bytes = self._peak_bytes = self._reading.nonreclaimable_bytes

    def offer(self, lease: Lease) -> None:
        with self._changed:
            self._waiting.append(lease)
            self._changed.notify()

    def take(self) -> tuple[Lease, Verdict] | None:
        """The next image with the verdict over it (a credit too, if it is admitted); None once closed."""
        with self._changed:
            while not self._closed:
                taken = self._next()
                if taken is not None:
                    return taken
                self._changed.wait(_LOOK_SECONDS)
            return None

    def take_batch(self, at_most: int) -> list[tuple[Lease, Verdict]] | None:
        """Like `take`, and what else may go in at this moment."""
        first = self.take()
        if first is None:
            return None
        batch = [first]
        with self._changed:
            while len(batch) < at_most and (further := self._next()) is not None:
                batch.append(further)
        return batch

    def park(self, lease: Lease) -> None:
        """It waits for a larger limit, and what it wants is reported meanwhile."""
        with self._changed:
            self._parked.append(lease)

    def left(self, lease: Lease) -> None:
        """The image is answered, dropped or put back: its credit and its place are free."""
        with self._changed:
            if lease.credit is None:
                return
            lease.credit.release()
            lease.credit = None
            self._in_flight_images -= 1
            self._occupied = False
            self._changed.notify_all()

    def settle(self) -> None:
        """Pixels were freed: look again."""
        with self._changed:
            self._changed.notify_all()

    def withdraw(self, unwanted: Callable[[Lease], bool]) -> list[Lease]:
        """Take out, waiting or parked, what is `unwanted`."""
        with self._changed:
            out = [lease for lease in (*self._waiting, *self._parked) if unwanted(lease)]
            self._waiting = deque(lease for lease in self._waiting if not unwanted(lease))
            self._parked = [lease for lease in self._parked if not unwanted(lease)]
            self._changed.notify_all()
            return out

    def drain(self) -> list[Lease]:
        """The worker has to end: what fits at all may go in alone; the parked images, to be tried once more."""
        with self._changed:
            self._draining = True
            parked, self._parked = self._parked, []
            return parked

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()

    def observe(self, elapsed_seconds: float) -> list[Lease]:
        """Take a reading and let the gate follow it; the parked images that would fit now, or whose leases ran out."""
        with self._changed:
            reading = self._look()
            before, self._gate = self._gate, self._gate.after(reading, elapsed_seconds)
            self._growth_bytes_per_image = self._measure_growth()
            now = time.monotonic()
            fitting = [lease for lease in self._parked if lease.expired(now) or self._fits(lease, reading)]
            self._parked = [lease for lease in self._parked if lease not in fitting]
            self._changed.notify_all()
        if before.closed != self._gate.closed:
            self._tell(reading)
        if self._gate.closed and not before.closed:
            self._trim()
        return fitting

    def memory(self) -> Memory:
        with self._changed:
            return Memory(
                reading=self._reading,
                gate=self._gate,
                floor_bytes=self._floor_bytes,
                peak_bytes=self._peak_bytes,
                growth_bytes_per_image=self._growth_bytes_per_image,
                wanted_bytes=max(map(self._wanted, self._parked), default=0),
                in_flight_bytes=self._credits.in_use_bytes(),
                in_flight_images=self._in_flight_images,
                waiting_images=len(self._waiting),
                parked_images=len(self._parked),
            )

    def __len__(self) -> int:
        return len(self._waiting)

    def _next(self) -> tuple[Lease, Verdict] | None:
        if not self._waiting:
            return None
        lease = self._waiting[0]
        verdict = judge(lease.cost_bytes, lease.alone, self._situation())
        if verdict in {Verdict.ADMIT_ALONE, Verdict.PARK} and not self._in_flight_images:
            # What was last seen idle may be old: what decides over one image alone is what is there now.
            self._look()
            verdict = judge(lease.cost_bytes, lease.alone, self._situation())
        if verdict is Verdict.WAIT:
            return None
        self._waiting.popleft()
        if verdict in {Verdict.ADMIT, Verdict.ADMIT_ALONE}:
            lease.credit = self._credits.take(lease.cost_bytes)
            self._in_flight_images += 1
            self._occupied = verdict is Verdict.ADMIT_ALONE
        return lease, verdict

    def _situation(self) -> Situation:
        return Situation(
            limit_bytes=self._reading.limit_bytes,
            floor_bytes=min(self._floor_bytes, self._own_bytes),
            idle_bytes=self._idle_bytes,
            cap_bytes=self._cap_bytes,
            budget_bytes=self._gate.budget_bytes,
            gate_closed=self._gate.closed,
            in_flight_images=self._in_flight_images,
            in_flight_bytes=self._credits.in_use_bytes(),
            occupied=self._occupied,
            one_at_a_time=self._one_at_a_time or self._images_done() < self._first_alone,
            draining=self._draining,
        )

    def _look(self) -> Reading:
        reading = self._reading = self._read_memory()
        self._peak_bytes = max(self._peak_bytes, reading.nonreclaimable_bytes)
        self._growth.saw(self._images_done(), reading.nonreclaimable_bytes)
        if not self._in_flight_images:
            self._idle_growth.saw(self._images_done(), reading.nonreclaimable_bytes)
            self._idle_bytes = reading.nonreclaimable_bytes
            self._floor_bytes = min(self._floor_bytes, self._idle_bytes)
        return reading

    def _measure_growth(self) -> int:
        idle = self._idle_growth.bytes_per_image()
        return idle if idle is not None else self._growth.bytes_per_image() or 0

    def _wanted(self, lease: Lease) -> int:
        return wanted_bytes(lease.cost_bytes, self._idle_bytes)

    def _fits(self, lease: Lease, reading: Reading) -> bool:
        return wanted_bytes(lease.cost_bytes, self._idle_bytes, draining=self._draining) <= reading.limit_bytes

    def _tell(self, reading: Reading) -> None:
        _log.info(
            "gate %s",
            "closed" if self._gate.closed else "opened",
            extra={
                "nonreclaimable_bytes": reading.nonreclaimable_bytes,
                "limit_bytes": reading.limit_bytes,
                "budget_bytes": self._gate.budget_bytes,
            },
        )
