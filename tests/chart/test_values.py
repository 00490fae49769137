"""What the chart takes: every value is described, schema'd and shown in the README, and nothing else is taken."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import helm_python
import pytest
import yaml
from helm import chart

VALUES = yaml.safe_load((chart.CHART / "values.yaml").read_text())
SCHEMA = json.loads((chart.CHART / "values.schema.json").read_text())


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    return SCHEMA["definitions"][reference.rpartition("/")[2]] if reference else schema


def _objects(schema: dict[str, Any], values: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any, Any]]:
    schema = _resolved(schema)
    yield path, schema, values
    for key, value in values.items():
        if isinstance(value, dict) and key in schema.get("properties", {}):
            yield from _objects(schema["properties"][key], value, f"{path}.{key}".lstrip("."))


def test_schema_and_values_have_the_same_keys() -> None:
    for path, schema, values in _objects(SCHEMA, VALUES):
        if "properties" in schema:
            assert set(schema["properties"]) - {"global"} == set(values), path
            assert schema["additionalProperties"] is False, path


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"planned": {}}, "planned"),
        ({"plan": {"capGB": 16}}, "capGB"),
        ({"worker": {"image": {"repo": "x"}}}, "repo"),
        ({"networkPolicy": {"egress": {"jobSources": {"cidrs": [], "ports": []}}}}, "jobSources"),
        ({"volumes": {"scratch": {}}}, "scratch"),
        ({"podMonitor": {"enable": True}}, "enable"),
        ({"settings": {"AIRFLOW_HOME": "/"}}, "AIRFLOW_HOME"),
    ],
)
def test_a_key_that_nobody_reads_is_refused_by_name(values: dict[str, Any], named: str) -> None:
    with pytest.raises(helm_python.HelmValuesError, match=named):
        chart.texts(values)


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"plan": {"capGib": "16"}}, "capGib"),
        ({"plan": {"capGib": 0}}, "capGib"),
        ({"plan": {"graceSeconds": 10}}, "graceSeconds"),
        ({"worker": {"gpus": 2}}, "gpus"),
        ({"worker": {"uid": 0}}, "uid"),
        ({"worker": {"imagePullPolicy": "Sometimes"}}, "imagePullPolicy"),
        ({"worker": {"env": {"TIDEGATE_MAX_PIXELS": 5}}}, "TIDEGATE_MAX_PIXELS"),
        ({"worker": {"secretEnv": {"NAME": "only-a-secret"}}}, "NAME"),
        ({"jobs": {"namespace": "Jobs"}}, "namespace"),
        ({"jobs": {"podSecurity": "strict"}}, "podSecurity"),
        ({"airflow": {"serviceAccounts": []}}, "serviceAccounts"),
        ({"antenna": {"url": "https://antenna.example.org"}}, "url"),
        ({"prometheus": {"url": "https://user:word@metrics.example.org"}}, "url"),
        ({"networkPolicy": {"egress": {"weights": {"cidrs": ["10.0.0.0"], "ports": []}}}}, "cidrs"),
        ({"networkPolicy": {"egress": {"weights": {"cidrs": ["10.0.0.256/8"], "ports": []}}}}, "cidrs"),
        ({"networkPolicy": {"egress": {"weights": {"cidrs": ["10.0.0.0/33"], "ports": []}}}}, "cidrs"),
        ({"quota": {"enabled": True}}, "quota"),
        ({"nightly": {"schedule": "at eight"}}, "schedule"),
    ],
)
def test_a_value_that_cannot_work_is_refused(values: dict[str, Any], where: str) -> None:
    with pytest.raises(helm_python.HelmValuesError, match=where):
        chart.texts(values)


@pytest.mark.parametrize(
    "values",
    [
        {"manifests": {"enabled": True}},
        {"manifests": {"enabled": True, "ledgerSecret": {"name": ""}}},
        {"nightly": {"manifests": ["moths=s3://surveys/{{ ds }}.csv"]}},
    ],
)
def test_manifest_jobs_need_the_secret_of_their_ledger(values: dict[str, Any]) -> None:
    with pytest.raises(helm_python.HelmValuesError, match=r"ledgerSecret|manifests"):
        chart.texts(values)


@pytest.mark.parametrize(
    "values",
    [
        {"settings": {"TIDEGATE_RUN_STORE_URL": "postgresql://x"}},
        {"settings": {"TIDEGATE_LEDGER_URL": "postgresql://x"}},
        {"settings": {"TIDEGATE_PROMETHEUS_HEADERS": "{}"}},
        {"worker": {"env": {"TIDEGATE_ANTENNA_TOKEN": "x"}}},
        {"worker": {"env": {"AMI_ANTENNA_API_AUTH_TOKEN": "x"}}},
        {"worker": {"env": {"AWS_SECRET_ACCESS_KEY": "x"}}},
        {"worker": {"env": {"AMI_DATABASE_URL": "x"}}},
        {"worker": {"pipelineEnv": {"moths": {"TIDEGATE_LEDGER_URL": "x"}}}},
    ],
)
def test_a_secret_among_plain_values_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(helm_python.HelmValuesError):
        chart.texts(values)


@pytest.mark.parametrize(
    "values",
    [
        {"settings": {"TIDEGATE_LEDGER_URL_FILE": "/etc/tidegate/ledger"}},
        {"worker": {"env": {"TIDEGATE_ANTENNA_TOKEN_FILE": "/etc/tidegate/token", "AWS_ACCESS_KEY_ID": "name"}}},
        {"worker": {"secretEnv": {"TIDEGATE_ANTENNA_TOKEN": "secret/key"}}},
    ],
)
def test_what_only_points_to_a_secret_is_taken(values: dict[str, Any]) -> None:
    assert chart.texts(values)


def test_the_readme_shows_the_values_of_today() -> None:
    generator = chart.REPOSITORY / "docs" / "generate" / "chart_values.py"
    subprocess.run([sys.executable, str(generator), "--check"], check=True)


def test_the_package_holds_what_a_release_needs_and_no_test_values(tmp_path: Any) -> None:
    archive = helm_python.package(chart.CHART, destination=tmp_path)
    with helm_python.Chart.load(archive) as packed:
        assert packed.name == "tidegate"
        assert packed.schema is not None
        names = {each["name"] for each in packed.files}
    assert "README.md" in names
    assert not [name for name in names if name.startswith("ci/")]
