"""Which remedy answers a trip: a pure choice with its reasons in words and its price.

Covers the ladder (resize in place, recycle, relaunch larger, one image at a time, lock out), the next limit, and what
each rung costs. Not covered: when to trip (`detector`), what state a slot is in and who acts (`breaker`). Shrinking
is no rung here: the worker has already done it by the time its memory can trip anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from tidegate.core.contract import GIB, MIB, Character, Trip, TripCause

#: Limits move in steps that a person can compare and a scheduler can pack.
LIMIT_STEP_BYTES: Final = 256 * MIB
#: The worker shuts its inlet at this share of its limit: what lies above is no room for a leak to fill.
GATE_RATIO: Final = 0.80
#: So many remedies may pass without a new ack before a slot at its ceiling is given up.
REMEDIES_WITHOUT_ACK: Final = 2


class RemedyKind(StrEnum):
    RESIZE = "resize"
    RECYCLE = "recycle"
    RELAUNCH_LARGER = "relaunch_larger"
    ONE_AT_A_TIME = "one_at_a_time"
    HOLD = "hold"
    LOCK_OUT = "lock_out"


class Measure(StrEnum):
    """What an administrator allows to be done to a running pod; neither of them means: observe and alert only."""

    RESIZE = "resize"
    RELAUNCH = "relaunch"


@dataclass(frozen=True, slots=True)
class Means:
    """What the cluster can do and the administrator allows, and what a restart takes."""

    #: Kubernetes >= 1.33 with `patch` on `pods/resize`.
    can_resize: bool
    restart_seconds: float
    #: Memory with the models loaded and no image in flight: a recycled pod starts here.
    floor_bytes: int
    allowed: frozenset[Measure] = field(default_factory=lambda: frozenset(Measure))


@dataclass(frozen=True, slots=True)
class Situation:
    """Where the slot stands when the question comes."""

    limit_bytes: int
    #: The plan's cap, or less where the cluster has shown that it cannot place that much.
    ceiling_bytes: int
    one_at_a_time: bool
    pod_is_alive: bool
    #: A remedy is on trial already: this trip asks for one further down the ladder.
    on_probation: bool
    #: Remedies that had their chance since the last new ack.
    remedies_without_ack: int
    #: In words, why the resize that was tried for this trip did not happen.
    resize_refused: str | None = None
    #: Work left at the planned rate; None where the source does not say how much there is.
    remaining_seconds: float | None = None
    images_in_flight: int = 0


@dataclass(frozen=True, slots=True)
class Cost:
    """`gib_hours` is memory held beyond today's limit, or held idle; over one hour where the work left is unknown."""

    gib_hours: float
    pause_seconds: float
    images_redone: int


@dataclass(frozen=True, slots=True)
class Option:
    """One rung: what it would do, what it would cost, and why it is or is not open."""

    kind: RemedyKind
    is_open: bool
    reason: str
    limit_bytes: int
    one_at_a_time: bool
    cost: Cost


