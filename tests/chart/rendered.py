"""What the tests of the chart begin from: objects of a release, and worker pods of the control plane that it tells."""

from __future__ import annotations

from typing import Any

import pytest
from helm import chart
from kubernetes.client import ApiClient
from tests.adapters.examples import RUN_ID, SOURCE, plan

from tidegate.adapters.configuration import Configuration, described
from tidegate.adapters.pod_spec import Placement, worker_pod
from tidegate.core.contract import GIB, Assignment

EVERYTHING = chart.scenarios()["everything"]


def one(objects: list[dict[str, Any]], kind: str, name: str | None = None) -> dict[str, Any]:
    found = [each for each in objects if each["kind"] == kind and name in (None, each["metadata"]["name"])]
    assert len(found) == 1, [each["metadata"]["name"] for each in found]
    return found[0]


def environment(values: dict[str, Any] | None = None, cluster: chart.Cluster = chart.BARE) -> dict[str, str]:
    """What the chart tells Airflow's pods."""
    return dict(one(chart.objects(values, cluster), "ConfigMap", "tidegate-settings")["data"])


def configured(monkeypatch: pytest.MonkeyPatch, told: dict[str, str]) -> Configuration:
    """The settings of a control plane that is told just that."""
    for name, _, _ in described():
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    return Configuration()


def pod(configuration: Configuration) -> dict[str, Any]:
    """A worker pod of that control plane, as the API server gets it."""
    made = plan()
    assignment = Assignment(
        run_id=RUN_ID,
        slot=0,
        generation=0,
        source=SOURCE,
        pipeline="moths",
        model_version="v1",
        cap_bytes=made.cap_bytes,
        ingest=made.ingest,
        grace_seconds=60.0,
    )
    composed = worker_pod(
        assignment, command="run", limit_bytes=4 * GIB, configuration=configuration, placement=Placement()
    )
    sanitized: dict[str, Any] = ApiClient().sanitize_for_serialization(composed)
    return sanitized


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    return all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items()) and all(
        each["operator"] == "In" and labels.get(each["key"]) in each["values"]
        for each in selector.get("matchExpressions", [])
    )
