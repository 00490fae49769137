"""The breaker as a task beside the infer tasks: waits in the triggerer until every slot is over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from airflow.providers.common.compat.sdk import AirflowSkipException
from airflow.sdk import BaseSensorOperator, Context

from tidegate.adapters.configuration import configuration
from tidegate.control.runs import Request, open_store, planned
from tidegate.core.errors import NeedsHuman
from tidegate.failures import BySlotState
from tidegate.triggers.memory_breaker import MemoryBreakerTrigger

#: A triggerer that dies is Airflow's to replace; a try of this task costs nothing but its start.
RETRIES: Final = 100


class MemoryBreakerSensor(BaseSensorOperator):
    """Watches all slots of run `run_id` over Prometheus, trips, and applies the remedies.

    `infer_task_id` names the task, mapped over the slots, that launches the pods and records their ends.
    """

    template_fields: Sequence[str] = ("run_id",)
    ui_color = "#f3d9c4"

    def __init__(self, *, run_id: str, infer_task_id: str, **kwargs: Any) -> None:
        super().__init__(**{"retries": RETRIES, "retry_policy": BySlotState(), **kwargs})
        self.run_id = run_id
        self.infer_task_id = infer_task_id

    def execute(self, context: Context) -> None:
        run, _ = planned(open_store(configuration()).run(self.run_id), self.run_id)
        if Request.from_json(run.request).dry_run:
            raise AirflowSkipException("a dry run launches no pod, so there is nothing to watch")
        self.defer(trigger=MemoryBreakerTrigger(self.run_id, self.infer_task_id), method_name="over")

    def over(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """The watch has ended; fails where a slot was locked out, so that the grid shows it."""
        if event["locked_out"]:
            reasons = "; ".join(f"slot {slot}: {reason}" for slot, reason in event["locked_out"].items())
            raise NeedsHuman(f"run {event['run_id']} is locked out. {reasons}")
        if event["abandoned"]:
            slots = ", ".join(map(str, event["abandoned"]))
            raise NeedsHuman(
                f"no `{self.infer_task_id}` task of run {event['run_id']} is left to run, yet its slots {slots} are not"
                " done: it was marked, or failed, outside of the breaker. Their pods are told to end; Clear the group"
                " `inference` with what follows it, and the run goes on after its last answer"
            )
        return event
