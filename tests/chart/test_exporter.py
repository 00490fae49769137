"""The exporter's Deployment: a command that serves, its port, its secret by reference, hardened as workers are."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import requests
from helm import chart
from tests.adapters.metrics_bed import free_port
from tests.chart.rendered import configured, environment, one, pod, selects

from tidegate.core.contract import EXPORTER_PORT

NAME = "tidegate-exporter"


def _pod_spec(values: dict[str, Any] | None = None) -> dict[str, Any]:
    spec: dict[str, Any] = one(chart.objects(values, chart.WITH_OPERATOR), "Deployment", NAME)["spec"]["template"][
        "spec"
    ]
    return spec


def test_it_runs_where_something_scrapes_it() -> None:
    assert not [each for each in chart.objects() if each["kind"] == "Deployment"]
    assert _pod_spec()


def test_it_serves_on_the_port_that_the_command_means() -> None:
    (container,) = _pod_spec()["containers"]
    assert {each["name"]: each["containerPort"] for each in container["ports"]} == {"metrics": EXPORTER_PORT}
    assert container["command"][-2:] == ["--port", str(EXPORTER_PORT)]


def test_its_command_serves_the_run_store_until_it_is_told_to_end(tmp_path: Path) -> None:
    (container,) = _pod_spec()["containers"]
    port = free_port()
    filled = {"$(POD_IP)": "127.0.0.1", str(EXPORTER_PORT): str(port)}
    program, *arguments = (filled.get(each, each) for each in container["command"])
    told = {**environment({}, chart.WITH_OPERATOR), "TIDEGATE_RUN_STORE_URL": f"sqlite:///{tmp_path}/runs.sqlite"}
    with subprocess.Popen([Path(sys.executable).parent / program, *arguments], env={**os.environ, **told}) as exporter:
        try:
            assert "tidegate_" in _scraped(port)
        finally:
            exporter.terminate()
    assert exporter.returncode == 0


def _scraped(port: int) -> str:
    """The answer of an exporter that may be starting still."""
    for _ in range(300):
        try:
            return requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
        except requests.ConnectionError:
            time.sleep(0.2)
    raise AssertionError(f"nothing listens on {port}")


def test_it_is_hardened_as_worker_pods_are(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = pod(configured(monkeypatch, environment()))["spec"]
    spec = _pod_spec()
    (container,) = spec["containers"]
    assert container["securityContext"] == worker["containers"][0]["securityContext"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == worker["securityContext"]["seccompProfile"]
    assert spec["automountServiceAccountToken"] is False
    made = chart.objects({}, chart.WITH_OPERATOR)
    assert one(made, "ServiceAccount", spec["serviceAccountName"])["automountServiceAccountToken"] is False
    bound = {subject["name"] for each in made if each["kind"] == "RoleBinding" for subject in each["subjects"]}
    assert spec["serviceAccountName"] not in bound


def test_it_is_told_the_run_store_by_reference_and_all_else_as_airflow_is() -> None:
    values = {"exporter": {"runStoreSecret": {"name": "database", "key": "url"}}}
    (container,) = _pod_spec(values)["containers"]
    assert container["envFrom"] == [{"configMapRef": {"name": "tidegate-settings"}}]
    told = {each["name"]: each["valueFrom"] for each in container["env"]}
    assert told["TIDEGATE_RUN_STORE_URL"] == {"secretKeyRef": {"name": "database", "key": "url"}}


def test_a_changed_setting_starts_it_anew() -> None:
    def stamp(values: dict[str, Any]) -> str:
        made = one(chart.objects(values, chart.WITH_OPERATOR), "Deployment", NAME)
        return str(made["spec"]["template"]["metadata"]["annotations"]["checksum/settings"])

    assert stamp({}) == stamp({"quota": {"enabled": True, "hard": {"pods": 1}}})
    assert stamp({}) != stamp({"plan": {"leaseSeconds": 200}})


def test_service_monitor_and_network_policy_find_it() -> None:
    made = chart.objects({}, chart.WITH_OPERATOR)
    labels = one(made, "Deployment", NAME)["spec"]["template"]["metadata"]["labels"]
    service = one(made, "Service", NAME)
    assert selects({"matchLabels": service["spec"]["selector"]}, labels)
    monitor = one(made, "ServiceMonitor", NAME)["spec"]
    assert selects(monitor["selector"], service["metadata"]["labels"])
    assert [each["port"] for each in monitor["endpoints"]] == [each["name"] for each in service["spec"]["ports"]]
    policy = one(made, "NetworkPolicy", NAME)["spec"]
    assert selects(policy["podSelector"], labels)
    assert policy["ingress"][0]["ports"] == [{"port": EXPORTER_PORT, "protocol": "TCP"}]
    assert not selects(one(made, "NetworkPolicy", "tidegate-workers")["spec"]["podSelector"], labels)


def test_workers_are_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made = chart.objects({}, chart.WITH_OPERATOR)
    worker = pod(configured(monkeypatch, environment()))["metadata"]["labels"]
    for kind in ("Deployment", "NetworkPolicy"):
        spec = one(made, kind, NAME)["spec"]
        assert not selects(spec.get("podSelector") or spec["selector"], worker)
    assert not selects(one(made, "PodMonitor")["spec"]["selector"], {"app.kubernetes.io/component": "exporter"})
