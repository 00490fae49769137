"""The doors of the stack that `docker compose up` started from this checkout; starts and stops nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import requests

from tidegate.core.errors import FixConfig
from tidegate_local.jobserver.control import JobServer
from tidegate_local.stack import metrics_config
from tidegate_local.stack.airflow_config import ADMIN
from tidegate_local.stack.doors import Doors
from tidegate_local.stack.layout import LOOPBACK, REPOSITORY

ENV_FILE: Final = REPOSITORY / ".env"
_ASK_SECONDS: Final = 3.0


def doors(env_file: Path = ENV_FILE) -> Doors:
    """The doors as the file says that compose reads too; FixConfig where the stack does not serve."""
    settings = _read(env_file)
    airflow = f"http://{LOOPBACK}:{settings['STACK_AIRFLOW_PORT']}"
    try:
        requests.get(f"{airflow}/api/v2/monitor/health", timeout=_ASK_SECONDS).raise_for_status()
    except requests.RequestException as error:
        raise FixConfig(
            f"Airflow does not serve at {airflow} ({type(error).__name__}): docker compose up --detach --wait"
        ) from None
    database = f"{LOOPBACK}:{settings['STACK_POSTGRES_PORT']}/runs"
    return Doors(
        airflow_url=airflow,
        airflow_user=ADMIN,
        airflow_password=settings["STACK_AIRFLOW_PASSWORD"],
        prometheus_url=f"http://{LOOPBACK}:{settings['STACK_PROMETHEUS_PORT']}",
        prometheus_user=metrics_config.USER,
        prometheus_password=settings["STACK_METRICS_PASSWORD"],
        store_url=f"postgresql+psycopg://tidegate:{settings['STACK_POSTGRES_PASSWORD']}@{database}",
        jobs=JobServer(f"http://{LOOPBACK}:{settings['STACK_JOBSERVER_PORT']}", settings["STACK_ANTENNA_TOKEN"]),
        jobs_url_of_pods=f"http://{settings['STACK_SUBNET']}.10:8000",
    )


class _Settings(dict[str, str]):
    def __missing__(self, name: str) -> str:
        raise FixConfig(f"{name} is not set in {ENV_FILE.name}: make compose-env adds what is missing")


def _read(env_file: Path) -> Mapping[str, str]:
    try:
        lines = env_file.read_text().splitlines()
    except FileNotFoundError:
        raise FixConfig(
            f"there is no {env_file}: make compose-env makes it, docker compose up starts the stack"
        ) from None
    pairs = (line.partition("=") for line in lines if line.strip() and not line.lstrip().startswith("#"))
    return _Settings({name.strip(): value.strip() for name, _, value in pairs if value.strip()})
