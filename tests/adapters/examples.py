"""Valid records to begin a test from: a run, its plan, a slot, a trip; each test changes what it is about."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tidegate.adapters.run_store import Attempt, Run, RunStore, StoredSlot
from tidegate.core.contract import GIB, MIB, Character, IngestSettings, Plan, Source, SourceKind, Trip, TripCause
from tidegate.core.slot import SlotState

SOURCE = Source(kind=SourceKind.ANTENNA, uri="http://127.0.0.1:1/api/v2", job="7")
RUN_ID = "tidegate_batch_inference/manual__1"


def plan(run_id: str = RUN_ID, **changes: Any) -> Plan:
    return Plan(
        **{
            "run_id": run_id,
            "pipeline": "moths",
            "model_version": "v1",
            "limit_bytes": 2 * GIB,
            "cap_bytes": 8 * GIB,
            "floor_bytes": 512 * MIB,
            "lower_bytes": 512 * MIB,
            "target_bytes": GIB,
            "upper_bytes": GIB,
            "ingest": IngestSettings(
                budget_bytes=512 * MIB,
                micro_batch_images=4,
                downloads_in_flight=4,
                staged_images=16,
                staging_bytes=GIB,
                decode_threads=2,
                lease_images=16,
            ),
            "grace_seconds": 60.0,
            "startup_seconds": 300.0,
            "images_per_second": 2.0,
            "images_total": 100,
            "evidence": "probe",
            **changes,
        }
    )


def run(run_id: str = RUN_ID, **changes: Any) -> Run:
    return Run(
        **{
            "run_id": run_id,
            "dag_run_id": run_id.rpartition("/")[2],
            "source": SOURCE,
            "pipeline": "moths",
            "model_version": "unknown",
            "slots": 1,
            "request": "{}",
            "created_at": 1_000_000.0,
            **changes,
        }
    )


def planned(store: RunStore, run_id: str = RUN_ID, slots: int = 1, **changes: Any) -> Plan:
    """A run in `store` with its plan and the first state of each slot."""
    made = plan(run_id, **changes)
    store.enter_run(run(run_id, slots=slots))
    store.save_plan(run_id, made, [SlotState.first(made, slot) for slot in range(slots)])
    return made


def trip(state: SlotState, **changes: Any) -> Trip:
    return Trip(
        **{
            "run_id": state.run_id,
            "slot": state.slot,
            "generation": state.generation,
            "pod_uid": state.pod_uid or "uid",
            "at": 1_000_100.0,
            "cause": TripCause.VELOCITY,
            "character": Character.LOAD,
            "limit_bytes": state.limit_bytes,
            "nonreclaimable_bytes": int(0.9 * state.limit_bytes),
            "peak_bytes": int(0.9 * state.limit_bytes),
            "ratio": 0.9,
            "velocity_bytes_per_second": 10e6,
            "evidence": ("it grows",),
            **changes,
        }
    )


def attempt(state: SlotState, **changes: Any) -> Attempt:
    made = Attempt(state.run_id, state.slot, state.generation, "pod-0", "uid-1", state.limit_bytes, 1_000_010.0)
    return replace(made, **changes)


def moved(state: SlotState, **changes: Any) -> SlotState:
    return SlotState(**(dict(state) | changes))


def the_slot(store: RunStore, slot: int = 0) -> StoredSlot:
    found = store.slot(RUN_ID, slot)
    assert found is not None
    return found
