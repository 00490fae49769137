"""The breaker of one run inside the triggerer: builds the watch from the run's record and waits until it is over."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any, Final

from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException, AirflowRuntimeError
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async
from kubernetes_asyncio.client import CoreV1Api

from tidegate.adapters.configuration import Configuration, configuration
from tidegate.adapters.kube_pods import KubePods
from tidegate.adapters.metrics_access import MetricsServer
from tidegate.adapters.pod_spec import pod_prefix, run_selector
from tidegate.adapters.prometheus import MemoryReader
from tidegate.control.runs import Request, foreseen, open_store, planned, policy
from tidegate.control.steps import Control
from tidegate.control.watch import Watch, Watched
from tidegate.core import detector
from tidegate.core.errors import FixConfig
from tidegate.core.slot import TERMINAL, Phase, RaiseAlert

log = logging.getLogger(__name__)

#: States of a task of which no further try will come unless a person clears it.
_OVER: Final = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})


class MemoryBreakerTrigger(BaseTrigger):
    """Fires once, when every slot of the run is done or locked out, or no infer task is left to bring one there.

    It holds nothing but names: killed at any point and started elsewhere, it goes on from the run store.
    """

    def __init__(self, run_id: str, infer_task_id: str = "inference.infer") -> None:
        # A trigger that an older release deferred names the run alone.
        super().__init__()
        self.run_id = run_id
        self.infer_task_id = infer_task_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return (
            "tidegate.triggers.memory_breaker.MemoryBreakerTrigger",
            {"run_id": self.run_id, "infer_task_id": self.infer_task_id},
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        settings = configuration()
        store = await asyncio.to_thread(open_store, settings)
        run, plan = planned(await asyncio.to_thread(store.run, self.run_id), self.run_id)
        request = Request.from_json(run.request)
        server = await metrics_server(settings)
        hook = AsyncKubernetesHook(conn_id=settings.kubernetes_conn_id)
        async with hook.get_conn() as connection:
            watch = Watch(
                watched=Watched(
                    run_id=self.run_id,
                    namespace=settings.namespace,
                    pod_prefix=pod_prefix(self.run_id),
                    selector=run_selector(self.run_id),
                    sensitivity=detector.Policy.preset(request.sensitivity),
                    foreseen=foreseen(plan),
                    images_total=plan.images_total,
                    interval_seconds=settings.scrape_seconds,
                ),
                store=store,
                control=Control(store, policy(run, plan, settings)),
                pods=KubePods(CoreV1Api(connection), settings.namespace),
                reader=MemoryReader.at(server.url, server.session(), exact_names=server.exact_names),
                clock=time.time,
                tell=_tell,
                tasks_can_act=self._tasks_can_act,
            )
            states = await watch.until_over()
        locked = [state for state in states if state.phase is Phase.LOCKED_OUT]
        yield TriggerEvent(
            {
                "run_id": self.run_id,
                "locked_out": {str(state.slot): state.reason for state in locked},
                "abandoned": [state.slot for state in states if state.phase not in TERMINAL],
                "acked": sum(state.acked for state in states),
            }
        )

    async def _tasks_can_act(self) -> bool:
        """By Airflow's own books; where they cannot be read, nothing is known against it."""
        ti = self.task_instance
        if ti is None:
            return True
        try:
            by_run = await sync_to_async(RuntimeTaskInstance.get_task_states)(
                dag_id=ti.dag_id, task_ids=[self.infer_task_id], run_ids=[ti.run_id]
            )
        except (AirflowRuntimeError, OSError, TimeoutError) as error:
            log.warning("breaker of %s: Airflow does not tell its tasks' states: %s", self.run_id, error)
            return True
        states = by_run.get(ti.run_id, {}).values()
        return not states or any(state not in _OVER for state in states)


async def metrics_server(settings: Configuration) -> MetricsServer:
    """The server that the settings name, or the Airflow connection that they point to."""
    if settings.prometheus_conn_id is None:
        return MetricsServer.of_settings(settings)
    try:
        connection = await BaseHook.aget_connection(settings.prometheus_conn_id)
    except AirflowNotFoundException:
        raise FixConfig(f"TIDEGATE_PROMETHEUS_CONN_ID: there is no connection {settings.prometheus_conn_id}") from None
    # Airflow masks what it decodes, which on an event loop it must be awaited for.
    return MetricsServer.of_connection(connection, await connection.aextra_dejson())


def _tell(alert: RaiseAlert) -> None:
    log.error("%s: run %s slot %s: %s", alert.name, alert.run_id, alert.slot, alert.summary)
