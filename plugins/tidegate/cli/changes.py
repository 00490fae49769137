"""What the commands that change something do, and what they then find, as values that JSON can hold."""

from __future__ import annotations

import time
from typing import Any, Final

from tidegate.adapters.configuration import Configuration
from tidegate.adapters.run_store import RunStore
from tidegate.control import record
from tidegate.control.runs import planned, policy
from tidegate.control.steps import Control
from tidegate.core.errors import FixConfig
from tidegate.core.slot import Phase, ResetByHuman

_LOCKED: Final = frozenset({Phase.LOCKED_OUT, Phase.LOCKING_DRAINING, Phase.LOCKING_DELETING})


def reset(
    store: RunStore,
    settings: Configuration,
    run_id: str,
    *,
    slot: int | None,
    cap: int | None,
    limit: int | None,
    by: str,
) -> dict[str, Any]:
    """Record a person's decision to go on; safe to repeat."""
    if cap is not None and cap > settings.cap_bytes:
        raise FixConfig(
            f"a cap of {cap} bytes is above the administrator's {settings.cap_bytes}: raise TIDEGATE_CAP_BYTES first"
        )
    run, plan = planned(record.found(store, run_id), run_id)
    states = [each.state for each in store.slots(run.run_id)]
    chosen = [state for state in states if state.slot == slot or (slot is None and state.phase in _LOCKED)]
    if not chosen:
        phases = ", ".join(f"slot {state.slot} is {state.phase}" for state in states)
        raise FixConfig(f"nothing to reset in {run.run_id}: {phases}. A finished slot is started again with --slot")
    for state in chosen:
        if state.phase not in _LOCKED | {Phase.DONE}:
            raise FixConfig(f"slot {state.slot} of {run.run_id} is {state.phase}: it goes on by itself")
        if limit is not None and limit > (cap or state.cap_bytes):
            raise FixConfig(
                f"a limit of {limit} bytes is above the cap of slot {state.slot}: raise the cap with the limit"
            )
    # Refused where another run has taken the job in the meantime.
    store.enter_run(run)
    control = Control(store, policy(run, plan, settings))
    after = []
    for state in chosen:
        event = ResetByHuman(generation=state.generation, at=time.time(), by=by, limit_bytes=limit, cap_bytes=cap)
        after.append(control.happened(run.run_id, state.slot, event)[0])
    return {"run": record.of_run(run), "slots": [record.of_slot(state) for state in after]}


def upgraded(store: RunStore) -> dict[str, Any]:
    # Opening it has brought it up to date.
    return {"address": store.address, "schema": store.schema}