def next_limit_bytes(trip: Trip, *, limit_bytes: int, ceiling_bytes: int, remedies_without_ack: int = 0) -> int:
    """The limit that this evidence asks for; not above `limit_bytes` means that more memory is no answer.

    A remedy that passed without one ack has shown that the estimate is no guide here. The next step then doubles: any
    cap is a few kills away, and each kill costs the images in flight one of their few deliveries.
    """
    needed = max(
        _percent(limit_bytes, 200 if remedies_without_ack else 125),
        _percent(trip.peak_bytes, 120),
        trip.peak_bytes + LIMIT_STEP_BYTES,
        trip.wanted_bytes,
        _percent(trip.projected_bytes, 115),
    )
    stepped = -(-needed // LIMIT_STEP_BYTES) * LIMIT_STEP_BYTES
    return max(limit_bytes, min(stepped, ceiling_bytes))


def choose(trip: Trip, situation: Situation, means: Means) -> Option:
    """The first rung that is open."""
    return next(option for option in ladder(trip, situation, means) if option.is_open)


def ladder(trip: Trip, situation: Situation, means: Means) -> tuple[Option, ...]:
    """Every rung in the order in which they are tried, the closed ones with the reason; the last is always open."""
    limit = situation.limit_bytes
    target = next_limit_bytes(
        trip,
        limit_bytes=limit,
        ceiling_bytes=situation.ceiling_bytes,
        remedies_without_ack=situation.remedies_without_ack,
    )
    horizon_seconds = 3600.0 if situation.remaining_seconds is None else situation.remaining_seconds
    extra_gib_hours = _gib_hours(target - limit, horizon_seconds)
    idle_gib_hours = _gib_hours(limit, means.restart_seconds)
    # A drain answers every lease before the pod ends; only a kill leaves images to be done again.
    redone = 0 if situation.pod_is_alive else situation.images_in_flight
    restart = Cost(idle_gib_hours, means.restart_seconds, redone)
    free = Cost(0.0, 0.0, 0)

    def option(kind: RemedyKind, verdict: tuple[bool, str], limit_bytes: int, cost: Cost) -> Option:
        alone = situation.one_at_a_time or kind is RemedyKind.ONE_AT_A_TIME
        return Option(kind, verdict[0], verdict[1], limit_bytes, alone, cost)

    return (
        option(RemedyKind.RESIZE, _may_resize(trip, situation, means, target), target, Cost(extra_gib_hours, 0.0, 0)),
        option(RemedyKind.RECYCLE, _may_recycle(trip, situation, means, target), limit, restart),
        option(
            RemedyKind.RELAUNCH_LARGER,
            _may_relaunch_larger(situation, means, target),
            target,
            Cost(extra_gib_hours + idle_gib_hours, means.restart_seconds, redone),
        ),
        option(RemedyKind.ONE_AT_A_TIME, _may_run_alone(situation, means, target), limit, restart),
        option(RemedyKind.HOLD, _may_hold(situation), limit, free),
        option(RemedyKind.LOCK_OUT, (True, _lock_out_reason(situation)), limit, free),
    )


def _may_resize(trip: Trip, situation: Situation, means: Means, target: int) -> tuple[bool, str]:
    limit = situation.limit_bytes
    checks = (
        (situation.pod_is_alive, "the pod is gone: there is nothing to resize"),
        (Measure.RESIZE in means.allowed, "resizing in place is not among the allowed measures"),
        (means.can_resize, "the cluster cannot resize in place (Kubernetes 1.33 and patch on pods/resize are needed)"),
        (situation.resize_refused is None, f"the cluster did not resize: {situation.resize_refused}"),
        (not situation.on_probation, "the remedy on probation did not hold: the ladder goes on, not back"),
        (target > limit, _no_more_memory(situation)),
        (
            not _recycling_is_cheaper(trip, situation, means, target),
            "memory leaks: a fresh pod costs less than the RAM",
        ),
    )
    return _first_closed(checks, f"{_gib(limit)} to {_gib(target)} without a restart")


def _may_recycle(trip: Trip, situation: Situation, means: Means, target: int) -> tuple[bool, str]:
    if situation.one_at_a_time and target <= situation.limit_bytes:
        last_resort = (
            (_may_restart(situation, means), "relaunching is not among the allowed measures"),
            (not _is_exhausted(situation, target), _lock_out_reason(situation)),
        )
        return _first_closed(last_resort, f"a fresh pod at {_gib(situation.limit_bytes)}, one image at a time")
    checks = (
        (_recycling_is_cheaper(trip, situation, means, target), "more memory is the better answer to this growth"),
        (_may_restart(situation, means), "relaunching is not among the allowed measures"),
        (not situation.on_probation, "the remedy on probation did not hold: the ladder goes on, not back"),
        (situation.remedies_without_ack == 0, "the last remedy brought no ack: a fresh pod alone will not either"),
    )
    return _first_closed(
        checks, f"growth bears no relation to image size: a fresh pod at {_gib(situation.limit_bytes)}"
    )


def _may_relaunch_larger(situation: Situation, means: Means, target: int) -> tuple[bool, str]:
    checks = (
        (_may_restart(situation, means), "relaunching is not among the allowed measures"),
        (target > situation.limit_bytes, _no_more_memory(situation)),
    )
    return _first_closed(checks, f"{_gib(situation.limit_bytes)} to {_gib(target)} in a new pod, from the last ack on")


def _may_run_alone(situation: Situation, means: Means, target: int) -> tuple[bool, str]:
    checks = (
        (_may_restart(situation, means), "relaunching is not among the allowed measures"),
        (target <= situation.limit_bytes, "crawling is no answer below the ceiling"),
        (not situation.one_at_a_time, "the slot runs one image at a time already"),
    )
    return _first_closed(checks, f"{_no_more_memory(situation)}: one image at a time")


def _may_hold(situation: Situation) -> tuple[bool, str]:
    checks = (
        (situation.pod_is_alive, "the pod is gone: holding would leave the slot without one"),
        (not _is_exhausted(situation, situation.ceiling_bytes), _lock_out_reason(situation)),
    )
    return _first_closed(checks, "no allowed measure is left: alert and leave the pod as it is")


def _may_restart(situation: Situation, means: Means) -> bool:
    # A dead pod is relaunched whatever is allowed: the measures are about pods that live.
    return not situation.pod_is_alive or Measure.RELAUNCH in means.allowed


def _is_exhausted(situation: Situation, target: int) -> bool:
    at_the_end = situation.one_at_a_time and target <= situation.limit_bytes
    return at_the_end and situation.remedies_without_ack >= REMEDIES_WITHOUT_ACK


def _recycling_is_cheaper(trip: Trip, situation: Situation, means: Means, target: int) -> bool:
    """Whether a leak is better answered by fresh pods than by memory that it will fill in turn."""
    # A kill climbs whatever the character: it came sooner than a drain could have.
    if trip.character is not Character.LEAK or trip.cause is TripCause.OOM:
        return False
    remaining, velocity = situation.remaining_seconds, trip.velocity_bytes_per_second
    if target <= situation.limit_bytes or remaining is None or velocity <= 0:
        return True
    if (GATE_RATIO * target - trip.nonreclaimable_bytes) / velocity < remaining:
        return True
    cycle_seconds = max(1.0, (GATE_RATIO * situation.limit_bytes - means.floor_bytes) / velocity)
    recycles = math.ceil(remaining / cycle_seconds)
    idle = situation.limit_bytes * means.restart_seconds * recycles
    return idle < (target - situation.limit_bytes) * remaining


def _first_closed(checks: tuple[tuple[bool, str], ...], otherwise: str) -> tuple[bool, str]:
    closed = next((reason for holds, reason in checks if not holds), None)
    return (True, otherwise) if closed is None else (False, closed)


def _no_more_memory(situation: Situation) -> str:
    return f"{_gib(situation.limit_bytes)} is all that the ceiling allows"


def _lock_out_reason(situation: Situation) -> str:
    return (
        f"{situation.remedies_without_ack} remedies passed without a new ack, the last with one image at a time "
        f"at {_gib(situation.limit_bytes)}: raise the cap, or look at the images in flight"
    )


def _percent(value: int, percent: int) -> int:
    return -(-value * percent // 100)


def _gib_hours(size_bytes: int, seconds: float) -> float:
    return size_bytes / GIB * seconds / 3600


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / GIB:.2f} GiB"
