"""The breaker of one slot, event by event: what it answers, what it ignores, what it refuses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import get_args

import pytest

from tidegate.core.answers import Policy
from tidegate.core.breaker import TABLE, UnlistedTransition, orders, overdue, transition
from tidegate.core.contract import GIB, Character, Trip, TripCause
from tidegate.core.errors import ContractMismatch, FixConfig
from tidegate.core.remedy import Means, Measure, RemedyKind
from tidegate.core.slot import (
    WITHOUT_POD,
    Command,
    DeletePod,
    DrainPod,
    DrainTimedOut,
    End,
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
    Refusal,
    ResetByHuman,
    ResizeActuated,
    ResizePod,
    ResizeRefused,
    ResizeTimedOut,
    SlotFinished,
    SlotState,
    Tripped,
)

REPOSITORY = Path(__file__).parents[2]
POLICY = Policy(Means(can_resize=True, restart_seconds=60.0, floor_bytes=GIB), drain_seconds=90.0)
WAITING = SlotState(
    run_id="r",
    slot=3,
    phase=Phase.CLOSED_WAITING,
    generation=0,
    limit_bytes=4 * GIB,
    cap_bytes=16 * GIB,
    ceiling_bytes=16 * GIB,
    last_schedulable_limit_bytes=4 * GIB,
)

Build = Callable[[SlotState, float], Event]


def uid(state: SlotState) -> str:
    return state.pod_uid or f"pod-{state.generation}"


def trip_of(state: SlotState, at: float, cause: TripCause, character: Character = Character.LOAD) -> Trip:
    return Trip(
        run_id=state.run_id,
        slot=state.slot,
        generation=state.generation,
        pod_uid=uid(state),
        at=at,
        cause=cause,
        character=character,
        limit_bytes=state.limit_bytes,
        nonreclaimable_bytes=state.limit_bytes * 3 // 4,
        peak_bytes=state.limit_bytes * 3 // 4,
        ratio=0.75,
        velocity_bytes_per_second=1e7,
    )


def created(state: SlotState, at: float) -> Event:
    return PodCreated(generation=state.generation, at=at, pod_uid=f"pod-{state.generation}")


def started(state: SlotState, at: float) -> Event:
    return PodStarted(generation=state.generation, at=at, pod_uid=uid(state))


def pending(state: SlotState, at: float) -> Event:
    return PodStayedPending(generation=state.generation, at=at, pod_uid=uid(state))


def refused_launch(state: SlotState, at: float) -> Event:
    return LaunchRefused(generation=state.generation, at=at, reason="exceeded quota")


def tripped(acked: int = 0, character: Character = Character.LOAD) -> Build:
    def build(state: SlotState, at: float) -> Event:
        return Tripped(trip=trip_of(state, at, TripCause.VELOCITY, character), pod_acked=acked)

    return build


def ended(end: End, acked: int = 0) -> Build:
    def build(state: SlotState, at: float) -> Event:
        trip = trip_of(state, at, TripCause.OOM, Character.UNKNOWN) if end is End.MEMORY else None
        return PodEnded(
            generation=state.generation, at=at, pod_uid=uid(state), end=end, pod_acked=acked, trip=trip, detail="seen"
        )

    return build


def actuated(state: SlotState, at: float) -> Event:
    return ResizeActuated(generation=state.generation, at=at, pod_uid=uid(state), pod_acked=state.pod_acked)


def refused(refusal: Refusal) -> Build:
    def build(state: SlotState, at: float) -> Event:
        return ResizeRefused(generation=state.generation, at=at, pod_uid=uid(state), refusal=refusal)

    return build


def resize_timed_out(state: SlotState, at: float) -> Event:
    return ResizeTimedOut(generation=state.generation, at=at, pod_uid=uid(state))


def drain_timed_out(state: SlotState, at: float) -> Event:
    return DrainTimedOut(generation=state.generation, at=at, pod_uid=uid(state))


def passed(acked: int) -> Build:
    def build(state: SlotState, at: float) -> Event:
        return ProbationPassed(generation=state.generation, at=at, pod_uid=uid(state), pod_acked=acked)

    return build


def finished(state: SlotState, at: float) -> Event:
    return SlotFinished(generation=state.generation, at=at)


def reset(state: SlotState, at: float) -> Event:
    return ResetByHuman(generation=state.generation, at=at, by="ada")


#: One event of each type that fits the state it is built for.
ONE_OF_EACH: dict[type[Event], Build] = {
    PodCreated: lambda state, at: PodCreated(generation=state.generation, at=at, pod_uid="another"),
    LaunchRefused: refused_launch,
    PodStarted: started,
    PodStayedPending: pending,
    PodEnded: ended(End.INFRASTRUCTURE),
    Tripped: tripped(),
    ResizeActuated: actuated,
    ResizeRefused: refused(Refusal.DEFERRED),
    ResizeTimedOut: resize_timed_out,
    DrainTimedOut: drain_timed_out,
    ProbationPassed: passed(0),
    SlotFinished: finished,
    ResetByHuman: reset,
}


def drive(state: SlotState, *builds: Build, at: float = 1000.0, policy: Policy = POLICY) -> SlotState:
    for build in builds:
        state, _ = transition(state, build(state, at), policy)
    return state


def answer(state: SlotState, build: Build, at: float = 1000.0) -> tuple[SlotState, tuple[Command, ...]]:
    return transition(state, build(state, at), POLICY)


CLOSED = drive(WAITING, created, started)
RESIZING = drive(CLOSED, tripped())
HALF_OPEN = drive(RESIZING, actuated)
DRAINING = drive(RESIZING, refused(Refusal.INFEASIBLE))
OPEN_STARTING = drive(DRAINING, ended(End.DRAINED), created)


def at_ceiling_alone() -> SlotState:
    capped = WAITING.model_copy(update={"cap_bytes": 4 * GIB, "ceiling_bytes": 4 * GIB})
    return drive(capped, created, started, tripped(), ended(End.DRAINED), created, started)


def test_a_slot_begins_by_launching_a_pod_at_the_plans_limit() -> None:
    assert orders(WAITING) == (LaunchPod("r", 3, 0, 4 * GIB, one_at_a_time=False),)


def test_a_trip_resizes_in_place_and_the_new_limit_counts_once_it_is_actuated() -> None:
    state, commands = answer(CLOSED, tripped())
    assert commands == (ResizePod("r", 3, 1, "pod-0", 5 * GIB),)
    assert (state.phase, state.limit_bytes, state.target_bytes) == (Phase.OPEN_RESIZING, 4 * GIB, 5 * GIB)

    state, commands = answer(state, actuated)
    assert commands == ()
    assert (state.phase, state.limit_bytes, state.target_bytes) == (Phase.HALF_OPEN, 5 * GIB, None)


@pytest.mark.parametrize("no", [refused(Refusal.DEFERRED), refused(Refusal.INFEASIBLE), resize_timed_out])
def test_a_resize_that_does_not_happen_is_followed_by_a_relaunch_at_the_same_target(no: Build) -> None:
    state, commands = answer(RESIZING, no)
    assert commands == (DrainPod("r", 3, 2, "pod-0"),)

    state, commands = answer(state, ended(End.DRAINED, acked=7))
    assert commands == (LaunchPod("r", 3, 3, 5 * GIB, one_at_a_time=False),)
    assert (state.acked, state.infrastructure_ends) == (7, 0)


def test_no_pod_is_launched_before_the_drained_one_has_ended() -> None:
    state, commands = answer(DRAINING, drain_timed_out)
    assert state.phase is Phase.OPEN_DELETING
    assert commands[0] == DeletePod("r", 3, 2, "pod-0")
    assert isinstance(commands[1], RaiseAlert)

    again, commands = answer(state, drain_timed_out)
    assert again.phase is Phase.OPEN_DELETING
    assert commands[0] == DeletePod("r", 3, 2, "pod-0")
    assert isinstance(answer(again, ended(End.INFRASTRUCTURE))[1][0], LaunchPod)


@pytest.mark.parametrize("end", [End.INFRASTRUCTURE, End.UPSTREAM_UNAVAILABLE, End.CRASHED, End.DRAINED])
def test_an_end_that_is_not_about_memory_relaunches_without_climbing(end: End) -> None:
    state, commands = answer(CLOSED, ended(end))
    assert state.phase is Phase.CLOSED_WAITING
    assert commands == (LaunchPod("r", 3, 1, 4 * GIB, one_at_a_time=False),)
    assert state.infrastructure_ends + state.crash_ends == 1


def test_a_memory_end_climbs_though_no_breaker_has_tripped() -> None:
    state, commands = answer(CLOSED, ended(End.MEMORY))
    assert (state.phase, state.memory_ends) == (Phase.OPEN_WAITING, 1)
    assert commands == (LaunchPod("r", 3, 1, 5 * GIB, one_at_a_time=False),)


def test_a_memory_end_after_a_resize_that_was_not_yet_reported_climbs_from_the_limit_that_was_in_force() -> None:
    event = ended(End.MEMORY)(RESIZING, 1000.0)
    assert isinstance(event, PodEnded)
    assert event.trip is not None
    seen = event.model_copy(update={"trip": event.trip.model_copy(update={"limit_bytes": 5 * GIB})})
    state, _ = transition(RESIZING, seen, POLICY)
    assert state.limit_bytes == 6 * GIB + GIB // 4


def test_a_memory_end_while_draining_gets_at_least_the_limit_of_the_remedy_under_way() -> None:
    raised = drive(DRAINING).model_copy(update={"target_bytes": 9 * GIB})
    assert drive(raised, ended(End.MEMORY)).limit_bytes == 9 * GIB


def test_an_eviction_while_a_resize_is_under_way_launches_at_its_target() -> None:
    state = drive(RESIZING, ended(End.INFRASTRUCTURE))
    assert (state.phase, state.limit_bytes, state.remedy) == (Phase.OPEN_WAITING, 5 * GIB, RemedyKind.RELAUNCH_LARGER)


def test_a_finished_worker_finishes_the_slot_even_when_it_was_told_to_drain() -> None:
    for state in (CLOSED, RESIZING, DRAINING, HALF_OPEN, OPEN_STARTING):
        done, commands = answer(state, ended(End.FINISHED, acked=9))
        assert (done.phase, done.acked, commands) == (Phase.DONE, 9, ())


def test_nothing_is_launched_where_the_source_has_nothing_left() -> None:
    assert answer(WAITING, finished) == (drive(WAITING, finished), ())
    assert drive(WAITING, finished).phase is Phase.DONE


@pytest.mark.parametrize("end", [End.CONFIGURATION, End.FAILURE_BUDGET_SPENT])
def test_an_end_that_no_further_pod_would_change_locks_out_at_once(end: End) -> None:
    state, commands = answer(CLOSED, ended(end))
    assert state.phase is Phase.LOCKED_OUT
    assert isinstance(commands[0], LockOut)
    assert "seen" in commands[0].reason


def test_probation_passes_only_after_its_time_and_with_new_acks() -> None:
    due = HALF_OPEN.deadline_at
    assert due == 1060.0
    assert drive(HALF_OPEN, passed(1), at=due - 1).phase is Phase.HALF_OPEN
    assert drive(HALF_OPEN, passed(0), at=due + 600).phase is Phase.HALF_OPEN
    closed = drive(HALF_OPEN, passed(1), at=due)
    assert (closed.phase, closed.remedies_without_ack, closed.trip) == (Phase.CLOSED, 0, None)


def test_acks_from_before_the_resize_do_not_pass_its_probation() -> None:
    half_open = drive(CLOSED, tripped(acked=50), actuated)
    assert drive(half_open, passed(50), at=2000.0).phase is Phase.HALF_OPEN
    assert drive(half_open, passed(51), at=2000.0).phase is Phase.CLOSED


def test_probation_that_came_too_early_once_is_not_put_off() -> None:
    assert drive(HALF_OPEN, passed(1), at=1030.0).deadline_at == HALF_OPEN.deadline_at


def test_a_trip_on_probation_takes_the_next_remedy() -> None:
    state, commands = answer(HALF_OPEN, tripped(acked=1))
    assert state.phase is Phase.OPEN_DRAINING
    assert (state.remedy, state.target_bytes) == (RemedyKind.RELAUNCH_LARGER, 6 * GIB + GIB // 4)
    assert isinstance(commands[0], DrainPod)


def test_a_leak_is_recycled_at_the_same_limit() -> None:
    state = drive(CLOSED, tripped(acked=5, character=Character.LEAK), ended(End.DRAINED, acked=5))
    assert (state.phase, state.limit_bytes, state.remedy) == (Phase.OPEN_WAITING, 4 * GIB, RemedyKind.RECYCLE)


def test_two_remedies_without_an_ack_at_the_ceiling_lock_the_slot_out_once_its_pod_has_ended() -> None:
    alone = at_ceiling_alone()
    assert (alone.one_at_a_time, alone.remedies_without_ack) == (True, 1)
    recycled = drive(alone, tripped(), ended(End.DRAINED), created, started)
    assert recycled.remedies_without_ack == 2

    locking, commands = answer(recycled, tripped())
    assert locking.phase is Phase.LOCKING_DRAINING
    assert isinstance(commands[0], DrainPod)
    locked, commands = answer(locking, ended(End.DRAINED))
    assert locked.phase is Phase.LOCKED_OUT
    assert isinstance(commands[0], LockOut)
    assert commands[0].trip is not None


def test_an_ack_between_two_remedies_keeps_the_slot_alive_at_the_ceiling() -> None:
    state = at_ceiling_alone()
    for _ in range(12):
        state = drive(state, tripped(acked=1), ended(End.DRAINED, acked=1), created, started)
    assert (state.phase, state.remedies_without_ack, state.acked) == (Phase.HALF_OPEN, 1, 12)


def test_an_ack_during_the_drain_is_no_success_of_the_remedy_that_follows() -> None:
    state = drive(at_ceiling_alone(), tripped(), ended(End.DRAINED, acked=3), created, started)
    assert state.remedies_without_ack == 1
    assert drive(state, passed(0), at=5000.0).phase is Phase.HALF_OPEN


def test_a_remedy_whose_pod_was_killed_before_anybody_saw_it_run_had_its_chance_all_the_same() -> None:
    unseen = drive(at_ceiling_alone(), ended(End.MEMORY), created)
    assert (unseen.phase, unseen.remedies_without_ack) == (Phase.OPEN_STARTING, 1)
    assert drive(unseen, ended(End.MEMORY)).phase is Phase.LOCKED_OUT
    assert drive(unseen, ended(End.MEMORY, acked=1)).phase is Phase.OPEN_WAITING


def test_an_eviction_during_probation_does_not_count_as_a_remedy_that_failed() -> None:
    state = at_ceiling_alone()
    for _ in range(5):
        state = drive(state, ended(End.INFRASTRUCTURE), created, started)
    assert (state.phase, state.remedies_without_ack) == (Phase.HALF_OPEN, 1)


@pytest.mark.parametrize(
    ("end", "budget"),
    [(End.MEMORY, "memory_ends"), (End.CRASHED, "crash_ends"), (End.INFRASTRUCTURE, "infrastructure_ends")],
)
def test_a_spent_budget_locks_out_though_each_pod_acks(end: End, budget: str) -> None:
    policy = replace(POLICY, memory_ends=2, crash_ends=2, infrastructure_ends=2)
    state = CLOSED
    for _ in range(2):
        state = drive(state, ended(end, acked=10), created, started, policy=policy)
    assert state.phase in (Phase.CLOSED, Phase.HALF_OPEN)
    locked = drive(state, ended(end, acked=10), policy=policy)
    assert locked.phase is Phase.LOCKED_OUT
    assert budget.replace("_", " ") in locked.reason


def test_a_replacement_that_cannot_be_placed_falls_to_the_last_schedulable_limit_once() -> None:
    state, commands = answer(OPEN_STARTING, pending)
    assert (state.phase, state.limit_bytes) == (Phase.OPEN_DELETING, 5 * GIB)
    assert isinstance(commands[0], DeletePod)
    assert isinstance(commands[1], RaiseAlert)

    state, commands = answer(state, ended(End.INFRASTRUCTURE))
    assert commands[0] == LaunchPod("r", 3, state.generation, 4 * GIB, one_at_a_time=True)
    assert (state.ceiling_bytes, state.infrastructure_ends) == (4 * GIB, 0)

    state = drive(state, created, pending)
    assert (state.phase, state.limit_bytes, state.deadline_at) == (Phase.OPEN_STARTING, 4 * GIB, None)


def test_a_replacement_that_the_quota_refuses_falls_without_a_pod_to_delete() -> None:
    waiting = drive(DRAINING, ended(End.DRAINED))
    state, commands = answer(waiting, refused_launch)
    assert commands[0] == LaunchPod("r", 3, state.generation, 4 * GIB, one_at_a_time=True)
    assert isinstance(commands[1], RaiseAlert)


def test_a_first_pod_that_cannot_be_placed_waits_and_tells() -> None:
    state, commands = answer(drive(WAITING, created), pending)
    assert (state.phase, state.limit_bytes) == (Phase.CLOSED_STARTING, 4 * GIB)
    assert [type(command) for command in commands] == [RaiseAlert]


def test_an_alert_stands_until_the_breaker_closes_and_keeps_its_name() -> None:
    fallen = drive(OPEN_STARTING, pending)
    relaunched = drive(fallen, ended(End.INFRASTRUCTURE), created, started)
    assert orders(fallen)[-1] == orders(relaunched)[-1]
    assert orders(drive(relaunched, passed(1), at=9000.0)) == ()


def test_with_no_measure_allowed_a_trip_only_alerts() -> None:
    observing = replace(POLICY, means=replace(POLICY.means, allowed=frozenset[Measure]()))
    state, commands = transition(CLOSED, tripped()(CLOSED, 1000.0), observing)
    assert (state.phase, state.generation) == (Phase.CLOSED, CLOSED.generation)
    assert [type(command) for command in commands] == [RaiseAlert]


def test_a_refused_resize_where_no_relaunch_is_allowed_leaves_the_pod_on_probation() -> None:
    resizing_only = replace(POLICY, means=replace(POLICY.means, allowed=frozenset({Measure.RESIZE})))
    state = drive(RESIZING, refused(Refusal.DEFERRED), policy=resizing_only)
    assert (state.phase, state.limit_bytes, state.target_bytes) == (Phase.HALF_OPEN, 4 * GIB, None)
    assert state.deadline_at == 1060.0


def locked_out() -> SlotState:
    return drive(CLOSED, ended(End.CONFIGURATION))


def test_a_reset_starts_afresh_under_the_limits_that_the_person_gives() -> None:
    event = ResetByHuman(generation=1, at=1.0, by="ada", limit_bytes=24 * GIB, cap_bytes=32 * GIB)
    state, commands = transition(locked_out(), event, POLICY)
    assert commands == (LaunchPod("r", 3, 2, 24 * GIB, one_at_a_time=False),)
    assert (state.cap_bytes, state.ceiling_bytes, state.reason) == (32 * GIB, 32 * GIB, "reset by ada")


def test_a_reset_above_the_cap_says_what_to_change() -> None:
    event = ResetByHuman(generation=1, at=1.0, by="ada", limit_bytes=24 * GIB)
    with pytest.raises(FixConfig, match="raise the cap"):
        transition(locked_out(), event, POLICY)


def test_a_reset_while_the_last_pod_still_drains_waits_for_its_end() -> None:
    alone = drive(at_ceiling_alone(), tripped(), ended(End.DRAINED), created, started, tripped())
    assert alone.phase is Phase.LOCKING_DRAINING
    state, commands = answer(alone, reset)
    assert (state.phase, state.pod_uid) == (Phase.OPEN_DRAINING, alone.pod_uid)
    assert isinstance(commands[0], DrainPod)
    assert isinstance(answer(state, ended(End.DRAINED))[1][0], LaunchPod)


def test_a_second_press_of_reset_changes_nothing() -> None:
    event = reset(locked_out(), 1.0)
    state, _ = transition(locked_out(), event, POLICY)
    assert transition(state, event, POLICY) == (state, ())


@pytest.mark.parametrize("late", [actuated, refused(Refusal.DEFERRED), resize_timed_out, tripped(), passed(9)])
def test_an_event_of_an_earlier_generation_never_acts_on_the_same_pod_again(late: Build) -> None:
    assert transition(DRAINING, late(RESIZING, 1.0), POLICY) == (DRAINING, ())


@pytest.mark.parametrize("late", [ended(End.MEMORY), ended(End.FINISHED), tripped(), drain_timed_out, started, pending])
def test_an_event_about_the_former_pod_never_acts_on_its_successor(late: Build) -> None:
    successor = drive(OPEN_STARTING, started)
    assert transition(successor, late(DRAINING, 1.0), POLICY) == (successor, ())


def test_the_end_of_a_pod_is_taken_though_a_resize_has_outdated_its_generation() -> None:
    end = ended(End.MEMORY)(CLOSED, 1.0)
    assert end.generation < HALF_OPEN.generation
    assert transition(HALF_OPEN, end, POLICY)[0].phase is Phase.OPEN_WAITING


def test_a_pod_is_ended_once_however_often_its_end_is_told() -> None:
    end = ended(End.MEMORY, acked=4)(CLOSED, 1.0)
    state, _ = transition(CLOSED, end, POLICY)
    assert transition(state, end, POLICY) == (state, ())


def test_a_pod_that_is_found_again_by_the_next_try_is_no_news() -> None:
    event = created(WAITING, 1.0)
    for state in (CLOSED, HALF_OPEN, DRAINING):
        assert transition(state, event, POLICY) == (state, ())


def test_a_pod_created_by_a_try_that_was_believed_dead_is_deleted_and_the_successor_left_alone() -> None:
    successor = drive(OPEN_STARTING, started)
    stray = PodCreated(generation=0, at=1.0, pod_uid="stray")
    assert transition(successor, stray, POLICY) == (successor, (DeletePod("r", 3, 0, "stray"),))


def test_an_event_ahead_of_the_store_is_refused() -> None:
    with pytest.raises(ContractMismatch, match=r"PodCreated\.generation: 1 is ahead"):
        transition(WAITING, PodCreated(generation=1, at=1.0, pod_uid="u"), POLICY)


def in_phase(phase: Phase) -> SlotState:
    pod_uid = None if phase in WITHOUT_POD else "pod-7"
    return SlotState(**(dict(WAITING) | {"phase": phase, "pod_uid": pod_uid, "generation": 7}))


@pytest.mark.parametrize(("phase", "event"), [pair for pair in product(Phase, get_args(Event)) if pair not in TABLE])
def test_a_pair_that_the_table_does_not_list_raises_with_both_names(phase: Phase, event: type[Event]) -> None:
    state = in_phase(phase)
    present = ONE_OF_EACH[event](state, 1.0)
    if state.pod_uid is None and hasattr(present, "pod_uid") and event is not PodCreated:
        # There is no pod that it could be about, so it is late by definition.
        assert transition(state, present, POLICY) == (state, ())
        return
    with pytest.raises(UnlistedTransition, match=f"{event.__name__} is not listed for a slot in {phase}"):
        transition(state, present, POLICY)


@pytest.mark.parametrize(
    ("state", "due"),
    [
        pytest.param(drive(WAITING, created), PodStayedPending, id="starting"),
        pytest.param(RESIZING, ResizeTimedOut, id="resizing"),
        pytest.param(DRAINING, DrainTimedOut, id="draining"),
        pytest.param(drive(DRAINING, drain_timed_out), DrainTimedOut, id="deleting"),
        pytest.param(OPEN_STARTING, PodStayedPending, id="starting under a remedy"),
        pytest.param(HALF_OPEN, ProbationPassed, id="on probation"),
    ],
)
def test_patience_ends_with_the_phases_own_event_and_not_before(state: SlotState, due: type[Event]) -> None:
    assert state.deadline_at is not None
    assert overdue(state, state.deadline_at - 0.1, 0) is None
    event = overdue(state, state.deadline_at, 0)
    assert type(event) is due
    transition(state, event, POLICY)


@pytest.mark.parametrize("state", [WAITING, CLOSED, drive(WAITING, finished), drive(CLOSED, ended(End.CONFIGURATION))])
def test_a_phase_without_a_deadline_is_never_overdue(state: SlotState) -> None:
    assert overdue(state, 1e12, 0) is None


def test_a_saved_state_calls_for_the_same_commands_when_it_is_read_again() -> None:
    for state in (WAITING, RESIZING, DRAINING, HALF_OPEN, drive(OPEN_STARTING, pending)):
        read = SlotState.from_json(state.to_json())
        assert read == state
        assert orders(read) == orders(state)


def test_the_drawing_in_the_docs_is_the_table() -> None:
    check = subprocess.run(
        [sys.executable, str(REPOSITORY / "docs/generate/breaker_diagram.py"), "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert check.returncode == 0, check.stdout + check.stderr
