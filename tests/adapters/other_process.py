"""What other processes do to a run store while a test looks on; imports little, for each process imports it anew."""

from __future__ import annotations

import os
from typing import Any

import sqlalchemy as sa
from tests.adapters.examples import attempt, moved, run, the_slot, trip

from tidegate.adapters.run_store import Conflict, JobTaken, RunState, RunStore, StoredTrip
from tidegate.core.baseline import BaselineKey, FinishedRun
from tidegate.core.contract import Suspect

KEY = BaselineKey(pipeline="moths", model_version="v1", job_kind="antenna")


def opened(url: str) -> int:
    store = RunStore.open(url)
    found = len(store.runs())
    store.close()
    return found


def count_up(url: str, times: int) -> None:
    """Raise the slot's generation `times` times against whoever else does."""
    store = RunStore.open(url)
    for _ in range(times):
        while True:
            before = the_slot(store)
            try:
                store.advance(before, moved(before.state, generation=before.state.generation + 1))
            except Conflict:
                continue
            break
    store.close()


def advance_and_die(url: str) -> None:
    """Die inside the transaction: the slot is written, the strike on the suspect is about to be."""
    store = RunStore.open(url)
    before = the_slot(store)

    def die(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.startswith("INSERT INTO tidegate_suspects"):
            os.kill(os.getpid(), 9)

    sa.event.listen(sa.Engine, "before_cursor_execute", die)
    store.advance(
        before,
        moved(before.state, reason="half"),
        attempt=attempt(before.state),
        trip=StoredTrip(trip(before.state), "resize", "why"),
        struck=[Suspect(image_id="image")],
    )


def entered(url: str, run_id: str) -> bool:
    store = RunStore.open(url)
    try:
        store.enter_run(run(run_id))
    except JobTaken:
        return False
    finally:
        store.close()
    return True


def taught(url: str, run_id: str) -> None:
    store = RunStore.open(url)
    lesson = FinishedRun(at=1_000_000.0, images=10, peak_bytes=1_000_000)
    store.end_run(run_id, RunState.DONE, 1_000_000.0, "{}", (KEY, lesson))
    store.close()
