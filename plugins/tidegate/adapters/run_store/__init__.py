"""The run store: what every run, slot, pod and trip has been; SQLAlchemy on SQLite or PostgreSQL, no decisions."""

from tidegate.adapters.run_store.records import Attempt, Run, RunState, StoredSlot, StoredTrip
from tidegate.adapters.run_store.store import Conflict, JobTaken, RunStore
from tidegate.adapters.run_store.totals import Totals

__all__ = ["Attempt", "Conflict", "JobTaken", "Run", "RunState", "RunStore", "StoredSlot", "StoredTrip", "Totals"]
