"""May this image be decoded now: alone or beside others, later, under a larger limit, or never.

Images go in beside others while their costs fit the budget. One runs alone where it must (a suspect, a last delivery)
or where it fits no other way (larger than the budget, gate closed): then it has all memory up to `ALONE_RATIO` of the
limit. A worker that has to end goes further. So there is progress behind a closed gate, and a crawl is visible as such.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, auto

from tidegate_worker.policy.gate import ALONE_RATIO, CLOSE_RATIO, DRAIN_RATIO


class Verdict(Enum):
    ADMIT = auto()
    ADMIT_ALONE = auto()
    WAIT = auto()
    #: It needs a larger limit: hold it inside its lease and say how much is wanted.
    PARK = auto()
    #: It needs more than any limit this run may get.
    REFUSE = auto()


@dataclass(frozen=True, slots=True)
class Situation:
    """Memory and the images in flight (admitted and not yet answered)."""

    limit_bytes: int
    #: Lowest non-reclaimable memory seen with nothing in flight: models and libraries.
    floor_bytes: int
    #: The same at the last such moment: what has leaked is in it.
    idle_bytes: int
    cap_bytes: int
    budget_bytes: int
    gate_closed: bool
    in_flight_images: int
    in_flight_bytes: int
    #: The image in flight asked to be alone.
    occupied: bool
    one_at_a_time: bool
    #: The worker has been told to end, and holds what it holds.
    draining: bool = False

    @property
    def usable_budget_bytes(self) -> int:
        """The budget, as far as the limit leaves room for it above the floor."""
        return max(0, min(self.budget_bytes, int(self.limit_bytes * CLOSE_RATIO) - self.idle_bytes))


def wanted_bytes(cost_bytes: int, base_bytes: int, *, draining: bool = False) -> int:
    """The smallest limit under which an image of this cost may run alone."""
    return math.ceil((base_bytes + cost_bytes) / (DRAIN_RATIO if draining else ALONE_RATIO))


def must_be_alone(cost_bytes: int, alone: bool, situation: Situation) -> bool:
    return alone or situation.one_at_a_time or situation.gate_closed or cost_bytes > situation.usable_budget_bytes


def judge(cost_bytes: int, alone: bool, situation: Situation) -> Verdict:
    if wanted_bytes(cost_bytes, situation.floor_bytes) > situation.cap_bytes:
        return Verdict.REFUSE
    if wanted_bytes(cost_bytes, situation.idle_bytes, draining=situation.draining) > situation.limit_bytes:
        return Verdict.PARK
    if must_be_alone(cost_bytes, alone, situation):
        return Verdict.WAIT if situation.in_flight_images else Verdict.ADMIT_ALONE
    if situation.occupied:
        return Verdict.WAIT
    if situation.in_flight_bytes + cost_bytes > situation.usable_budget_bytes:
        # With no image left whose end could be waited for, somebody keeps pixels: on, one at a time.
        return Verdict.WAIT if situation.in_flight_images else Verdict.ADMIT_ALONE
    return Verdict.ADMIT
