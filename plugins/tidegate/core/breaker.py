"""The circuit breaker of one slot: (state, event) -> (state, commands), by a literal table.

Covers the table, which events are too late to matter, which commands a state calls for, and what falls due by itself.
Not covered: what an event changes (`answers`), which remedy to take (`remedy`), when to trip (`detector`), saving and
executing (`control`). Nothing here reads a clock.

The commands are a function of the state alone (`orders`), so that the saved state is the whole truth: whoever finds
it after a crash executes the same commands again, and each names its target by generation and pod UID.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tidegate.core.answers import Answer, Policy, changed, decide
from tidegate.core.errors import ContractMismatch, TidegateError
from tidegate.core.slot import (
    WITHOUT_POD,
    Command,
    DeletePod,
    DrainPod,
    DrainTimedOut,
    Event,
    LaunchPod,
    LaunchRefused,
    LockOut,
    Phase,
    PodCreated,
    PodEnded,
    PodStarted,
    PodStayedPending,
    ProbationPassed,
    RaiseAlert,
    ResetByHuman,
    ResizeActuated,
    ResizePod,
    ResizeRefused,
    ResizeTimedOut,
    SlotFinished,
    SlotState,
    Tripped,
)


class UnlistedTransition(TidegateError):
    """The caller sent an event that cannot happen in this phase: mend the caller, the table is complete."""

    def __init__(self, phase: Phase, event: str, answer: str | None = None) -> None:
        super().__init__(f"{event}{f' answered by {answer}' if answer else ''} is not listed for a slot in {phase}")
        self.phase = phase
        self.event = event


def _after_end(relaunch: Phase) -> dict[Answer, Phase]:
    return {
        Answer.FINISH: Phase.DONE,
        Answer.RELAUNCH: relaunch,
        Answer.REMEDY: Phase.OPEN_WAITING,
        Answer.LOCK_OUT: Phase.LOCKED_OUT,
    }


#: The machine. A pair that is not here raises; docs/breaker.md is drawn from it.
TABLE: Final[Mapping[tuple[Phase, type[Event]], Mapping[Answer, Phase]]] = {
    (Phase.CLOSED_WAITING, PodCreated): {Answer.ONWARD: Phase.CLOSED_STARTING},
    (Phase.CLOSED_WAITING, LaunchRefused): {Answer.RELAUNCH: Phase.CLOSED_WAITING, Answer.LOCK_OUT: Phase.LOCKED_OUT},
    (Phase.CLOSED_WAITING, SlotFinished): {Answer.FINISH: Phase.DONE},
    (Phase.CLOSED_STARTING, PodStarted): {Answer.ONWARD: Phase.CLOSED},
    (Phase.CLOSED_STARTING, PodStayedPending): {Answer.HOLD: Phase.CLOSED_STARTING},
    (Phase.CLOSED_STARTING, PodEnded): _after_end(relaunch=Phase.CLOSED_WAITING),
    (Phase.CLOSED, Tripped): {
        Answer.RESIZE: Phase.OPEN_RESIZING,
        Answer.DRAIN: Phase.OPEN_DRAINING,
        Answer.HOLD: Phase.CLOSED,
    },
    (Phase.CLOSED, PodEnded): _after_end(relaunch=Phase.CLOSED_WAITING),
    (Phase.OPEN_RESIZING, ResizeActuated): {Answer.ONWARD: Phase.HALF_OPEN},
    (Phase.OPEN_RESIZING, ResizeRefused): {Answer.DRAIN: Phase.OPEN_DRAINING, Answer.HOLD: Phase.HALF_OPEN},
    (Phase.OPEN_RESIZING, ResizeTimedOut): {Answer.DRAIN: Phase.OPEN_DRAINING, Answer.HOLD: Phase.HALF_OPEN},
    (Phase.OPEN_RESIZING, PodEnded): _after_end(relaunch=Phase.OPEN_WAITING),
    (Phase.OPEN_DRAINING, DrainTimedOut): {Answer.ONWARD: Phase.OPEN_DELETING},
    (Phase.OPEN_DRAINING, PodEnded): _after_end(relaunch=Phase.OPEN_WAITING),
    (Phase.OPEN_DELETING, DrainTimedOut): {Answer.ONWARD: Phase.OPEN_DELETING},
    (Phase.OPEN_DELETING, PodEnded): _after_end(relaunch=Phase.OPEN_WAITING),
    (Phase.OPEN_WAITING, PodCreated): {Answer.ONWARD: Phase.OPEN_STARTING},
    (Phase.OPEN_WAITING, LaunchRefused): {
        Answer.FALL: Phase.OPEN_WAITING,
        Answer.RELAUNCH: Phase.OPEN_WAITING,
        Answer.LOCK_OUT: Phase.LOCKED_OUT,
    },
    (Phase.OPEN_WAITING, SlotFinished): {Answer.FINISH: Phase.DONE},
    (Phase.OPEN_STARTING, PodStarted): {Answer.ONWARD: Phase.HALF_OPEN},
    (Phase.OPEN_STARTING, PodStayedPending): {Answer.FALL: Phase.OPEN_DELETING, Answer.HOLD: Phase.OPEN_STARTING},
    (Phase.OPEN_STARTING, PodEnded): _after_end(relaunch=Phase.OPEN_WAITING),
    (Phase.HALF_OPEN, ProbationPassed): {Answer.ONWARD: Phase.CLOSED, Answer.HOLD: Phase.HALF_OPEN},
    (Phase.HALF_OPEN, Tripped): {
        Answer.DRAIN: Phase.OPEN_DRAINING,
        Answer.HOLD: Phase.HALF_OPEN,
        Answer.LOCK_OUT: Phase.LOCKING_DRAINING,
    },
    (Phase.HALF_OPEN, PodEnded): _after_end(relaunch=Phase.OPEN_WAITING),
    (Phase.LOCKING_DRAINING, DrainTimedOut): {Answer.ONWARD: Phase.LOCKING_DELETING},
    (Phase.LOCKING_DRAINING, PodEnded): {Answer.FINISH: Phase.DONE, Answer.LOCK_OUT: Phase.LOCKED_OUT},
    (Phase.LOCKING_DRAINING, ResetByHuman): {Answer.ONWARD: Phase.OPEN_DRAINING},
    (Phase.LOCKING_DELETING, DrainTimedOut): {Answer.ONWARD: Phase.LOCKING_DELETING},
    (Phase.LOCKING_DELETING, PodEnded): {Answer.FINISH: Phase.DONE, Answer.LOCK_OUT: Phase.LOCKED_OUT},
    (Phase.LOCKING_DELETING, ResetByHuman): {Answer.ONWARD: Phase.OPEN_DELETING},
    (Phase.LOCKED_OUT, ResetByHuman): {Answer.ONWARD: Phase.CLOSED_WAITING},
    (Phase.DONE, ResetByHuman): {Answer.ONWARD: Phase.CLOSED_WAITING},
}


def transition(state: SlotState, event: Event, policy: Policy) -> tuple[SlotState, tuple[Command, ...]]:
    """The state after `event`, to be saved, and the commands to execute once it is.

    An event about an earlier generation or another pod changes nothing: it came too late. The one command that it can
    cause deletes the stray pod itself, when a try that was believed dead creates one after all.
    """
    if event.generation > state.generation:
        problem = f"{event.generation} is ahead of the slot's {state.generation}: the store lost a write"
        raise ContractMismatch(type(event).__name__, "generation", problem)
    if isinstance(event, PodCreated) and event.generation < state.generation and event.pod_uid != state.pod_uid:
        return state, (DeletePod(state.run_id, state.slot, event.generation, event.pod_uid),)
    if _is_late(state, event):
        return state, ()
    row = TABLE.get((state.phase, type(event)))
    if row is None:
        raise UnlistedTransition(state.phase, type(event).__name__)
    answer, changes = decide(state, event, policy)
    if answer not in row:
        raise UnlistedTransition(state.phase, type(event).__name__, answer)
    phase = row[answer]
    if phase is not state.phase or answer is not Answer.HOLD:
        changes |= {"deadline_at": _deadline(phase, event.at, policy)}
    after = changed(state, **(changes | {"phase": phase}))
    return after, orders(after)


def orders(state: SlotState) -> tuple[Command, ...]:
    """What the state calls for; to execute it twice does no more than once."""
    key = (state.run_id, state.slot, state.generation)
    pod = (*key, state.pod_uid or "")
    alert = state.alert
    alerts = (RaiseAlert(state.run_id, state.slot, alert.generation, alert.name, alert.summary),) if alert else ()
    match state.phase:
        case Phase.CLOSED_WAITING | Phase.OPEN_WAITING:
            return (LaunchPod(*key, state.limit_bytes, state.one_at_a_time), *alerts)
        case Phase.OPEN_RESIZING:
            return (ResizePod(*pod, state.target_bytes or state.limit_bytes), *alerts)
        case Phase.OPEN_DRAINING | Phase.LOCKING_DRAINING:
            return (DrainPod(*pod), *alerts)
        case Phase.OPEN_DELETING | Phase.LOCKING_DELETING:
            return (DeletePod(*pod), *alerts)
        case Phase.LOCKED_OUT:
            return (LockOut(*key, state.reason, state.trip), *alerts)
        case _:
            return alerts


def overdue(state: SlotState, at: float, pod_acked: int) -> Event | None:
    """The event that falls due by `at` when nothing else happens."""
    if state.deadline_at is None or state.pod_uid is None or at < state.deadline_at:
        return None
    match state.phase:
        case Phase.OPEN_RESIZING:
            return ResizeTimedOut(generation=state.generation, at=at, pod_uid=state.pod_uid)
        case Phase.CLOSED_STARTING | Phase.OPEN_STARTING:
            return PodStayedPending(generation=state.generation, at=at, pod_uid=state.pod_uid)
        case Phase.HALF_OPEN:
            return ProbationPassed(generation=state.generation, at=at, pod_uid=state.pod_uid, pod_acked=pod_acked)
        case _:
            return DrainTimedOut(generation=state.generation, at=at, pod_uid=state.pod_uid)


def _is_late(state: SlotState, event: Event) -> bool:
    match event:
        case PodEnded():
            return event.pod_uid != state.pod_uid
        case PodCreated():
            return event.pod_uid == state.pod_uid
        case LaunchRefused() | SlotFinished() | ResetByHuman():
            return event.generation < state.generation
        case _:
            return event.pod_uid != state.pod_uid or event.generation < state.generation


def _deadline(phase: Phase, at: float, policy: Policy) -> float | None:
    if phase in WITHOUT_POD or phase is Phase.CLOSED:
        return None
    match phase:
        case Phase.OPEN_RESIZING:
            return at + policy.resize_seconds
        case Phase.CLOSED_STARTING | Phase.OPEN_STARTING:
            return at + policy.pending_seconds
        case Phase.HALF_OPEN:
            return at + policy.probation_seconds
        case _:
            return at + policy.drain_seconds
