"""What the pods of probe and inference have in common as Airflow tasks: the settings of the provider's operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.utils.pod_manager import OnFinishAction

from tidegate.adapters.configuration import configuration
from tidegate.adapters.kube_pods import WORKER_CONTAINER
from tidegate.failures import BySlotState

POLL_SECONDS: Final = 2.0


class WorkerPodOperator(KubernetesPodOperator):
    """A pod of run `run_id`, launched and awaited by the provider; subclasses compose it and judge its end."""

    template_fields: Sequence[str] = ("run_id",)

    def __init__(self, *, run_id: str, **kwargs: Any) -> None:
        settings = configuration()
        super().__init__(
            **{
                "kubernetes_conn_id": settings.kubernetes_conn_id,
                "namespace": settings.namespace,
                "base_container_name": WORKER_CONTAINER,
                "deferrable": True,
                "poll_interval": POLL_SECONDS,
                "random_name_suffix": False,
                "do_xcom_push": False,
                "log_events_on_failure": True,
                # Deleting loses nothing: `cleanup` has read exit code and last words by then.
                "on_finish_action": OnFinishAction.DELETE_POD.value,
                "retry_policy": BySlotState(),
                **kwargs,
            }
        )
        self.run_id = run_id
