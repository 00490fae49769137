"""What each event of a slot changes, and how it is answered where more than one answer is possible.

Covers the budgets, the credit of acks, the one permitted fall, and the calls of `remedy`. Not covered: which phase an
answer leads to and which events are too late to be asked about; both are the table's, in `breaker`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, NamedTuple, assert_never

from tidegate.core.contract import Trip
from tidegate.core.errors import ContractMismatch, FixConfig
from tidegate.core.remedy import Means, Option, RemedyKind, Situation, choose
from tidegate.core.slot import (
    Alert,
    DrainTimedOut,
    End,
    Event,
    LaunchRefused,
    Phase,
    PodCreated,
    PodEnded,
    PodStarted,
    PodStayedPending,
    ProbationPassed,
    ResetByHuman,
    ResizeActuated,
    ResizeRefused,
    ResizeTimedOut,
    SlotFinished,
    SlotState,
    Tripped,
)


@dataclass(frozen=True, slots=True)
class Policy:
    """Patience, budgets and means of one run's breaker."""

    means: Means
    #: From the order to drain to the pod's end: grace, the signal's way, and a margin.
    drain_seconds: float
    resize_seconds: float = 10.0
    pending_seconds: float = 180.0
    #: As long as the detector holds back after a remedy, and a whole window of samples on top; at least 60 s.
    probation_seconds: float = 60.0
    #: More ends than these lock the slot out. They end the loops in which each pod makes some progress.
    memory_ends: int = 20
    crash_ends: int = 20
    infrastructure_ends: int = 50


class Answer(StrEnum):
    """How an event is answered where more than one answer is possible."""

    ONWARD = "onward"
    RESIZE = "resize"
    DRAIN = "drain"
    #: Leave things as they are.
    HOLD = "hold"
    #: Launch the next pod as the last was.
    RELAUNCH = "relaunch"
    #: Launch the next pod under a remedy.
    REMEDY = "remedy"
    #: Back to the last schedulable limit, one image at a time.
    FALL = "fall"
    FINISH = "finish"
    LOCK_OUT = "lock_out"


_LEAVING: Final = frozenset(
    {Phase.OPEN_DRAINING, Phase.OPEN_DELETING, Phase.LOCKING_DRAINING, Phase.LOCKING_DELETING},
)
_BUDGETS: Final[Mapping[End, str]] = {
    End.MEMORY: "memory_ends",
    End.CRASHED: "crash_ends",
    End.INFRASTRUCTURE: "infrastructure_ends",
    End.UPSTREAM_UNAVAILABLE: "infrastructure_ends",
    End.DRAINED: "infrastructure_ends",
}
#: Ends that no further pod would change.
_HOPELESS: Final[Mapping[End, str]] = {
    End.CONFIGURATION: "the worker refused its configuration",
    End.FAILURE_BUDGET_SPENT: "too many images failed",
}


class Decision(NamedTuple):
    answer: Answer
    changes: dict[str, Any]


def decide(state: SlotState, event: Event, policy: Policy) -> Decision:
    match event:
        case PodCreated():
            return Decision(Answer.ONWARD, {"pod_uid": event.pod_uid, "pod_acked": 0})
        case PodStarted():
            return Decision(Answer.ONWARD, _started(state))
        case PodStayedPending() | LaunchRefused():
            return _unplaced(state, event, policy)
        case PodEnded():
            return _ended(state, event, policy)
        case Tripped():
            return _tripped(state, event, policy)
        case ResizeActuated():
            resized = changed(state, limit_bytes=state.target_bytes, target_bytes=None)
            return Decision(Answer.ONWARD, dict(resized) | _on_probation(_credited(resized, event.pod_acked)))
        case ResizeRefused() | ResizeTimedOut():
            return _not_resized(state, event, policy)
        case DrainTimedOut():
            summary = f"pod {state.pod_uid} has not ended {policy.drain_seconds:.0f} s after it was told to"
            return Decision(Answer.ONWARD, {"alert": _alert(state, "TidegateDrainTimedOut", summary)})
        case ProbationPassed():
            return _passed(state, event)
        case SlotFinished():
            return Decision(Answer.FINISH, _closed(state) | {"reason": "the source has nothing left"})
        case ResetByHuman():
            return Decision(Answer.ONWARD, _reset(state, event))
        case _:
            assert_never(event)


def _tripped(state: SlotState, event: Tripped, policy: Policy) -> Decision:
    state = _credited(state, event.pod_acked)
    situation = Situation(
        limit_bytes=state.limit_bytes,
        ceiling_bytes=state.ceiling_bytes,
        one_at_a_time=state.one_at_a_time,
        pod_is_alive=True,
        on_probation=state.phase is Phase.HALF_OPEN,
        remedies_without_ack=state.remedies_without_ack,
        remaining_seconds=event.remaining_seconds,
        images_in_flight=event.images_in_flight,
    )
    return _taken(state, event.trip, choose(event.trip, situation, policy.means))


