"""The breaker's metrics server as an Airflow connection names it, found as a triggerer finds it."""

from __future__ import annotations

import asyncio
import json

import pytest

from tidegate.adapters.configuration import Configuration
from tidegate.core.errors import FixConfig
from tidegate.triggers.memory_breaker import metrics_server


def settings(conn_id: str | None) -> Configuration:
    return Configuration.model_validate({"prometheus_url": "http://by-settings", "prometheus_conn_id": conn_id})


def test_a_connection_is_read_on_the_event_loop_of_a_triggerer(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {
        "conn_type": "http",
        "host": "https://mimir.example/prometheus",
        "password": "opaque",
        "extra": {"headers": {"X-Scope-OrgID": "moths"}, "exact_names": True},
    }
    monkeypatch.setenv("AIRFLOW_CONN_METRICS", json.dumps(told))
    server = asyncio.run(metrics_server(settings("metrics")))
    assert (server.url, server.exact_names) == ("https://mimir.example/prometheus", True)
    assert server.token is not None
    assert server.token.get_secret_value() == "opaque"
    assert server.session().headers["X-Scope-OrgID"] == "moths"


def test_without_a_connection_the_settings_name_the_server() -> None:
    assert asyncio.run(metrics_server(settings(None))).url == "http://by-settings"


def test_a_connection_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_METRICS", raising=False)
    with pytest.raises(FixConfig, match="metrics"):
        asyncio.run(metrics_server(settings("metrics")))
