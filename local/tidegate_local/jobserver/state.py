"""Everything that a running job server holds, put together once; no behaviour of its own."""

from __future__ import annotations

from dataclasses import dataclass

from tidegate_local.jobserver.database import Database
from tidegate_local.jobserver.faults import Faults
from tidegate_local.jobserver.leases import LeaseQueue
from tidegate_local.jobserver.lifecycle import Lifecycle
from tidegate_local.jobserver.registry import Registry
from tidegate_local.jobserver.results import Results
from tidegate_local.jobserver.settings import ServerSettings


@dataclass(frozen=True, slots=True)
class State:
    """The parts that handlers share."""

    settings: ServerSettings
    db: Database
    leases: LeaseQueue
    faults: Faults
    registry: Registry
    lifecycle: Lifecycle
    results: Results


def open_state(settings: ServerSettings) -> State:
    """The state of the server in `settings.workdir`, as its last run left it."""
    db = Database(settings.database_path)
    with db.transaction():
        if db.one("SELECT 1 FROM projects") is None:
            db.execute("INSERT INTO projects (name) VALUES ('Demo project')")
    leases, faults, registry = LeaseQueue(db), Faults(db), Registry(db)
    lifecycle = Lifecycle(db, leases, faults, settings.collect_seconds)
    return State(settings, db, leases, faults, registry, lifecycle, Results(db, leases, lifecycle, registry, faults))
