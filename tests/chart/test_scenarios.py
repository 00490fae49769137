"""Every scenario of the chart through Helm's own code, and every object against the API that would get it."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import jsonschema
import kubernetes_validate
import pytest
import yaml
from helm import chart
from kubernetes_validate.utils import all_versions, major_minor

SCENARIOS = chart.scenarios()
CLUSTERS = {"bare": chart.BARE, "operator": chart.WITH_OPERATOR}
OLDEST = (1, 33)
VERSIONS = sorted(
    {major_minor(version) for version in all_versions()},
    key=lambda version: tuple(map(int, version.split("."))),
)
OPERATOR_SCHEMAS = Path(__file__).parent / "operator"
_IN_ALL = [(scenario, cluster) for scenario in SCENARIOS for cluster in CLUSTERS]


@cache
def _rendered(scenario: str, cluster: str) -> list[dict[str, Any]]:
    return chart.objects(SCENARIOS[scenario], CLUSTERS[cluster])


def _of_the_operator(made: dict[str, Any]) -> bool:
    return str(made["apiVersion"]).startswith("monitoring.coreos.com/")


@cache
def _distinct(of_the_operator: bool) -> dict[str, dict[str, Any]]:
    """Each object that any scenario gives, once."""
    made = [each for scenario, cluster in _IN_ALL for each in _rendered(scenario, cluster)]
    return {json.dumps(each, sort_keys=True): each for each in made if _of_the_operator(each) is of_the_operator}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_helms_linter_finds_nothing_in_a_scenario(scenario: str) -> None:
    assert chart.findings(SCENARIOS[scenario]) == []


def test_the_linter_is_heard_where_something_is_wrong() -> None:
    assert any("capGib" in finding for finding in chart.findings({"plan": {"capGib": "much"}}))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_an_install_goes_through_but_for_the_cluster(scenario: str) -> None:
    with helm_python.Config(namespace="airflow") as nowhere:
        release = nowhere.install(chart.CHART, "tidegate", dict(SCENARIOS[scenario]), dry_run="client")
    assert release["manifest"].count("\nkind:") >= 6
    namespace = SCENARIOS[scenario].get("jobs", {}).get("namespace", "tidegate-jobs")
    assert f"worker pods run in the namespace {namespace}" in release["notes"]


@pytest.mark.parametrize(("scenario", "cluster"), _IN_ALL)
def test_no_two_objects_of_a_release_have_one_name(scenario: str, cluster: str) -> None:
    names = [
        (each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"])
        for each in _rendered(scenario, cluster)
    ]
    assert sorted(map(str, names)) == sorted(map(str, set(names)))


def test_the_schemas_reach_from_the_first_version_that_resizes_to_the_newest() -> None:
    assert f"{OLDEST[0]}.{OLDEST[1]}" in VERSIONS
    assert tuple(map(int, VERSIONS[-1].split("."))) >= (1, 36)


@pytest.mark.parametrize("version", [each for each in VERSIONS if tuple(map(int, each.split("."))) >= OLDEST])
def test_kubernetes_takes_every_object_without_a_field_it_does_not_know(version: str) -> None:
    for made in _distinct(of_the_operator=False).values():
        assert kubernetes_validate.validate(made, version, strict=True) == version


def test_a_field_that_kubernetes_does_not_know_would_be_found() -> None:
    made = {**next(iter(_distinct(of_the_operator=False).values())), "spek": {}}
    with pytest.raises(kubernetes_validate.ValidationError, match="spek"):
        kubernetes_validate.validate(made, VERSIONS[-1], strict=True)


def _operator_schema(kind: str) -> Any:
    return json.loads((OPERATOR_SCHEMAS / f"{kind}.json").read_text())


def test_the_operator_takes_every_object_of_its_kinds() -> None:
    made = _distinct(of_the_operator=True).values()
    assert {each["kind"] for each in made} >= {"PodMonitor"}
    for each in made:
        jsonschema.validate(each, _operator_schema(each["kind"]))


def test_a_field_that_the_operator_does_not_know_would_be_found() -> None:
    made = next(each for each in _distinct(of_the_operator=True).values() if each["kind"] == "PodMonitor")
    made = json.loads(json.dumps(made))
    made["spec"]["podMetricsEndpoints"][0]["scrapeIntervall"] = "5s"
    with pytest.raises(jsonschema.ValidationError, match="scrapeIntervall"):
        jsonschema.validate(made, _operator_schema("PodMonitor"))


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.skipif(shutil.which("helm") is None, reason="no helm on PATH; its own Go code has rendered the same")
def test_the_binary_on_the_path_renders_the_same(scenario: str) -> None:
    values = chart.CHART / "ci" / f"{scenario}-values.yaml"
    command = ["helm", "template", "tidegate", str(chart.CHART), "--namespace", "airflow", "--values", str(values)]
    command += ["--kube-version", chart.BARE.version]
    made = yaml.safe_load_all(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert sorted(json.dumps(each, sort_keys=True) for each in made if each) == sorted(
        json.dumps(each, sort_keys=True) for each in _rendered(scenario, "bare")
    )


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl on PATH")
def test_kubectl_reads_every_object(scenario: str) -> None:
    objects = _rendered(scenario, "operator")
    command = ["kubectl", "label", "--local", "--filename", "-", "read=yes", "--output", "name"]
    read = subprocess.run(command, input=yaml.safe_dump_all(objects), check=True, capture_output=True, text=True)
    assert len(read.stdout.splitlines()) == len(objects)
