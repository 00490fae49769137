"""The environment of the stack's Airflow and the health it reports; starts nothing."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Final

import requests

from tidegate_local.stack import metrics_config
from tidegate_local.stack.cluster import Cluster
from tidegate_local.stack.layout import LOOPBACK, REPOSITORY, Layout

ADMIN: Final = "admin"
#: Name of the Kubernetes Secret that pods read the token from.
TOKEN_SECRET: Final = "antenna"  # noqa: S105 - its name, not its value
LEDGER_SECRET: Final = "ledger"  # noqa: S105 - likewise
RESULTS_CLAIM: Final = "results"
STAGING_CLAIM: Final = "staging"
LEDGER: Final = "ledger.sqlite"
#: The misbehaving twins of the demo pipeline in the shipped catalogue, by what makes them misbehave.
DEMO_PIPELINES: Final = {
    "tidegate_demo_leak": {
        "TIDEGATE_DEMO_LEAK_BYTES_PER_IMAGE": "6MiB",
        "TIDEGATE_DEMO_INFER_SECONDS_PER_IMAGE": "0.1",
    },
    "tidegate_demo_slow": {"TIDEGATE_DEMO_INFER_SECONDS_PER_IMAGE": "0.5"},
    "tidegate_demo_burst": {
        "TIDEGATE_DEMO_BURST_BYTES": "450MiB",
        "TIDEGATE_DEMO_BURST_EVERY_IMAGES": "40",
        "TIDEGATE_DEMO_INFER_SECONDS_PER_IMAGE": "0.1",
    },
    # The first image that the job server ever made.
    "tidegate_demo_poison": {"TIDEGATE_DEMO_CRASH_ON": "1", "TIDEGATE_DEMO_INFER_SECONDS_PER_IMAGE": "0.1"},
    "tidegate_demo_workspace": {"TIDEGATE_DEMO_WORKSPACE_BYTES": "500MiB"},
    # More than the smallest cap that the form takes.
    "tidegate_demo_huge": {"TIDEGATE_DEMO_MODEL_BYTES": "1200MiB"},
}


def environment(layout: Layout, ports: dict[str, int], cluster: Cluster) -> dict[str, str]:
    """All that differs from Airflow's defaults, with the reason where it is not plain."""
    address = f"http://{LOOPBACK}:{ports['airflow']}"
    kubeconfig = layout.airflow_kubeconfig if cluster.has_roles else cluster.kubeconfig
    return {
        "AIRFLOW_HOME": str(layout.airflow),
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        # Two cores: eight task processes at once are plenty, and each costs 150 MB.
        "AIRFLOW__CORE__PARALLELISM": "8",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__FERNET_KEY": "",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords_file(layout)),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
        # Seven processes write to one file: each waits for its turn instead of failing after the usual 5 s.
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{database_file(layout)}?timeout=60",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(layout.logs / "tasks"),
        # It binds to all addresses by default.
        "AIRFLOW__API__HOST": LOOPBACK,
        "AIRFLOW__API__PORT": str(ports["airflow"]),
        "AIRFLOW__API__BASE_URL": address,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API__SECRET_KEY": layout.secret("airflow-api-secret"),
        "AIRFLOW__API_AUTH__JWT_SECRET": layout.secret("airflow-jwt-secret"),
        # A laptop's user waits for each step: the defaults are made for databases under load.
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
        "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "1",
        "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "5",
        # On a busy machine the imports alone have taken longer than the usual 30 s, and a DAG that times out is none.
        "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "240",
        "AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "300",
        # Each of its many short processes would compile the same packages again where a caller keeps them uncompiled.
        "PYTHONDONTWRITEBYTECODE": "",
        "AIRFLOW_CONN_KUBERNETES_DEFAULT": json.dumps(
            {"conn_type": "kubernetes", "extra": {"kube_config_path": str(kubeconfig)}}
        ),
        **_tidegate(layout, ports, cluster),
        "PYTHONUNBUFFERED": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }


def _tidegate(layout: Layout, ports: dict[str, int], cluster: Cluster) -> dict[str, str]:
    """What the DAGs of this stack are told: where its own servers are and which secrets its pods may name."""
    return {
        "TIDEGATE_RUN_STORE_URL": layout.store_url,
        "TIDEGATE_PROMETHEUS_URL": f"http://{LOOPBACK}:{ports['prometheus']}",
        "TIDEGATE_PROMETHEUS_USER": metrics_config.USER,
        "TIDEGATE_PROMETHEUS_PASSWORD_FILE": str(layout.secrets / "metrics-password"),
        "TIDEGATE_NAMESPACE": cluster.namespace,
        "TIDEGATE_WORKER_IMAGE": cluster.image,
        "TIDEGATE_RESIZE": str(cluster.resizes),
        # One CPU a pod would leave none for Airflow on a small machine; requests are promises, not ceilings.
        "TIDEGATE_CPU_REQUEST": "200m",
        "TIDEGATE_ANTENNA_URL": f"{cluster.jobs_url_here(ports['jobserver'])}/api/v2",
        "TIDEGATE_ANTENNA_TOKEN_FILE": str(layout.jobserver / "token"),
        "TIDEGATE_POD_SECRETS": json.dumps(
            {
                "TIDEGATE_ANTENNA_TOKEN": f"{TOKEN_SECRET}/token",
                **({"TIDEGATE_LEDGER_URL": f"{LEDGER_SECRET}/url"} if cluster.ledger_url else {}),
            }
        ),
        "TIDEGATE_POD_ENV": json.dumps(
            {
                "TIDEGATE_ANTENNA_URL": f"{cluster.jobs_url_of_pods(ports['jobserver'])}/api/v2",
                "TIDEGATE_ALLOWED_NETWORKS": cluster.host_address,
                **({"TIDEGATE_LEDGER_URL": f"sqlite:////results/{LEDGER}"} if cluster.is_own else {}),
                # What the caller sets for pods comes on top, as it would on a cluster.
                **json.loads(os.environ.get("TIDEGATE_POD_ENV", "{}")),
            }
        ),
        "TIDEGATE_PIPELINES": json.dumps(["tidegate_demo", *DEMO_PIPELINES]),
        "TIDEGATE_PIPELINE_ENV": json.dumps(DEMO_PIPELINES),
        **({"TIDEGATE_RESULTS_CLAIM": RESULTS_CLAIM} if cluster.has_volumes else {}),
        **_ledger(layout, cluster),
        # It outlives the pod: what a killed worker had leased is taken up by the next instead of waiting for Antenna.
        # On a cluster it would have to be a volume that many nodes write to, which few storage classes offer.
        **({"TIDEGATE_STAGING_CLAIM": STAGING_CLAIM} if cluster.is_own else {}),
    }


def _ledger(layout: Layout, cluster: Cluster) -> dict[str, str]:
    if cluster.is_own:
        # The same file as the pods see it below their mount.
        return {"TIDEGATE_LEDGER_URL": f"sqlite:///{layout.results / LEDGER}"}
    return {"TIDEGATE_LEDGER_URL": cluster.ledger_url} if cluster.ledger_url else {}


def database_file(layout: Layout) -> Path:
    return layout.airflow / "airflow.db"


def passwords_file(layout: Layout) -> Path:
    return layout.secrets / "airflow-passwords.json"


def write_password(layout: Layout) -> None:
    """The admin's password, made once; without the file Airflow would print one into a log."""
    path = passwords_file(layout)
    path.write_text(json.dumps({ADMIN: layout.secret("airflow-admin-password")}))
    path.chmod(0o600)


def unhealthy(ports: dict[str, int], component: str) -> str | None:
    """None where `component` (metadatabase, scheduler, dag_processor, triggerer) says that it is healthy."""
    try:
        answer = requests.get(f"http://{LOOPBACK}:{ports['airflow']}/api/v2/monitor/health", timeout=3)
        status = answer.json()[component]["status"] if answer.ok else f"HTTP {answer.status_code}"
    except (requests.RequestException, ValueError, KeyError) as error:
        return f"no health from the API server ({type(error).__name__})"
    return None if status == "healthy" else f"{component} says {status}"
