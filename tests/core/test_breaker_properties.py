"""What holds for the breaker whatever happens: random histories against a model cluster, and the table as a graph."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tidegate.core.answers import Answer, Policy, decide
from tidegate.core.breaker import TABLE, orders, transition
from tidegate.core.contract import GIB, Character, Trip, TripCause
from tidegate.core.remedy import Means, Measure
from tidegate.core.slot import (
    TERMINAL,
    WITHOUT_POD,
    Command,
    DeletePod,
    DrainPod,
    End,
    Event,
    LaunchPod,
    LockOut,
    Phase,
    PodCreated,
    PodEnded,
    PodStarted,
    ProbationPassed,
    RaiseAlert,
    Refusal,
    ResetByHuman,
    ResizeActuated,
    ResizePod,
    SlotState,
    Tripped,
)

FIRST = SlotState(
    run_id="r",
    slot=0,
    phase=Phase.CLOSED_WAITING,
    generation=0,
    limit_bytes=4 * GIB,
    cap_bytes=10 * GIB,
    ceiling_bytes=10 * GIB,
    last_schedulable_limit_bytes=4 * GIB,
)
#: One remedy without an ack away from the end of the ladder.
LAST_RUNG = SlotState(
    **(
        dict(FIRST)
        | {
            "phase": Phase.OPEN_WAITING,
            "limit_bytes": FIRST.cap_bytes,
            "last_schedulable_limit_bytes": FIRST.cap_bytes,
            "one_at_a_time": True,
            "remedies_without_ack": 1,
        }
    )
)
MEANS = Means(can_resize=True, restart_seconds=60.0, floor_bytes=GIB)
#: Small budgets, so that short histories spend them.
POLICY = Policy(MEANS, drain_seconds=90.0, memory_ends=4, crash_ends=3, infrastructure_ends=3)
RESIZE_ONLY = Policy(
    Means(can_resize=True, restart_seconds=60.0, floor_bytes=GIB, allowed=frozenset({Measure.RESIZE})),
    drain_seconds=90.0,
)


@dataclass
class Pod:
    generation: int
    limit_bytes: int
    one_at_a_time: bool
    alive: bool = True
    told_to_end: bool = False


@dataclass
class Cluster:
    """What the commands do to the world: pods by UID, as the API server would keep them."""

    pods: dict[str, Pod] = field(default_factory=dict)
    alerts: set[tuple[int, str]] = field(default_factory=set)
    locked_out: set[int] = field(default_factory=set)

    def execute(self, command: Command) -> None:
        match command:
            case LaunchPod():
                uid = f"pod-{command.generation}"
                if uid not in self.pods:
                    assert not self.live(), "a pod is launched beside a live one"
                    self.pods[uid] = Pod(command.generation, command.limit_bytes, command.one_at_a_time)
            case ResizePod():
                if command.pod_uid in self.live():
                    self.pods[command.pod_uid].limit_bytes = command.limit_bytes
            case DrainPod() | DeletePod():
                if command.pod_uid in self.live():
                    self.pods[command.pod_uid].told_to_end = True
            case RaiseAlert():
                self.alerts.add((command.generation, command.name))
            case LockOut():
                self.locked_out.add(command.generation)

    def live(self) -> list[str]:
        return [uid for uid, pod in self.pods.items() if pod.alive]


def event_for(state: SlotState, event: type[Event], pick: Callable[[list[int]], int], at: float) -> Event:
    """An event of this type that fits the state, its free facts picked by `pick`."""
    pod_uid = state.pod_uid or f"pod-{state.generation}"
    end = list(End)[pick(list(range(len(End))))]
    trip = Trip(
        run_id="r",
        slot=0,
        generation=state.generation,
        pod_uid=pod_uid,
        at=at,
        cause=TripCause.OOM if event is PodEnded else [TripCause.VELOCITY, TripCause.STARVED][pick([0, 1])],
        character=list(Character)[pick([0, 1, 2])],
        limit_bytes=pick([state.limit_bytes, state.target_bytes or state.limit_bytes]),
        nonreclaimable_bytes=state.limit_bytes * 3 // 4,
        peak_bytes=pick([state.limit_bytes // 2, state.limit_bytes]),
        wanted_bytes=pick([0, 0, 7 * GIB]),
        ratio=0.75,
        velocity_bytes_per_second=float(pick([-1, 1, 10_000_000])),
    )
    # Each event takes the facts it knows; the rest are no fields of it.
    facts = {
        "generation": state.generation,
        "at": at + pick([0, 100_000]),
        "pod_uid": pod_uid,
        "pod_acked": state.pod_acked + pick([0, 0, 1, 7]),
        "end": end,
        "trip": trip if event is Tripped or end is End.MEMORY else None,
        "refusal": list(Refusal)[pick([0, 1])],
        "reason": "exceeded quota",
        "by": "ada",
        "cap_bytes": pick([6, 10, 12]) * GIB,
    }
    return event.model_validate(facts)


class AnyHistory(RuleBasedStateMachine):
    """Listed events in any order, each command executed, some of them twice, some events told twice."""

    def __init__(self) -> None:
        super().__init__()
        self.state = FIRST
        self.cluster = Cluster()
        self.at = 0.0
        self.falls = 0
        self.told: list[Event] = []
        self.saved: list[Command] = []

    @initialize(first=st.sampled_from((FIRST, LAST_RUNG)))
    def begin(self, first: SlotState) -> None:
        self.state = first
        self.saved = list(orders(first))

    def _pick(self, data: st.DataObject) -> Callable[[list[int]], int]:
        return lambda choices: data.draw(st.sampled_from(choices))

    @rule(data=st.data())
    def something_happens(self, data: st.DataObject) -> None:
        # A try accounts for a pod that it finds before it asks anybody anything.
        is_unrecorded = self.state.pod_uid is None and bool(self.cluster.live())
        listed = [event for (phase, event) in TABLE if phase is self.state.phase]
        kind = PodCreated if is_unrecorded else data.draw(st.sampled_from(listed))
        self.at += 1.0
        event = event_for(self.state, kind, self._pick(data), self.at)
        if isinstance(event, PodCreated):
            # The try of `infer` launches what the state calls for, and tells what it launched.
            for command in orders(self.state):
                self.cluster.execute(command)
        if isinstance(event, PodEnded) and event.pod_uid in self.cluster.pods:
            self.cluster.pods[event.pod_uid].alive = False
        self._take(event)

    def _take(self, event: Event) -> None:
        before = self.state
        self.state, commands = transition(before, event, POLICY)
        self.told.append(event)
        self.saved += commands
        for command in commands:
            if not isinstance(command, LaunchPod):
                self.cluster.execute(command)
        if isinstance(event, ResetByHuman):
            self.falls = 0
        elif self.state.limit_bytes < before.limit_bytes:
            self.falls += 1
            assert self.state.one_at_a_time, "a fall goes with one image at a time"
            assert self.state.alert is not None, "a fall is told"

    @precondition(lambda self: self.told)
    @rule(data=st.data())
    def an_old_event_is_told_again(self, data: st.DataObject) -> None:
        event = data.draw(st.sampled_from(self.told))
        own_pod = getattr(event, "pod_uid", self.state.pod_uid) == self.state.pod_uid
        if event.generation == self.state.generation and own_pod:
            return
        if isinstance(event, PodEnded) and own_pod:
            return
        after, commands = transition(self.state, event, POLICY)
        assert after == self.state
        assert all(isinstance(command, DeletePod) for command in commands)
        assert self.state.pod_uid not in {command.pod_uid for command in commands if isinstance(command, DeletePod)}

    @precondition(lambda self: self.saved)
    @rule(data=st.data())
    def an_old_command_is_executed_again(self, data: st.DataObject) -> None:
        command = data.draw(st.sampled_from(self.saved))
        if isinstance(command, LaunchPod) and command.generation != self.state.generation:
            # A try asks the state before it launches; a superseded order is never read off it.
            return
        if isinstance(command, LaunchPod) and self.state.phase not in (Phase.CLOSED_WAITING, Phase.OPEN_WAITING):
            return
        self.cluster.execute(command)
        once = copy.deepcopy(self.cluster)
        self.cluster.execute(command)
        assert self.cluster == once

    @invariant()
    def executing_what_the_state_calls_for_again_changes_nothing(self) -> None:
        again = copy.deepcopy(self.cluster)
        for command in orders(self.state):
            if not isinstance(command, LaunchPod):
                again.execute(command)
        assert again == self.cluster

    @invariant()
    def at_most_one_pod_lives_and_the_state_knows_it(self) -> None:
        live = self.cluster.live()
        assert len(live) <= 1
        if self.state.pod_uid is not None:
            assert live == [self.state.pod_uid]
        if self.state.phase in TERMINAL:
            assert not live

    @invariant()
    def a_pod_that_was_not_told_to_end_is_in_no_leaving_phase(self) -> None:
        leaving = {Phase.OPEN_DRAINING, Phase.OPEN_DELETING, Phase.LOCKING_DRAINING, Phase.LOCKING_DELETING}
        for uid in self.cluster.live():
            if uid == self.state.pod_uid:
                assert self.cluster.pods[uid].told_to_end == (self.state.phase in leaving)

    @invariant()
    def the_limit_stays_under_the_cap_and_falls_at_most_once(self) -> None:
        assert self.state.limit_bytes <= self.state.cap_bytes
        assert self.falls <= 1

    @invariant()
    def the_state_survives_being_stored(self) -> None:
        assert SlotState.from_json(self.state.to_json()) == self.state

    @invariant()
    def from_here_the_slot_comes_to_rest(self) -> None:
        state = self.state
        for _ in range(8):
            if state.phase is Phase.CLOSED or state.phase in TERMINAL:
                return
            state, _ = transition(state, towards_rest(state), POLICY)
        pytest.fail(f"no rest from {self.state.phase}: stuck in {state.phase}")


def towards_rest(state: SlotState) -> Event:
    """What happens next on a healthy cluster."""
    at, generation, acked = (state.deadline_at or 0.0) + 1.0, state.generation, state.pod_acked
    uid = state.pod_uid or f"pod-{generation}"
    match state.phase:
        case Phase.CLOSED_WAITING | Phase.OPEN_WAITING:
            return PodCreated(generation=generation, at=at, pod_uid=uid)
        case Phase.CLOSED_STARTING | Phase.OPEN_STARTING:
            return PodStarted(generation=generation, at=at, pod_uid=uid)
        case Phase.OPEN_RESIZING:
            return ResizeActuated(generation=generation, at=at, pod_uid=uid, pod_acked=acked)
        case Phase.HALF_OPEN:
            return ProbationPassed(generation=generation, at=at, pod_uid=uid, pod_acked=acked + 1)
        case _:
            return PodEnded(generation=generation, at=at, pod_uid=uid, end=End.DRAINED, pod_acked=acked)


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def reachable(start: Phase) -> set[Phase]:
    seen, frontier = {start}, [start]
    while frontier:
        here = frontier.pop()
        for (phase, _), row in TABLE.items():
            if phase is here:
                new = set(row.values()) - seen
                seen |= new
                frontier += new
    return seen


def test_every_phase_can_be_reached_from_the_first() -> None:
    assert reachable(Phase.CLOSED_WAITING) == set(Phase)


@pytest.mark.parametrize("phase", Phase)
def test_from_every_phase_the_table_leads_to_closed_to_locked_out_and_to_done(phase: Phase) -> None:
    assert reachable(phase) >= {Phase.CLOSED, Phase.LOCKED_OUT, Phase.DONE}


def test_a_pod_is_awaited_only_where_no_pod_lives_and_its_end_is_listed_wherever_one_does() -> None:
    for phase in Phase:
        assert ((phase, PodCreated) in TABLE) == (phase in WITHOUT_POD - TERMINAL)
        assert ((phase, PodEnded) in TABLE) == (phase not in WITHOUT_POD)


def test_only_a_person_leads_out_of_a_terminal_phase() -> None:
    assert {event for (phase, event) in TABLE if phase in TERMINAL} == {ResetByHuman}


def test_no_row_of_the_table_is_dead() -> None:
    """Walks with a fixed seed take every answer of every row: freely, only resizing, and at the end of the ladder."""
    dice = random.Random(7)
    taken: set[tuple[Phase, type[Event], Answer]] = set()
    routes = ((FIRST, POLICY, 100, 30), (FIRST, RESIZE_ONLY, 30, 30), (LAST_RUNG, POLICY, 1500, 6))
    for first, policy, walks, steps in routes:
        for _ in range(walks):
            state = first
            for step in range(steps):
                kind = dice.choice([event for (phase, event) in TABLE if phase is state.phase])
                event = event_for(state, kind, dice.choice, float(step))
                taken.add((state.phase, kind, decide(state, event, policy).answer))
                state, _ = transition(state, event, policy)
    listed = {(phase, event, answer) for (phase, event), row in TABLE.items() for answer in row}
    assert listed - taken == set()
