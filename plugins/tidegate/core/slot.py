"""The vocabulary of one slot: what is stored of it, what can happen to it, what can be ordered for it; no behaviour.

A slot is one mapped pod index of a run; it has at most one live pod. `breaker` turns (state, event) into (state,
commands). Events are in the past tense and carry their own time; commands are imperative and name their target by
generation and pod UID.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from pydantic import model_validator

from tidegate.core.contract import Count, Name, Part, Payload, Plan, PositiveBytes, Seconds, Trip, UnixSeconds
from tidegate.core.remedy import RemedyKind


class Phase(StrEnum):
    """The breaker's states; waiting means no pod, starting means a pod that does not run yet."""

    CLOSED_WAITING = "closed_waiting"
    CLOSED_STARTING = "closed_starting"
    CLOSED = "closed"
    OPEN_RESIZING = "open_resizing"
    OPEN_DRAINING = "open_draining"
    OPEN_DELETING = "open_deleting"
    OPEN_WAITING = "open_waiting"
    OPEN_STARTING = "open_starting"
    HALF_OPEN = "half_open"
    LOCKING_DRAINING = "locking_draining"
    LOCKING_DELETING = "locking_deleting"
    LOCKED_OUT = "locked_out"
    DONE = "done"


#: The breaker's trigger ends when every slot is in one of these.
TERMINAL: Final = frozenset({Phase.LOCKED_OUT, Phase.DONE})
#: Only here does the detector look: elsewhere a remedy is under way, or there is nothing to look at.
WATCHED: Final = frozenset({Phase.CLOSED, Phase.HALF_OPEN})
WITHOUT_POD: Final = frozenset({Phase.CLOSED_WAITING, Phase.OPEN_WAITING, *TERMINAL})


class End(StrEnum):
    """How a pod ended, as the operator's `cleanup` judged it from reason, exit code and last report."""

    FINISHED = "finished"
    DRAINED = "drained"
    #: Killed for its own limit, whatever the exit code says.
    MEMORY = "memory"
    #: 134, 139 or an exit code that the worker does not use: a decoder or the worker itself.
    CRASHED = "crashed"
    #: Evicted, node lost, deleted by others, never started.
    INFRASTRUCTURE = "infrastructure"
    UPSTREAM_UNAVAILABLE = "upstream_unavailable"
    FAILURE_BUDGET_SPENT = "failure_budget_spent"
    CONFIGURATION = "configuration"


class Alert(Part):
    """A trouble that stands until the breaker closes; `generation` dates it, so that it is told once."""

    name: Name
    generation: Count
    summary: str


class SlotState(Payload):
    """All that is known of a slot. It is saved before its commands are executed, and they can be read off it again."""

    run_id: Name
    slot: Count
    phase: Phase
    #: Rises with every pod and every remedy.
    generation: Count
    #: Limit of the live pod, or of the next where there is none.
    limit_bytes: PositiveBytes
    #: Limit that the remedy under way is bringing.
    target_bytes: PositiveBytes | None = None
    cap_bytes: PositiveBytes
    #: The cap, or the last schedulable limit once the cluster has failed to place more.
    ceiling_bytes: PositiveBytes
    last_schedulable_limit_bytes: PositiveBytes
    one_at_a_time: bool = False
    pod_uid: Name | None = None
    #: When the phase's patience ends; None where it has none.
    deadline_at: UnixSeconds | None = None
    remedy: RemedyKind | None = None
    #: Remedies that had their chance since the last new ack.
    remedies_without_ack: Count = 0
    acked_by_former_pods: Count = 0
    pod_acked: Count = 0
    #: Acks of the slot when the last remedy began its probation.
    acked_at_probation: Count = 0
    memory_ends: Count = 0
    crash_ends: Count = 0
    infrastructure_ends: Count = 0
    #: When a person last reset it: what it stood still before was theirs to end.
    reset_at: UnixSeconds | None = None
    #: Evidence that the present remedy answers.
    trip: Trip | None = None
    #: The last decision in words.
    reason: str = ""
    alert: Alert | None = None

    @classmethod
    def first(cls, plan: Plan, slot: int) -> Self:
        """A slot of a run that has not launched a pod."""
        return cls(
            run_id=plan.run_id,
            slot=slot,
            phase=Phase.CLOSED_WAITING,
            generation=0,
            limit_bytes=plan.limit_bytes,
            cap_bytes=plan.cap_bytes,
            ceiling_bytes=plan.cap_bytes,
            last_schedulable_limit_bytes=plan.limit_bytes,
        )

    @property
    def acked(self) -> int:
        return self.acked_by_former_pods + self.pod_acked

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if self.ceiling_bytes > self.cap_bytes:
            raise ValueError("ceiling_bytes is above cap_bytes")
        if max(self.limit_bytes, self.target_bytes or 0) > self.cap_bytes:
            raise ValueError("limit_bytes or target_bytes is above cap_bytes")
        if (self.pod_uid is None) != (self.phase in WITHOUT_POD):
            raise ValueError(f"pod_uid {self.pod_uid!r} does not fit phase {self.phase}")
        return self


