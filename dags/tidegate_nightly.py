"""Wiring of the nightly schedule: find the open jobs, start one guarded run each, name those that have to wait."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import dag, get_current_context, task
from airflow.timetables.trigger import CronTriggerTimetable

from tidegate.adapters.configuration import configuration
from tidegate.control import nightly
from tidegate.failures import BySlotState

settings = configuration()
WAITING = "waiting"

DOC = """
Starts `tidegate_batch_inference` once for each open Antenna job and each manifest of `TIDEGATE_NIGHTLY_MANIFESTS`.
A job that runs already is skipped; one whose last run was locked out is resumed. A red `tell_waiting` names the jobs
for which there was no room (`TIDEGATE_NIGHTLY_RUNS`): upstream fails a job that lands no result for ten minutes.
"""


@dag(
    dag_id="tidegate_nightly",
    schedule=CronTriggerTimetable(settings.nightly_schedule, timezone=settings.nightly_timezone),
    start_date=datetime(2026, 1, 1, tzinfo=ZoneInfo(settings.nightly_timezone)),
    catchup=False,
    max_active_runs=1,
    # A new installation starts its first night when a person says so.
    is_paused_upon_creation=True,
    tags=["tidegate", "schedule"],
    doc_md=DOC,
    default_args={"owner": "tidegate", "retries": 10, "retry_policy": BySlotState()},
    owner_links={"tidegate": settings.docs_url},
)
def tidegate_nightly() -> None:
    @task
    def find_jobs(manifests: list[str]) -> list[dict[str, Any]]:
        night = nightly.tonight(manifests)
        get_current_context()["ti"].xcom_push(key=WAITING, value=night.waiting)
        return night.starts

    @task
    def tell_waiting() -> None:
        nightly.tell_waiting(get_current_context()["ti"].xcom_pull(task_ids="find_jobs", key=WAITING))

    found = find_jobs(list(settings.nightly_manifests))
    start = TriggerDagRunOperator.partial(task_id="start", trigger_dag_id="tidegate_batch_inference").expand(conf=found)
    found >> [start, tell_waiting()]


tidegate_nightly()
