"""Registers Tidegate with Airflow: the page of a run. The one file here that Airflow's plugin loader executes."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from tidegate.web.app import PREFIX, RUN_PAGE, app


class TidegatePlugin(AirflowPlugin):
    name = "tidegate"
    fastapi_apps = [{"app": app, "url_prefix": PREFIX, "name": "Tidegate"}]  # noqa: RUF012 - Airflow's own form
    external_views = [  # noqa: RUF012
        {"name": "Tidegate", "href": RUN_PAGE, "destination": "dag_run", "url_route": "tidegate"}
    ]
