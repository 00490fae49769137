"""Which objects a release has where, and that they fit the pods that the operators make."""

from __future__ import annotations

import pytest
from helm import chart
from tests.chart.rendered import EVERYTHING, configured, environment, one, pod, selects

from tidegate.core.contract import METRICS_PORT, WORKER_LABELS


def test_a_cluster_without_the_prometheus_operator_gets_nothing_of_it() -> None:
    made = chart.objects({}, chart.BARE)
    assert not [each for each in made if "monitoring.coreos.com" in each["apiVersion"]]
    assert {each["kind"] for each in made} == {
        "Namespace", "ServiceAccount", "Role", "RoleBinding", "ConfigMap", "NetworkPolicy", "Pod"
    }  # fmt: skip


def test_a_cluster_with_the_prometheus_operator_gets_its_objects_without_being_told() -> None:
    assert one(chart.objects({}, chart.WITH_OPERATOR), "PodMonitor")


@pytest.mark.parametrize(("enabled", "expected"), [(True, 1), ("true", 1), (False, 0), ("false", 0)])
def test_what_the_values_say_wins_over_what_the_cluster_has(enabled: bool | str, expected: int) -> None:
    for cluster in (chart.BARE, chart.WITH_OPERATOR):
        made = chart.objects({"podMonitor": {"enabled": enabled}}, cluster)
        assert sum(each["kind"] == "PodMonitor" for each in made) == expected


def test_the_default_release_runs_no_pod_but_the_one_of_helm_test() -> None:
    pods = [each for each in chart.objects() if each["kind"] in ("Pod", "Deployment", "Job")]
    assert [each["metadata"]["annotations"]["helm.sh/hook"] for each in pods] == ["test"]


def test_jobs_may_run_in_the_releases_own_namespace() -> None:
    made = chart.objects({"jobs": {"namespace": "airflow"}})
    assert not [each for each in made if each["kind"] == "Namespace"]
    assert one(made, "RoleBinding")["metadata"]["namespace"] == "airflow"


def test_no_container_is_told_one_name_twice() -> None:
    # Helm 4 applies on the server, which takes no list with two of one name.
    values = {
        "antenna": {"url": "https://antenna.example.org/api/v2"},
        "worker": {
            "env": {"TIDEGATE_STAGING_DIR": "/elsewhere", "REGION": "plain"},
            "secretEnv": {"REGION": "place/region"},
        },
    }
    for made in chart.objects(values, chart.WITH_OPERATOR):
        spec = made.get("spec", {})
        for container in spec.get("template", {}).get("spec", spec).get("containers", []):
            names = [each["name"] for each in container["env"]]
            assert len(names) == len(set(names)), made["metadata"]["name"]
            assert (
                container["name"] != "doctor"
                or {"name": "TIDEGATE_STAGING_DIR", "value": "/staging"} in container["env"]
            )


def test_results_outlive_the_release() -> None:
    made = chart.objects(EVERYTHING)
    kept = {
        each["metadata"]["name"]
        for each in made
        if each["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep"
    }
    assert kept == {"tidegate-jobs", "tidegate-results", "tidegate-weights"}


def test_every_object_carries_the_common_labels() -> None:
    for made in chart.objects(EVERYTHING, chart.WITH_OPERATOR):
        labels = made["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "tidegate"
        assert labels["app.kubernetes.io/instance"] == "tidegate"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert {"app.kubernetes.io/component", "app.kubernetes.io/version", "helm.sh/chart"} <= labels.keys()


def test_a_release_of_another_name_keeps_its_objects_apart_and_finds_the_same_workers() -> None:
    made = chart.objects({}, chart.WITH_OPERATOR, name="night", namespace="orchestration")
    assert one(made, "ConfigMap", "night-tidegate-settings")["metadata"]["namespace"] == "orchestration"
    assert one(made, "PodMonitor")["spec"]["selector"] == {"matchLabels": dict(WORKER_LABELS)}


def test_the_monitor_scrapes_the_pods_that_the_operators_make(monkeypatch: pytest.MonkeyPatch) -> None:
    made = chart.objects(EVERYTHING, chart.WITH_OPERATOR)
    worker = pod(configured(monkeypatch, environment(EVERYTHING)))
    spec = one(made, "PodMonitor")["spec"]
    assert spec["namespaceSelector"]["matchNames"] == [worker["metadata"]["namespace"]]
    assert selects(spec["selector"], worker["metadata"]["labels"])
    (endpoint,) = spec["podMetricsEndpoints"]
    ports = {each["name"]: each["containerPort"] for each in worker["spec"]["containers"][0]["ports"]}
    assert ports[endpoint["port"]] == METRICS_PORT
    assert endpoint["interval"] == "5s"
    assert endpoint["honorLabels"] is False


def test_the_breaker_expects_samples_as_often_as_the_monitor_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"plan": {"scrapeSeconds": 10}}
    made = chart.objects(values, chart.WITH_OPERATOR)
    (endpoint,) = one(made, "PodMonitor")["spec"]["podMetricsEndpoints"]
    assert (endpoint["interval"], endpoint["scrapeTimeout"]) == ("10s", "9s")
    assert configured(monkeypatch, environment(values)).scrape_seconds == 10.0


def test_the_pod_of_helm_test_is_hardened_as_worker_pods_are(monkeypatch: pytest.MonkeyPatch) -> None:
    values = chart.scenarios()["antenna"]
    made = chart.objects(values)
    worker = pod(configured(monkeypatch, environment(values)))["spec"]
    doctor = one(made, "Pod")["spec"]
    for field in (
        "securityContext", "serviceAccountName", "automountServiceAccountToken", "enableServiceLinks",
        "restartPolicy", "imagePullSecrets", "priorityClassName",
    ):  # fmt: skip
        assert doctor[field] == worker[field], field
    (container,) = doctor["containers"]
    (like,) = worker["containers"]
    for field in ("image", "imagePullPolicy", "securityContext"):
        assert container[field] == like[field], field
    assert container["args"] == ["doctor"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == like["resources"]["limits"]["nvidia.com/gpu"]
    told = {each["name"]: each for each in like["env"]}
    for each in container["env"]:
        if each["name"] not in ("TIDEGATE_STAGING_DIR", "TIDEGATE_WEIGHTS_DIR"):
            assert told[each["name"]] == each


def test_the_namespace_enforces_what_worker_pods_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = one(chart.objects(), "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    spec = pod(configured(monkeypatch, environment(EVERYTHING)))["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = spec["containers"]
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    # Of all kinds of volumes the standard allows these among others.
    assert {kind for each in spec["volumes"] for kind in each if kind != "name"} <= {
        "emptyDir",
        "persistentVolumeClaim",
    }
