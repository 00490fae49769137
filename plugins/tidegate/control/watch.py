"""The breaker of one run at work: looks at all its slots again and again, and does what their states call for.

Each round reads the slots from the store, the pods from the cluster and the samples from Prometheus, one call each for
the whole run, and turns what it sees into events. A round that finds nothing new executes the orders of the saved
states that this watch has not yet executed: so a watch that starts in the middle of a drain goes on with it.

It never trips on what it does not see: without fresh samples a slot is left alone and, after a while, called blind.
Trouble with one slot leaves the others attended. How a pod ended is not seen here: the operator's `cleanup` tells. So
a run whose infer tasks are all over, marked so by a person for example, can move no further, and the watch ends too.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from tidegate.adapters.kube_pods import Gone, KubePods, LivePod, Stage
from tidegate.adapters.prometheus import MemoryReader, Origin, Reading
from tidegate.adapters.run_store import RunStore
from tidegate.control.steps import Control
from tidegate.core import detector
from tidegate.core.breaker import UnlistedTransition, orders, overdue
from tidegate.core.contract import Trip, TripCause
from tidegate.core.detector import Assessment, Detector
from tidegate.core.errors import FixConfig, RetryLater
from tidegate.core.slot import (
    TERMINAL,
    WATCHED,
    Command,
    DeletePod,
    DrainPod,
    Event,
    Phase,
    PodStarted,
    PodStayedPending,
    RaiseAlert,
    ResizeActuated,
    ResizePod,
    ResizeRefused,
    SlotState,
    Tripped,
)

log = logging.getLogger(__name__)

#: While a resize is under way its effect is looked for this often; memory is still read once an interval.
EAGER_SECONDS: Final = 0.5
#: Long enough to rebuild what a detector knew before the triggerer died.
REBUILD_SECONDS: Final = 900.0
#: A sample is told of by Prometheus some time after it was taken, by a managed one long after: what has been read is
#: asked for again this far back at most, and otherwise as far as the newest sample was late.
OVERLAP_SECONDS: Final = 30.0
#: Samples older than this many intervals decide nothing: scrapes fail, or two clocks differ.
FRESH_INTERVALS: Final = 3
BLIND_SECONDS: Final = 60.0
#: A kubelet that lives ends a pod when its grace is over. One that has not is lost with its node, and Kubernetes
#: would wait for it for ever; that it only could not be reached is left this much time to show.
LOST_NODE_SECONDS: Final = 300.0
#: How often it is asked whether any infer task is left, and how many times in a row the answer must be no: between two
#: tries of a task there may be an instant that looks like its end.
TASKS_SECONDS: Final = 20.0
TASKLESS_LOOKS: Final = 2
#: How often it is noted what was seen, for the alert that nobody watches: a small share of the alert's patience.
NOTE_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class Watched:
    """What stays the same for one run while it is watched."""

    run_id: str
    namespace: str
    pod_prefix: str
    selector: Mapping[str, str]
    sensitivity: detector.Policy
    foreseen: detector.Foreseen
    images_total: int | None
    interval_seconds: float


@dataclass(slots=True)
class _Eye:
    """What this watch knows of one live pod: derived from samples alone, so that it can be built again."""

    detector: Detector
    origin: Origin
    #: By the watch's clock, when its samples were fresh.
    saw_at: float
    last_sample_at: float = 0.0
    acked: int = 0
    told_blind: bool = False


async def _unasked() -> bool:
    return True


@dataclass(slots=True)
class Watch:
    watched: Watched
    store: RunStore
    control: Control
    pods: KubePods
    reader: MemoryReader
    clock: Callable[[], float]
    tell: Callable[[RaiseAlert], None]
    #: Whether any infer task of the run may still launch a pod or record the end of one.
    tasks_can_act: Callable[[], Awaitable[bool]] = _unasked
    _eyes: dict[str, _Eye] = field(default_factory=dict)
    _executed: set[Hashable] = field(default_factory=set)
    _memory_asked_at: float = float("-inf")
    _memory_read_at: float = float("-inf")
    _overlap_seconds: float = OVERLAP_SECONDS
    _remaining_seconds: float | None = None
    _tasks_asked_at: float = float("-inf")
    _taskless_looks: int = 0
    _noted_at: float = float("-inf")

    async def until_over(self) -> list[SlotState]:
        """Go round until every slot is terminal, or no task is left that could bring one there; their states then."""
        lost_at: float | None = None
        while True:
            began = self.clock()
            try:
                states = await self.round()
                lost_at = None
            except RetryLater as trouble:
                # A store or an API server that is away stops nothing: pods run on, and nothing is decided blindly.
                log.warning("breaker of %s: %s", self.watched.run_id, trouble)
                states = []
                lost_at = began if lost_at is None else lost_at
                if began - lost_at >= BLIND_SECONDS:
                    self.tell(RaiseAlert(self.watched.run_id, 0, 0, "TidegateBreakerLost", str(trouble)))
                    lost_at = math.inf
            if states and all(state.phase in TERMINAL for state in states):
                return states
            if states and await self._is_abandoned():
                await self._end_abandoned(states)
                return states
            is_eager = any(state.phase is Phase.OPEN_RESIZING for state in states)
            pause = EAGER_SECONDS if is_eager else self.watched.interval_seconds
            await asyncio.sleep(max(0.0, pause - (self.clock() - began)))

    async def round(self) -> list[SlotState]:
        """Look once at everything; the states as this round leaves them."""
        stored = await asyncio.to_thread(self.store.slots, self.watched.run_id)
        if not stored:
            raise FixConfig(f"run {self.watched.run_id} has no slots: its task `plan` must end first")
        states = [slot.state for slot in stored]
        live = await self.pods.live(self.watched.selector)
        fresh = await self._read_memory()
        self._forget_all_but({state.pod_uid for state in states})
        self._remaining_seconds = self._remaining(states)
        for index, state in enumerate(states):
            try:
                states[index] = await self._attend(state, live, fresh)
            except RetryLater as trouble:
                log.warning("run %s slot %s: %s", state.run_id, state.slot, trouble)
            except UnlistedTransition as trouble:
                # Another watch of this run, not yet stopped after this one took its place, has seen the same before.
                log.warning("run %s slot %s has moved on: %s", state.run_id, state.slot, trouble)
        await self._note_what_was_seen(states, live)
        return states

    async def _attend(self, state: SlotState, live: Mapping[str, LivePod], fresh: Mapping[str, Reading]) -> SlotState:
        pod = live.get(state.pod_uid or "")
        if pod is not None:
            self._look(state, pod, fresh.get(pod.name))
            await self._forget_if_lost(state, pod)
        event = self._seen(state, pod) or self._due(state, pod)
        commands = orders(state)
        while True:
            if event is not None:
                before = state.phase
                if isinstance(event, PodStarted) and pod is not None and pod.node:
                    await asyncio.to_thread(self.store.placed, pod.uid, pod.node)
                state, commands = await asyncio.to_thread(self.control.happened, state.run_id, state.slot, event)
                if state.phase is not before:
                    log.info("run %s slot %s: %s -> %s", state.run_id, state.slot, type(event).__name__, state.phase)
            # An order that is refused at once is an event of its own.
            event = await self._execute(commands, live)
            if event is None:
                return state

    async def _is_abandoned(self) -> bool:
        now = self.clock()
        if now - self._tasks_asked_at >= TASKS_SECONDS:
            self._tasks_asked_at = now
            self._taskless_looks = 0 if await self.tasks_can_act() else self._taskless_looks + 1
        return self._taskless_looks >= TASKLESS_LOOKS

    async def _end_abandoned(self, states: list[SlotState]) -> None:
        """Drain the pods that nobody waits for any more: the task's next try, if there is one, reads how they ended."""
        unfinished = [state for state in states if state.phase not in TERMINAL]
        try:
            live = await self.pods.live(self.watched.selector)
            for state in unfinished:
                pod = live.get(state.pod_uid or "")
                if pod is not None and pod.stage is not Stage.ENDED and not pod.is_leaving:
                    await self.pods.drain(pod.name, pod.uid)
        except RetryLater as trouble:
            log.warning("run %s is abandoned, and its pods may run on: %s", self.watched.run_id, trouble)

    # -- seeing --------------------------------------------------------------------------------------------------------

    async def _read_memory(self) -> dict[str, Reading]:
        now = self.clock()
        if now - self._memory_asked_at < self.watched.interval_seconds:
            return {}
        self._memory_asked_at = now
        # What was missed while nobody answered is read now; at first all that a new detector can use.
        window = min(REBUILD_SECONDS, now - self._memory_read_at + self._overlap_seconds)
        try:
            readings = await asyncio.to_thread(
                self.reader.read, self.watched.namespace, self.watched.pod_prefix, window
            )
        except (RetryLater, FixConfig) as trouble:
            # Also where credentials cannot be read: remedies under way go on without memory.
            log.warning("breaker of %s: %s", self.watched.run_id, trouble)
            return {}
        self._memory_read_at = now
        latest = max((now - reading.samples[-1].t_seconds for reading in readings.values()), default=OVERLAP_SECONDS)
        self._overlap_seconds = min(OVERLAP_SECONDS, max(0.0, latest) + self.watched.interval_seconds)
        return readings

    def _look(self, state: SlotState, pod: LivePod, reading: Reading | None) -> None:
        eye = self._eyes.get(pod.uid)
        if eye is None or (reading is not None and reading.origin is not eye.origin):
            # Two origins differ by what they count, and the step from one to the other would look like growth.
            origin = reading.origin if reading is not None else Origin.WORKER
            acked = eye.acked if eye is not None else 0
            eye = _Eye(Detector(self.watched.sensitivity, self._foreseen(state)), origin, self.clock(), acked=acked)
            self._eyes[pod.uid] = eye
        for sample in reading.samples if reading is not None else ():
            # A slot's pods bear one name, one after the other: what was measured before this one began is another's.
            if sample.t_seconds > max(eye.last_sample_at, pod.created_at + 1.0):
                eye.detector.observe(sample)
                eye.last_sample_at = sample.t_seconds
                eye.acked = max(eye.acked, int(sample.acked))
        self._tell_if_blind(state, pod, eye)

    def _foreseen(self, state: SlotState) -> detector.Foreseen:
        """The plan's word for this slot; one image at a time is slow by order, which is no sign of starving."""
        if not state.one_at_a_time:
            return self.watched.foreseen
        return replace(self.watched.foreseen, images_per_second=0.0)

    def _tell_if_blind(self, state: SlotState, pod: LivePod, eye: _Eye) -> None:
        now = self.clock()
        age = abs(now - eye.last_sample_at)
        if pod.stage is not Stage.RUNNING or age <= FRESH_INTERVALS * self.watched.interval_seconds:
            eye.saw_at, eye.told_blind = now, False
        elif not eye.told_blind and now - eye.saw_at >= BLIND_SECONDS:
            eye.told_blind = True
            newest = f"the newest is {age:.0f} s off this clock" if eye.last_sample_at else "there is none"
            summary = (
                f"no fresh memory samples of pod {pod.name} for {now - eye.saw_at:.0f} s ({newest}): the breaker cannot"
                " see it; its own gate still holds. Look at the scrape target, at Prometheus, and at both clocks"
            )
            self.tell(RaiseAlert(state.run_id, state.slot, state.generation, "TidegateBreakerBlind", summary))

    async def _note_what_was_seen(self, states: list[SlotState], live: Mapping[str, LivePod]) -> None:
        now = self.clock()
        if now - self._noted_at < NOTE_SECONDS:
            return
        self._noted_at = now
        seen = {}
        for state in states:
            eye = self._eyes.get(state.pod_uid or "") if state.pod_uid in live else None
            # A slot without a pod is seen as it is.
            seen[state.slot] = eye.saw_at if eye is not None else now
        try:
            await asyncio.to_thread(self.store.saw, self.watched.run_id, seen)
        except RetryLater as trouble:
            log.warning("breaker of %s: %s", self.watched.run_id, trouble)

    def _due(self, state: SlotState, pod: LivePod | None) -> Event | None:
        event = overdue(state, self.clock(), self._acked(state))
        if isinstance(event, PodStayedPending) and pod is not None and pod.is_placed:
            # A node pulls the image, which no smaller limit makes quicker; the operator's own time-out bounds that.
            return None
        return event

    def _seen(self, state: SlotState, pod: LivePod | None) -> Event | None:
        if pod is None or state.pod_uid is None:
            return None
        now = self.clock()
        if state.phase in (Phase.CLOSED_STARTING, Phase.OPEN_STARTING):
            if pod.stage is Stage.RUNNING:
                return PodStarted(generation=state.generation, at=now, pod_uid=pod.uid)
            return None
        if state.phase is Phase.OPEN_RESIZING:
            return self._resized(state, pod, now)
        if state.phase in WATCHED and pod.stage is Stage.RUNNING and not pod.is_leaving:
            return self._judged(state, pod, now)
        return None

    def _resized(self, state: SlotState, pod: LivePod, now: float) -> Event | None:
        if pod.actuated_limit_bytes is not None and pod.actuated_limit_bytes >= (state.target_bytes or 0):
            return ResizeActuated(generation=state.generation, at=now, pod_uid=pod.uid, pod_acked=self._acked(state))
        if pod.refusal is not None:
            return ResizeRefused(generation=state.generation, at=now, pod_uid=pod.uid, refusal=pod.refusal)
        return None

    def _judged(self, state: SlotState, pod: LivePod, now: float) -> Event | None:
        eye = self._eyes.get(pod.uid)
        if eye is None or eye.last_sample_at == 0.0:
            return None
        if state.trip is not None and state.trip.pod_uid == pod.uid:
            # Told by the saved state: whichever watch saw that trip, its remedy must have time to show.
            eye.detector.acted(state.trip.at)
        assessment = eye.detector.assess(now)
        if assessment.trip is None:
            return None
        trip = _trip(state, pod, assessment, assessment.trip, now)
        log.warning("run %s slot %s tripped: %s", state.run_id, state.slot, "; ".join(trip.evidence))
        return Tripped(trip=trip, pod_acked=eye.acked, remaining_seconds=self._remaining_seconds)

    def _remaining(self, states: list[SlotState]) -> float | None:
        """Work left for each slot that still works; the job's images are shared by all."""
        working = sum(state.phase not in TERMINAL for state in states)
        rate = self.watched.foreseen.images_per_second * working
        if self.watched.images_total is None or rate <= 0:
            return None
        acked = sum(state.acked_by_former_pods + self._acked(state) for state in states)
        return max(0.0, self.watched.images_total - acked) / rate

    def _acked(self, state: SlotState) -> int:
        eye = self._eyes.get(state.pod_uid or "")
        return max(state.pod_acked, eye.acked) if eye is not None else state.pod_acked

    def _forget_all_but(self, uids: set[str | None]) -> None:
        for uid in self._eyes.keys() - uids:
            del self._eyes[uid]

    # -- doing ---------------------------------------------------------------------------------------------------------

    async def _execute(self, commands: tuple[Command, ...], live: Mapping[str, LivePod]) -> Event | None:
        """Execute what this watch has not executed yet; the event that an order's own answer amounts to."""
        for command in commands:
            if isinstance(command, RaiseAlert):
                self._tell_once(command)
                continue
            if command in self._executed:
                continue
            try:
                event = await self._one(command, live)
            except Gone as gone:
                log.info("%s", gone)
                event = None
            # Only now: an order that raised is tried again in the next round.
            self._executed.add(command)
            if event is not None:
                return event
        return None

    async def _forget_if_lost(self, state: SlotState, pod: LivePod) -> None:
        """The slot can launch no other pod while this one stands in the books."""
        if pod.leaves_by is None or self.clock() < pod.leaves_by + LOST_NODE_SECONDS:
            return
        summary = (
            f"pod {pod.name} should have ended {self.clock() - pod.leaves_by:.0f} s ago: its node is lost, and the pod"
            " is struck from the cluster's books so that another can start. Look at the node before it comes back"
        )
        self._tell_once(RaiseAlert(state.run_id, state.slot, state.generation, "TidegateNodeLost", summary))
        await self.pods.forget(pod.name, pod.uid)

    def _tell_once(self, alert: RaiseAlert) -> None:
        key = (alert.slot, alert.generation, alert.name)
        if key not in self._executed:
            self._executed.add(key)
            self.tell(alert)

    async def _one(self, command: Command, live: Mapping[str, LivePod]) -> Event | None:
        match command:
            case ResizePod():
                pod = live.get(command.pod_uid)
                if pod is None:
                    return None
                refusal = await self.pods.resize(pod.name, pod.uid, command.limit_bytes)
                if refusal is not None:
                    return ResizeRefused(
                        generation=command.generation, at=self.clock(), pod_uid=pod.uid, refusal=refusal
                    )
            case DrainPod():
                if (pod := live.get(command.pod_uid)) is not None:
                    await self.pods.drain(pod.name, pod.uid)
            case DeletePod():
                if (pod := live.get(command.pod_uid)) is not None:
                    await self.pods.delete(pod.name, pod.uid)
            case _:
                # LaunchPod and LockOut are the infer task's.
                pass
        return None


def _trip(state: SlotState, pod: LivePod, found: Assessment, cause: TripCause, now: float) -> Trip:
    return Trip(
        run_id=state.run_id,
        slot=state.slot,
        generation=state.generation,
        pod_uid=pod.uid,
        at=now,
        cause=cause,
        character=found.character,
        limit_bytes=max(1, found.limit_bytes),
        nonreclaimable_bytes=found.nonreclaimable_bytes,
        peak_bytes=found.peak_bytes,
        wanted_bytes=found.wanted_bytes,
        ratio=found.ratio,
        velocity_bytes_per_second=found.velocity_bytes_per_second,
        limit_in_seconds=found.limit_in_seconds,
        projected_bytes=found.projected_bytes,
        evidence=found.evidence,
    )
