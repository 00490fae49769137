"""The processes that make up the stack, in the order they start; the supervisor runs them."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import requests
import yaml

from tidegate.core.errors import FixConfig
from tidegate_local.jobserver.control import JobServer
from tidegate_local.stack import airflow_config, metrics_config
from tidegate_local.stack.cluster import WORKER_IMAGE, Cluster
from tidegate_local.stack.layout import LOOPBACK, REPOSITORY, Layout
from tidegate_local.stack.supervisor import Service

AIRFLOW_VERSION_FILE: Final = "database-of-version"


def services(layout: Layout, ports: dict[str, int], cluster: Cluster) -> tuple[Service, ...]:
    python = sys.executable
    airflow_env = airflow_config.environment(layout, ports, cluster)
    airflow = str(Path(python).parent / "airflow")

    def of_airflow(component: str) -> Callable[[], str | None]:
        return lambda: airflow_config.unhealthy(ports, component)

    password = layout.secret("metrics-password")

    def serves(name: str, path: str) -> Callable[[], str | None]:
        return lambda: _unhealthy(f"http://{LOOPBACK}:{ports[name]}{path}", (metrics_config.USER, password))

    def discovery_answers() -> str | None:
        return _unhealthy(f"http://{LOOPBACK}:{ports['discovery']}/healthz")

    def exporter_answers() -> str | None:
        return _unhealthy(f"http://{LOOPBACK}:{ports['exporter']}/metrics")

    def job_server_answers() -> str | None:
        return job_server_health(layout)

    return (
        *((_pod_api(layout, ports),) if cluster.is_own else ()),
        Service(
            name="jobserver",
            argv=(
                python,
                "-m",
                "tidegate_local.jobserver",
                "--workdir",
                str(layout.jobserver),
                "--host",
                cluster.binds,
                "--port",
                str(ports["jobserver"]),
            ),
            unhealthy=job_server_answers,
            ports=("jobserver",),
        ),
        Service(
            name="discovery",
            argv=(
                python,
                "-m",
                "tidegate_local",
                "discovery",
                "--kubeconfig",
                str(cluster.kubeconfig),
                "--namespace",
                cluster.namespace,
                "--token-file",
                str(layout.secrets / "discovery-token"),
                "--port",
                str(ports["discovery"]),
            ),
            unhealthy=discovery_answers,
            ports=("discovery",),
        ),
        Service(
            name="exporter",
            argv=(python, "-m", "tidegate", "exporter", "--port", str(ports["exporter"])),
            env=airflow_env,
            unhealthy=exporter_answers,
            ports=("exporter",),
        ),
        Service(
            name="alertmanager",
            argv=(
                "prometheus-alertmanager",
                f"--config.file={layout.alertmanager / 'alertmanager.yaml'}",
                f"--web.config.file={layout.alertmanager / 'web.yaml'}",
                f"--storage.path={layout.alertmanager / 'data'}",
                f"--web.listen-address={LOOPBACK}:{ports['alertmanager']}",
                # One of its kind: without this it binds a gossip port on all addresses.
                "--cluster.listen-address=",
            ),
            unhealthy=serves("alertmanager", "/-/ready"),
            ports=("alertmanager",),
        ),
        Service(
            name="prometheus",
            argv=(
                "prometheus",
                f"--config.file={layout.prometheus / 'prometheus.yaml'}",
                f"--web.config.file={layout.prometheus / 'web.yaml'}",
                f"--storage.tsdb.path={layout.prometheus / 'data'}",
                "--storage.tsdb.retention.time=7d",
                f"--web.listen-address={LOOPBACK}:{ports['prometheus']}",
            ),
            unhealthy=serves("prometheus", "/-/ready"),
            ports=("prometheus",),
        ),
        Service(
            name="airflow-api-server",
            argv=(airflow, "api-server"),
            env=airflow_env,
            unhealthy=of_airflow("metadatabase"),
            ready_seconds=120.0,
            ports=("airflow",),
        ),
        *(
            Service(
                name=f"airflow-{part}",
                argv=(airflow, part, *options),
                env=airflow_env,
                unhealthy=of_airflow(component),
                ready_seconds=120.0,
                # What they do stands in the database; the triggerer alone would take 13 s to say good-bye.
                stop_seconds=5.0,
            )
            # Task logs are read from the shared folder, so no log server listens.
            for part, component, options in (
                ("scheduler", "scheduler", ("--skip-serve-logs",)),
                ("dag-processor", "dag_processor", ()),
                ("triggerer", "triggerer", ("--skip-serve-logs",)),
            )
        ),
    )


def _pod_api(layout: Layout, ports: dict[str, int]) -> Service:
    def answers() -> str | None:
        return _unhealthy(f"https://{LOOPBACK}:{ports['podapi']}/readyz", verify=str(layout.podapi / "ca.crt"))

    options = ("--workdir", str(layout.podapi), "--port", str(ports["podapi"]))
    return Service(
        name="podapi",
        argv=(sys.executable, "-m", "tidegate_local", "podapi", *options),
        unhealthy=answers,
        # It ends its pods first, each with its own grace.
        stop_seconds=40.0,
        ports=("podapi",),
    )


def prepare(layout: Layout, ports: dict[str, int], cluster: Cluster, say: Callable[[str], None]) -> None:
    """Write every configuration and bring Airflow's database to this version; safe to repeat."""
    layout.make()
    layout.secret("discovery-token")
    if cluster.is_own:
        _write_image_table(layout)
    metrics_config.write(layout, ports, cluster)
    airflow_config.write_password(layout)
    _migrate(layout, airflow_config.environment(layout, ports, cluster), say)


def job_server_health(layout: Layout) -> str | None:
    try:
        return None if JobServer.of_workdir(layout.jobserver).is_healthy() else "it does not answer"
    except FixConfig as error:
        return str(error)


def _write_image_table(layout: Layout) -> None:
    """The one image of the stack is the worker's own environment."""
    image = {
        "python": str(REPOSITORY / ".venv" / "worker"),
        "command": ["tidegate-worker"],
        "paths": [str(REPOSITORY / "worker_image" / "pipelines")],
    }
    (layout.podapi / "images.yaml").write_text(yaml.safe_dump({"images": {f"{WORKER_IMAGE}:*": image}}))


def _migrate(layout: Layout, environment: dict[str, str], say: Callable[[str], None]) -> None:
    from importlib.metadata import version

    stamp = layout.airflow / AIRFLOW_VERSION_FILE
    if stamp.exists() and stamp.read_text() == version("apache-airflow-core"):
        return
    say("preparing Airflow's database (once)")
    airflow = str(Path(sys.executable).parent / "airflow")
    done = subprocess.run(
        (airflow, "db", "migrate"),
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise FixConfig(f"airflow db migrate failed; its last words:\n{(done.stdout + done.stderr)[-2000:]}")
    # Readers beside a writer; SQLite keeps the mode in the file.
    with contextlib.closing(sqlite3.connect(airflow_config.database_file(layout))) as database:
        database.execute("PRAGMA journal_mode=WAL")
    stamp.write_text(version("apache-airflow-core"))


def _unhealthy(url: str, auth: tuple[str, str] | None = None, verify: str | bool = True) -> str | None:
    try:
        answer = requests.get(url, auth=auth, verify=verify, timeout=3)
    except (requests.RequestException, OSError) as error:
        return f"{url} does not answer ({type(error).__name__})"
    return None if answer.ok else f"{url} answers {answer.status_code}"