def _not_resized(state: SlotState, event: ResizeRefused | ResizeTimedOut, policy: Policy) -> Decision:
    if state.trip is None:
        raise ContractMismatch("SlotState", "trip", "a resize without the trip that it answers")
    refusal = event.refusal if isinstance(event, ResizeRefused) else f"nothing in {policy.resize_seconds:.0f} s"
    situation = Situation(
        limit_bytes=state.limit_bytes,
        ceiling_bytes=state.ceiling_bytes,
        one_at_a_time=state.one_at_a_time,
        pod_is_alive=True,
        on_probation=False,
        remedies_without_ack=state.remedies_without_ack,
        resize_refused=refusal,
    )
    option = choose(state.trip, situation, policy.means)
    return _taken(state, state.trip, replace(option, reason=f"not resized in place ({refusal}): {option.reason}"))


def _taken(state: SlotState, trip: Trip, option: Option) -> Decision:
    """The chosen rung as an answer for a pod that lives."""
    changes: dict[str, Any] = dict(state) | {"trip": trip, "reason": option.reason}
    if option.kind is RemedyKind.HOLD:
        summary = f"tripped by {trip.cause}, and {option.reason}"
        held = {"alert": _alert(state, "TidegateHeld", summary), "target_bytes": None, "remedy": option.kind}
        return Decision(Answer.HOLD, changes | held)
    changes |= {"generation": state.generation + 1, "remedy": option.kind}
    if option.kind is RemedyKind.LOCK_OUT:
        return Decision(Answer.LOCK_OUT, changes)
    changes |= {"target_bytes": option.limit_bytes, "one_at_a_time": option.one_at_a_time}
    return Decision(Answer.RESIZE if option.kind is RemedyKind.RESIZE else Answer.DRAIN, changes)


def _ended(state: SlotState, event: PodEnded, policy: Policy) -> Decision:
    state = _credited(state, event.pod_acked)
    changes: dict[str, Any] = dict(state) | {
        "pod_uid": None,
        "acked_by_former_pods": state.acked,
        "pod_acked": 0,
        "generation": state.generation + 1,
        "target_bytes": None,
    }
    if event.end is End.FINISHED:
        return Decision(Answer.FINISH, changes | _closed(state) | {"reason": event.detail or "the worker finished"})
    if state.phase in (Phase.LOCKING_DRAINING, Phase.LOCKING_DELETING):
        return Decision(Answer.LOCK_OUT, changes)
    if event.end in _HOPELESS:
        return Decision(Answer.LOCK_OUT, changes | {"reason": f"{_HOPELESS[event.end]}: {event.detail}"})

    was_asked_to_end = state.phase in _LEAVING and event.end not in (End.MEMORY, End.CRASHED)
    if not was_asked_to_end:
        budget = _BUDGETS[event.end]
        changes[budget] = getattr(state, budget) + 1
        if changes[budget] > getattr(policy, budget):
            reason = f"the budget of {getattr(policy, budget)} {budget.replace('_', ' ')} is spent: {event.detail}"
            return Decision(Answer.LOCK_OUT, changes | {"reason": reason, "trip": event.trip or state.trip})
    if event.end is End.MEMORY and event.trip is not None:
        return _killed(state, event, event.trip, changes, policy)

    changes["limit_bytes"] = state.target_bytes or state.limit_bytes
    if state.phase is Phase.OPEN_RESIZING:
        changes["remedy"] = RemedyKind.RELAUNCH_LARGER
    if state.phase is Phase.HALF_OPEN:
        # Cut short from outside: the remedy has not had its chance.
        changes["remedies_without_ack"] = max(0, state.remedies_without_ack - 1)
    return Decision(Answer.RELAUNCH, changes)


def _killed(state: SlotState, event: PodEnded, trip: Trip, changes: dict[str, Any], policy: Policy) -> Decision:
    # The larger pod may have died before anybody saw it run: it had its chance all the same.
    unseen = 1 if state.phase is Phase.OPEN_STARTING else 0
    # A resize may have reached the pod before its answer reached us; the remedy under way is the least that is due.
    in_force = min(state.ceiling_bytes, max(state.limit_bytes, trip.limit_bytes))
    situation = Situation(
        limit_bytes=in_force,
        ceiling_bytes=state.ceiling_bytes,
        one_at_a_time=state.one_at_a_time,
        pod_is_alive=False,
        on_probation=state.phase is Phase.HALF_OPEN,
        remedies_without_ack=state.remedies_without_ack + unseen,
        images_in_flight=event.images_in_flight,
    )
    option = choose(trip, situation, policy.means)
    changes |= {
        "trip": trip,
        "reason": option.reason,
        "remedy": option.kind,
        "remedies_without_ack": situation.remedies_without_ack,
    }
    if option.kind is RemedyKind.LOCK_OUT:
        return Decision(Answer.LOCK_OUT, changes)
    changes |= {
        "limit_bytes": max(option.limit_bytes, min(state.target_bytes or 0, state.ceiling_bytes)),
        "one_at_a_time": option.one_at_a_time,
    }
    return Decision(Answer.REMEDY, changes)