class _Happened(Part):
    generation: Count
    at: UnixSeconds


class _HappenedToPod(_Happened):
    pod_uid: Name


class PodCreated(_HappenedToPod):
    """The operator created the pod of this generation, or found that an earlier try had."""


class LaunchRefused(_Happened):
    """The API server would not create the pod: a quota, a limit range, an admission policy."""

    reason: str


class PodStarted(_HappenedToPod):
    """The pod's container runs."""


class PodStayedPending(_HappenedToPod):
    """The pod was not placed within the policy's `pending_seconds`."""


class PodEnded(_HappenedToPod):
    """The pod is gone for good; only the operator's `cleanup` says so.

    It is matched by UID alone: a resize in place has outdated the generation that the pod was launched with.
    """

    end: End
    #: Acked by this pod in all.
    pod_acked: Count
    images_in_flight: Count = 0
    #: The evidence of a memory end.
    trip: Trip | None = None
    detail: str = ""

    @model_validator(mode="after")
    def _memory_brings_evidence(self) -> Self:
        if self.end is End.MEMORY and self.trip is None:
            raise ValueError("a memory end needs its trip")
        return self


class Tripped(Part):
    """The detector tripped on the live pod."""

    trip: Trip
    #: Acked by this pod so far.
    pod_acked: Count
    images_in_flight: Count = 0
    remaining_seconds: Seconds | None = None

    @property
    def generation(self) -> int:
        return self.trip.generation

    @property
    def pod_uid(self) -> str:
        return self.trip.pod_uid

    @property
    def at(self) -> float:
        return self.trip.at


class ResizeActuated(_HappenedToPod):
    """The container's status shows the new limit."""

    pod_acked: Count


class Refusal(StrEnum):
    DEFERRED = "deferred"
    INFEASIBLE = "infeasible"


class ResizeRefused(_HappenedToPod):
    """The kubelet or the API server answered the resize with no."""

    refusal: Refusal


class ResizeTimedOut(_HappenedToPod):
    """The resize was neither actuated nor refused within the policy's `resize_seconds`."""


class DrainTimedOut(_HappenedToPod):
    """The pod that was to end is still there after the policy's `drain_seconds`."""


class ProbationPassed(_HappenedToPod):
    """The probation's time is over; the breaker closes only if acks have advanced."""

    pod_acked: Count


class SlotFinished(_Happened):
    """The source says that nothing is left, so no further pod is due."""


class ResetByHuman(_Happened):
    """A person has looked and lets the slot go on, perhaps under other limits."""

    by: Name
    limit_bytes: PositiveBytes | None = None
    cap_bytes: PositiveBytes | None = None


Event = (
    PodCreated
    | LaunchRefused
    | PodStarted
    | PodStayedPending
    | PodEnded
    | Tripped
    | ResizeActuated
    | ResizeRefused
    | ResizeTimedOut
    | DrainTimedOut
    | ProbationPassed
    | SlotFinished
    | ResetByHuman
)


@dataclass(frozen=True, slots=True)
class LaunchPod:
    """For the next try of the infer task: no pod of the slot lives, start this one unless it is there already."""

    run_id: str
    slot: int
    generation: int
    limit_bytes: int
    one_at_a_time: bool


@dataclass(frozen=True, slots=True)
class ResizePod:
    """Raise request and limit in place; `pod_uid` is the patch's precondition."""

    run_id: str
    slot: int
    generation: int
    pod_uid: str
    limit_bytes: int


@dataclass(frozen=True, slots=True)
class DrainPod:
    """End the pod gracefully, keeping exit code and last report; `pod_uid` is the patch's precondition."""

    run_id: str
    slot: int
    generation: int
    pod_uid: str


@dataclass(frozen=True, slots=True)
class DeletePod:
    """Delete the pod with its grace; `pod_uid` is the deletion's precondition. A pod that is gone is a success."""

    run_id: str
    slot: int
    generation: int
    pod_uid: str


@dataclass(frozen=True, slots=True)
class LockOut:
    """Fail the slot's task without retry and tell a person; the reason says what was tried and what to do."""

    run_id: str
    slot: int
    generation: int
    reason: str
    trip: Trip | None


@dataclass(frozen=True, slots=True)
class RaiseAlert:
    """Tell a person, once for each (run_id, slot, generation, name)."""

    run_id: str
    slot: int
    generation: int
    name: str
    summary: str


Command = LaunchPod | ResizePod | DrainPod | DeletePod | LockOut | RaiseAlert
