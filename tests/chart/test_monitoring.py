"""Rules, dashboards and routes as the operator and Grafana get them: those of monitoring/, which stand nowhere else."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python
import jsonschema
import pytest
import yaml
from helm import chart
from tests.chart.rendered import one

MONITORING = chart.REPOSITORY / "monitoring"
ALERTMANAGER = yaml.safe_load((MONITORING / "alertmanager" / "alertmanager.yaml").read_text())
#: What a cluster is told; the rest of the folder makes and tests it.
TOLD = ("rules/*.yaml", "dashboards/*.json", "alertmanager/*.yaml", "alertmanager/templates/*.tmpl")
CHANNELS = ["slack", "pagerduty", "opsgenie", "webhook"]
OURS = {"name": "alertname", "matchType": "=~", "value": "Tidegate.*"}


def _made(kind: str, **values: Any) -> list[dict[str, Any]]:
    return [each for each in chart.objects(values, chart.WITH_OPERATOR) if each["kind"] == kind]


def _routed(channels: list[str] = CHANNELS) -> dict[str, Any]:
    values = {"alertmanagerConfig": {"enabled": True, "channels": channels, "secretName": "alerting"}}
    return one(chart.objects(values), "AlertmanagerConfig")


# -- rules and dashboards ---------------------------------------------------------------------------


def test_the_operator_gets_every_rule_as_it_stands_in_monitoring() -> None:
    files = sorted((MONITORING / "rules").glob("*.yaml"))
    assert files
    made = {each["metadata"]["name"]: each["spec"] for each in _made("PrometheusRule")}
    assert made == {f"tidegate-{path.stem}": yaml.safe_load(path.read_text()) for path in files}


def test_grafanas_sidecar_gets_every_dashboard_as_it_stands_in_monitoring() -> None:
    files = sorted((MONITORING / "dashboards").glob("*.json"))
    assert files
    made = [each for each in _made("ConfigMap") if "grafana_dashboard" in each["metadata"]["labels"]]
    told = {name: json.loads(text) for each in made for name, text in each["data"].items()}
    assert told == {path.name: json.loads(path.read_text()) for path in files}
    # What etcd takes of one object.
    assert all(len(json.dumps(each)) < 1_000_000 for each in made)


def test_the_files_are_there_once() -> None:
    link = chart.CHART / "monitoring"
    assert link.is_symlink(), "a copy ages"
    assert link.resolve() == MONITORING


def test_the_package_holds_them_without_the_repository(tmp_path: Path) -> None:
    with helm_python.Chart.load(helm_python.package(chart.CHART, destination=tmp_path)) as packed:
        found = {each["name"]: each["data"] for each in packed.files if each["name"].startswith("monitoring/")}
    told = [path for pattern in TOLD for path in MONITORING.glob(pattern)]
    assert found == {f"monitoring/{path.relative_to(MONITORING)}": path.read_text() for path in told}


# -- routes -----------------------------------------------------------------------------------------


def _routes(route: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield route
    for each in route.get("routes", []):
        yield from _routes(each)


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for each in value.values():
                yield from _texts(each)
        case list():
            for each in value:
                yield from _texts(each)


def _matcher(told: str) -> dict[str, str]:
    name, kind, value = re.fullmatch(r'\s*(\w+)\s*(=~|!~|!=|=)\s*"?(.*?)"?\s*', told).groups()  # type: ignore[union-attr]
    return {"name": name, "matchType": kind, "value": value}


def test_the_operator_knows_every_field_of_every_route() -> None:
    schema = json.loads((Path(__file__).parent / "operator" / "AlertmanagerConfig.json").read_text())
    made = _routed()
    jsonschema.validate(made, schema)
    # The operator's schema says nothing of routes below the first.
    for route in _routes(made["spec"]["route"]):
        jsonschema.validate(route, {"$ref": "#/$defs/Route", "$defs": schema["$defs"]})


def test_routes_are_those_of_monitoring() -> None:
    told, made = list(_routes(ALERTMANAGER["route"])), list(_routes(_routed()["spec"]["route"]))
    assert len(told) == len(made) > 1
    for theirs, ours in zip(told, made, strict=True):
        assert ours.get("receiver") == theirs.get("receiver")
        for ours_name, theirs_name in (
            ("groupBy", "group_by"), ("groupWait", "group_wait"), ("groupInterval", "group_interval"),
            ("repeatInterval", "repeat_interval"), ("continue", "continue"),
        ):  # fmt: skip
            assert ours.get(ours_name) == theirs.get(theirs_name)
    for theirs, ours in zip(told[1:], made[1:], strict=True):
        assert ours["matchers"] == [_matcher(each) for each in theirs["matchers"]]


def test_alerts_of_others_are_neither_routed_nor_silenced() -> None:
    spec = _routed()["spec"]
    assert spec["route"]["matchers"] == [OURS]
    assert len(spec["inhibitRules"]) == len(ALERTMANAGER["inhibit_rules"]) > 0
    for made, told in zip(spec["inhibitRules"], ALERTMANAGER["inhibit_rules"], strict=True):
        assert made["sourceMatch"] == [OURS, *map(_matcher, told["source_matchers"])]
        assert made["targetMatch"] == [OURS, *map(_matcher, told["target_matchers"])]
        assert made["equal"] == told["equal"]


def test_every_alert_of_ours_has_the_name_that_is_routed() -> None:
    names = [rule["alert"] for each in _made("PrometheusRule") for group in each["spec"]["groups"]
             for rule in group["rules"] if "alert" in rule]  # fmt: skip
    assert names
    assert all(re.fullmatch(OURS["value"], name) for name in names)


def test_every_receiver_that_is_named_is_there() -> None:
    spec = _routed(["slack"])["spec"]
    there = {each["name"] for each in spec["receivers"]}
    assert {each["receiver"] for each in _routes(spec["route"]) if "receiver" in each} <= there


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_channel_that_is_not_chosen_asks_for_no_secret(channel: str) -> None:
    def configs(spec: dict[str, Any]) -> set[str]:
        return {key for receiver in spec["receivers"] for key in receiver if key != "name"}

    assert configs(_routed()["spec"]) >= {f"{channel}Configs"}
    assert configs(_routed([channel])["spec"]) == {f"{channel}Configs"}


def test_what_lies_in_a_file_there_is_a_key_of_the_secret_here() -> None:
    files = {
        Path(each).name for each in _texts(ALERTMANAGER["receivers"]) if each.startswith("/etc/alertmanager/secrets/")
    }
    files |= {Path(str(each)).name for key, each in ALERTMANAGER.get("global", {}).items() if key.endswith("_file")}
    spec = _routed()["spec"]
    told = json.dumps(spec)
    keys = set(re.findall(r'\{"key": "([^"]+)", "name": "alerting"\}', told))
    assert keys == files
    assert "/etc/alertmanager" not in told


def _read(text: str, *options: str) -> str:
    """What Alertmanager makes of a text, for an alert of its own."""
    command = ["amtool", "template", "render", f"--template.text={text}", *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_people_read_the_same_words_as_from_monitoring(tmp_path: Path) -> None:
    nothing = tmp_path / "none.tmpl"
    nothing.write_text("")
    made = {re.sub(r"^.*(?=\{\{ template)", "", each, flags=re.DOTALL): each for each in _texts(_routed()["spec"])}
    told = {each for each in _texts(ALERTMANAGER["receivers"]) if "{{ template" in each}
    assert told
    for text in told:
        words = _read(text, f"--template.glob={MONITORING}/alertmanager/templates/*.tmpl")
        assert _read(made[text], f"--template.glob={nothing}") == words, text