def _unplaced(state: SlotState, event: PodStayedPending | LaunchRefused, policy: Policy) -> Decision:
    """The one permitted fall: a limit that the cluster does not place is given up for the last one that it did."""
    why = event.reason if isinstance(event, LaunchRefused) else f"pending for {policy.pending_seconds:.0f} s"
    fallback = state.last_schedulable_limit_bytes
    changes: dict[str, Any] = {"generation": state.generation + 1}
    if state.phase in (Phase.OPEN_WAITING, Phase.OPEN_STARTING) and state.limit_bytes > fallback:
        summary = f"a pod of {state.limit_bytes} bytes was not placed ({why}): one image at a time at {fallback} bytes"
        changes |= {
            "ceiling_bytes": fallback,
            "one_at_a_time": True,
            "remedy": RemedyKind.ONE_AT_A_TIME,
            "reason": summary,
            "alert": Alert(name="TidegateUnschedulable", generation=state.generation + 1, summary=summary),
        }
        falls_now = isinstance(event, LaunchRefused)
        return Decision(Answer.FALL, changes | {"limit_bytes" if falls_now else "target_bytes": fallback})
    summary = f"a pod of {state.limit_bytes} bytes was not placed: {why}"
    alert = {"alert": _alert(state, "TidegatePodUnplaced", summary)}
    if isinstance(event, PodStayedPending):
        # The operator's own start-up timeout ends the wait.
        return Decision(Answer.HOLD, alert | {"deadline_at": None})
    ends = state.infrastructure_ends + 1
    changes |= alert | {"infrastructure_ends": ends, "reason": summary}
    return Decision(Answer.LOCK_OUT if ends > policy.infrastructure_ends else Answer.RELAUNCH, changes)


def _passed(state: SlotState, event: ProbationPassed) -> Decision:
    credited = _credited(state, event.pod_acked)
    is_over = state.deadline_at is not None and event.at >= state.deadline_at
    if is_over and credited.acked > state.acked_at_probation:
        return Decision(Answer.ONWARD, dict(credited) | _closed(credited))
    return Decision(Answer.HOLD, dict(credited))


def _reset(state: SlotState, event: ResetByHuman) -> dict[str, Any]:
    cap = event.cap_bytes or state.cap_bytes
    if event.limit_bytes is not None and event.limit_bytes > cap:
        raise FixConfig(f"limit_bytes {event.limit_bytes} is above cap_bytes {cap}: raise the cap with the limit")
    limit = min(event.limit_bytes or state.limit_bytes, cap)
    return _closed(state) | {
        "generation": state.generation + 1,
        "limit_bytes": limit,
        "target_bytes": None,
        "cap_bytes": cap,
        "ceiling_bytes": cap,
        "last_schedulable_limit_bytes": min(state.last_schedulable_limit_bytes, limit),
        "one_at_a_time": False,
        "memory_ends": 0,
        "crash_ends": 0,
        "infrastructure_ends": 0,
        "reset_at": event.at,
        "reason": f"reset by {event.by}",
    }


def _started(state: SlotState) -> dict[str, Any]:
    ran = {"last_schedulable_limit_bytes": state.limit_bytes}
    return ran if state.phase is Phase.CLOSED_STARTING else _on_probation(state)


def _on_probation(state: SlotState) -> dict[str, Any]:
    return {
        "last_schedulable_limit_bytes": state.limit_bytes,
        "remedies_without_ack": state.remedies_without_ack + 1,
        "pod_acked": state.pod_acked,
        "acked_at_probation": state.acked,
    }


def _closed(state: SlotState) -> dict[str, Any]:
    return {
        "remedy": None,
        "remedies_without_ack": 0,
        "acked_at_probation": state.acked,
        "trip": None,
        "alert": None,
    }


def _credited(state: SlotState, pod_acked: int) -> SlotState:
    """The state with the pod's acks noted; a new one clears the count of remedies that brought none."""
    noted = changed(state, pod_acked=max(state.pod_acked, pod_acked))
    return changed(noted, remedies_without_ack=0) if noted.acked > noted.acked_at_probation else noted


def _alert(state: SlotState, name: str, summary: str) -> Alert:
    return Alert(name=name, generation=state.generation, summary=summary)


def changed(state: SlotState, **changes: Any) -> SlotState:
    # Through the validators, which model_copy would skip.
    return SlotState(**(dict(state) | changes))
