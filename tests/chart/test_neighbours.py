"""The values files for the charts beside ours: what they name is what ours makes and what Airflow reads."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml
from airflow.configuration import retrieve_configuration_description
from helm import chart
from tests.chart.rendered import one

from tidegate.adapters.configuration import Configuration, described

HELM = chart.REPOSITORY / "helm"
AIRFLOW = yaml.safe_load((HELM / "values-airflow.yaml").read_text())
MONITORING = yaml.safe_load((HELM / "values-kube-prometheus-stack.yaml").read_text())
DEFAULTS = yaml.safe_load((chart.CHART / "values.yaml").read_text())


def test_airflow_takes_the_settings_that_the_chart_makes() -> None:
    (source,) = yaml.safe_load(AIRFLOW["extraEnvFrom"])
    settings = one(chart.objects(), "ConfigMap", source["configMapRef"]["name"])
    assert settings["metadata"]["namespace"] == "airflow"


def test_airflows_secrets_are_settings_and_come_by_reference() -> None:
    names = {each["envName"] for each in AIRFLOW["secret"]}
    assert names == {"TIDEGATE_RUN_STORE_URL", "TIDEGATE_LEDGER_URL"}
    assert names <= {name for name, _, _ in described()}
    assert all(set(each) == {"envName", "secretName", "secretKey"} for each in AIRFLOW["secret"])


def test_the_token_of_antenna_is_mounted_where_the_settings_look_for_it() -> None:
    (mount,) = AIRFLOW["volumeMounts"]
    (volume,) = AIRFLOW["volumes"]
    assert mount["name"] == volume["name"]
    secret = DEFAULTS["antenna"]["tokenSecret"]
    assert f"{mount['mountPath']}/{secret['key']}" == DEFAULTS["antenna"]["tokenFile"]
    assert volume["secret"]["secretName"] == secret["name"]


def test_the_connection_has_the_name_that_the_operators_ask_for() -> None:
    (connection,) = AIRFLOW["env"]
    name = str(Configuration.model_fields["kubernetes_conn_id"].default)
    assert connection["name"] == f"AIRFLOW_CONN_{name.upper()}"
    assert json.loads(connection["value"]) == {"conn_type": "kubernetes", "extra": {"in_cluster": True}}


def test_every_option_for_airflow_exists_in_the_airflow_that_is_locked() -> None:
    options = retrieve_configuration_description(include_providers=True)
    for section, chosen in AIRFLOW["config"].items():
        assert chosen.keys() <= options[section]["options"].keys(), section


def test_airflow_has_the_locked_version() -> None:
    lock = (chart.REPOSITORY / "requirements" / "control.lock").read_text()
    locked = re.search(r"^apache-airflow==(\S+)", lock, re.MULTILINE)
    assert locked is not None
    assert AIRFLOW["airflowVersion"] == locked.group(1)


def test_the_accounts_that_get_rights_are_those_of_a_release_named_airflow() -> None:
    assert AIRFLOW["executor"] == "LocalExecutor"
    assert {"airflow-scheduler", "airflow-triggerer"} <= set(DEFAULTS["airflow"]["serviceAccounts"])


def test_grafanas_sidecar_looks_for_the_label_and_the_folder_of_the_dashboards() -> None:
    sidecar = MONITORING["grafana"]["sidecar"]["dashboards"]
    assert DEFAULTS["dashboards"]["labels"] == {sidecar["label"]: sidecar["labelValue"]}
    assert sidecar["folderAnnotation"] in DEFAULTS["dashboards"]["annotations"]
    assert sidecar["searchNamespace"] == "ALL"


def test_prometheus_takes_monitors_and_rules_of_all_releases() -> None:
    spec = MONITORING["prometheus"]["prometheusSpec"]
    for what in ("podMonitor", "serviceMonitor", "rule"):
        assert spec[f"{what}SelectorNilUsesHelmValues"] is False
        assert spec[f"{what}NamespaceSelector"] == {}


def test_alertmanager_selects_the_routes_that_the_chart_makes() -> None:
    selector: dict[str, Any] = MONITORING["alertmanager"]["alertmanagerSpec"]["alertmanagerConfigSelector"]
    made = one(chart.objects({}, chart.WITH_OPERATOR), "PodMonitor")["metadata"]["labels"]
    assert selector["matchLabels"].items() <= made.items()


def test_the_breaker_asks_the_prometheus_that_the_guide_installs() -> None:
    guide = (chart.REPOSITORY / "docs" / "deploy.md").read_text()
    found = re.search(r"helm install (\S+) prometheus-community/kube-prometheus-stack --namespace (\S+)", guide)
    assert found is not None
    release, namespace = found.groups()
    # The service's name, for a release whose name holds the chart's.
    assert "kube-prometheus-stack" in release
    assert DEFAULTS["prometheus"]["url"] == f"http://{release}-prometheus.{namespace}:9090"
    assert DEFAULTS["prometheus"]["namespace"] == namespace
