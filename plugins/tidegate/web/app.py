"""The page of one run inside Airflow's UI: read-only, and for those alone who may see that run in Airflow."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends, FastAPI, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader

from tidegate.adapters.configuration import configuration
from tidegate.adapters.run_store import RunState
from tidegate.control import record
from tidegate.control.opening import run_id_of
from tidegate.control.runs import open_store
from tidegate.control.wording import duration, moment, size
from tidegate.core.errors import FixConfig, RetryLater

PREFIX: Final = "/tidegate"
#: Airflow fills in the names in braces.
RUN_PAGE: Final = f"{PREFIX}/dags/{{DAG_ID}}/runs/{{RUN_ID}}"
#: A live page reads itself anew; nothing on it runs a script.
REFRESH_SECONDS: Final = 5
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

# What a pod or a person wrote is text on this page, never markup.
_templates = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
_templates.filters.update(size=size, moment=moment)
_templates.globals.update(duration=duration)

app = FastAPI(title="Tidegate", docs_url=None, redoc_url=None, openapi_url=None)


@app.get(
    "/dags/{dag_id}/runs/{dag_run_id:path}",
    dependencies=[Depends(requires_access_dag(method="GET", access_entity=DagAccessEntity.RUN))],
)
def run_page(dag_id: str, dag_run_id: str) -> Response:
    try:
        shown = record.show(open_store(configuration()), run_id_of(dag_id, dag_run_id))
    except FixConfig as absent:
        return _page("no_run.html", status=404, why=str(absent))
    except RetryLater as away:
        return _page("no_run.html", status=503, why=str(away), refresh=REFRESH_SECONDS)
    is_live = shown["run"]["state"] == RunState.RUNNING
    return _page("run.html", refresh=REFRESH_SECONDS if is_live else None, **shown)


def _page(template: str, *, status: int = 200, refresh: int | None = None, **values: object) -> Response:
    text = _templates.get_template(template).render(refresh=refresh, **values)
    return HTMLResponse(text, status_code=status, headers=_HEADERS)
