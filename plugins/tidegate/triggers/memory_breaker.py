"""The breaker of one run inside the triggerer: builds the watch from the run's record and waits until it is over."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.triggers.base import BaseTrigger, TriggerEvent
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
from tidegate.core.slot import Phase, RaiseAlert

log = logging.getLogger(__name__)


class MemoryBreakerTrigger(BaseTrigger):
    """Fires once, when every slot of the run is done or locked out.

    It holds nothing but the run's id: killed at any point and started elsewhere, it goes on from the run store.
    """

    def __init__(self, run_id: str) -> None:
        super().__init__()
        self.run_id = run_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return ("tidegate.triggers.memory_breaker.MemoryBreakerTrigger", {"run_id": self.run_id})

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
            )
            states = await watch.until_over()
        locked = [state for state in states if state.phase is Phase.LOCKED_OUT]
        yield TriggerEvent(
            {
                "run_id": self.run_id,
                "locked_out": {str(state.slot): state.reason for state in locked},
                "acked": sum(state.acked for state in states),
            }
        )


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
