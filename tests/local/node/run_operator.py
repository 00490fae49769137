"""Runs KubernetesPodOperators against the cluster of a kubeconfig and prints how each went; a process of its own.

    run_operator.py KUBECONFIG PROGRAM...        each program as a task, then deferred

Only the task instance is a stand-in: operator, hook, pod manager and trigger are Airflow's.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.common.compat.sdk import AirflowException, TaskDeferred


def main() -> None:
    kubeconfig, *programs = sys.argv[1:]
    for deferrable in (False, True):
        for number, program in enumerate(programs):
            outcome = run(kubeconfig, program, f"infer-{number}", deferrable=deferrable)
            # Logging goes to stdout too: what stands before this line is what the operator logged.
            print("OUTCOME", json.dumps(outcome), flush=True)


def run(kubeconfig: str, program: str, task: str, *, deferrable: bool) -> dict[str, Any]:
    operator = KubernetesPodOperator(
        task_id=task,
        namespace="default",
        name=f"{task}-{'deferred' if deferrable else 'sync'}",
        image="python:3",
        cmds=["python3", "-u", "-c", program],
        config_file=kubeconfig,
        kubernetes_conn_id=None,
        deferrable=deferrable,
        poll_interval=0.5,
        startup_check_interval_seconds=1,
        on_finish_action="keep_pod",
        get_logs=True,
        startup_timeout_seconds=60,
        schedule_timeout_seconds=60,
    )
    pushed: dict[str, Any] = {}
    instance = SimpleNamespace(
        dag_id="night", task_id=task, map_index=0, try_number=1, start_date=datetime.now(UTC), raw_try_number=1,
        xcom_push=lambda key, value: pushed.update({key: value}),
    )  # fmt: skip
    context: Any = {
        "ti": instance,
        "run_id": f"manual__{deferrable}",
        "dag": SimpleNamespace(),
        "task_instance": instance,
    }
    outcome = "success"
    try:
        try:
            operator.execute(context)
        except TaskDeferred as deferred:
            event = asyncio.run(first_event(deferred.trigger))
            operator.trigger_reentry(context, event)
    except AirflowException as error:
        outcome = f"failed: {error}"
    return {"outcome": outcome, "pushed": pushed}


async def first_event(trigger: Any) -> Any:
    async for event in trigger.run():
        return event.payload
    raise RuntimeError("the trigger ended without an event")


if __name__ == "__main__":
    main()
