"""The one way in which a slot changes: event -> transition -> save -> commands; executing them is the caller's.

Whoever saw something calls `happened`: the operators for pods that were created or ended, the breaker's trigger for all
else. The new state is saved before a command is returned, and `orders` reads the same commands off the saved state
again, so that a caller that dies between saving and executing is replaced by one that executes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tidegate.adapters.run_store import Attempt, Conflict, RunStore, StoredTrip
from tidegate.core.answers import Policy
from tidegate.core.breaker import transition
from tidegate.core.contract import Suspect
from tidegate.core.errors import FixConfig
from tidegate.core.remedy import RemedyKind
from tidegate.core.slot import Command, Event, SlotState

#: Writers of one slot are two at most, the operator and the trigger; more conflicts in a row are no coincidence.
ATTEMPTS: Final = 10


@dataclass(frozen=True, slots=True)
class Notes:
    """What is stored with a step, in its transaction."""

    attempt: Attempt | None = None
    struck: Sequence[Suspect] = ()
    cleared: Sequence[str] = ()


class Control:
    def __init__(self, store: RunStore, policy: Policy) -> None:
        self._store = store
        self._policy = policy

    def happened(
        self, run_id: str, slot: int, event: Event, notes: Notes = Notes()
    ) -> tuple[SlotState, tuple[Command, ...]]:
        """Take `event` in: the slot's state after it, already saved, and the commands it calls for."""
        for _ in range(ATTEMPTS):
            before = self._store.slot(run_id, slot)
            if before is None:
                raise FixConfig(f"run {run_id} has no slot {slot}: it was never planned, or another store is in use")
            after, commands = transition(before.state, event, self._policy)
            if after == before.state and notes == Notes():
                return after, commands
            try:
                self._store.advance(
                    before,
                    after,
                    attempt=notes.attempt,
                    trip=_answered(before.state, after),
                    struck=notes.struck,
                    cleared=notes.cleared,
                )
            except Conflict:
                continue
            return after, commands
        raise Conflict(f"slot {slot} of {run_id} changed {ATTEMPTS} times while one event was taken in")


def _answered(before: SlotState, after: SlotState) -> StoredTrip | None:
    """The trip that this step answered; again where its answer has changed, as when a resize was refused."""
    if after.trip is None or (after.trip, after.remedy, after.reason) == (before.trip, before.remedy, before.reason):
        return None
    return StoredTrip(after.trip, after.remedy or RemedyKind.HOLD, after.reason)
