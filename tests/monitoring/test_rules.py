"""The rule files: what promtool says of them, and that no alert lacks a test, a word or a runbook."""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.monitoring.files import RULE_TESTS, RULES, RUNBOOKS, alerts, rules

from tidegate.core.contract import Metric, StoreMetric

HEADINGS = ["## Meaning", "## Impact", "## Diagnosis", "## Mitigation"]
#: Only of the exporter's absence is there no run to tell.
WITHOUT_A_RUN = {"TidegateExporterMissing"}
#: What cAdvisor and kube-state-metrics export is theirs.
OF_OTHERS = ("container_", "kube_")


def promtool(*arguments: object) -> str:
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def checks() -> dict[str, list[tuple[str, bool]]]:
    """By alert: the names of the tests that look at it, each with whether it must fire there."""
    found: dict[str, list[tuple[str, bool]]] = defaultdict(list)
    for path in RULE_TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for check in test.get("promql_expr_test", ()):
                if name := re.search(r'alertname="(\w+)"', check["expr"]):
                    found[name[1]].append((test["name"], bool(check["exp_samples"])))
    return found


def test_prometheus_takes_the_rules() -> None:
    assert "SUCCESS" in promtool("check", "rules", *RULES)


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_the_rules_do_what_their_unit_tests_say(path: Path) -> None:
    assert "SUCCESS" in promtool("test", "rules", path)


@pytest.mark.parametrize("name", sorted({alert.name for alert in alerts()}))
def test_each_alert_is_seen_to_fire_and_to_stay_silent(name: str) -> None:
    found = checks()[name]
    assert any(fires for _, fires in found), "no test in which it fires"
    reasons = [test for test, fires in found if test.startswith("must not fire") and not fires]
    assert reasons, "no test in which it must not fire"
    assert all(" - " in reason for reason in reasons), "a must-not test that does not say why"


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: f"{alert.name}-{alert.labels['severity']}")
def test_each_alert_says_what_is_wrong_where_and_what_to_do(alert: Any) -> None:
    assert alert.labels["severity"] in ("critical", "warning")
    said = alert.annotations
    assert "{{" not in said["summary"], "a summary that changes cannot be grouped by"
    facts = {"job_id", "run_id", "slot", "generation", "pipeline", "model_version", "pod", "node"}
    if alert.name not in WITHOUT_A_RUN:
        assert {fact for fact in facts if fact in said["description"]} == facts
    assert said["evidence"]
    assert "/d/tidegate-run/" in said["dashboard_url"]
    assert "&from=" in said["dashboard_url"]
    assert "&to=" in said["dashboard_url"]
    page = RUNBOOKS / said["runbook_url"].rpartition("/")[2]
    headings = [line for line in page.read_text().splitlines() if line.startswith("## ")]
    assert headings == HEADINGS
    assert alert.name in page.read_text()


def test_no_runbook_is_about_an_alert_that_is_gone() -> None:
    named = {alert.annotations["runbook_url"].rpartition("/")[2] for alert in alerts()}
    assert {path.name for path in RUNBOOKS.glob("*.md")} - {"README.md"} == named


def test_every_series_that_a_rule_names_is_exported_or_recorded() -> None:
    exported = {value for names in (Metric, StoreMetric) for name, value in vars(names).items() if name.isupper()}
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for rule in rules():
        named = set(re.findall(r"\b(?:tidegate|container|kube)[_:][a-z_:]+\b(?=[ \[{)/\n]|$)", rule["expr"]))
        unknown = {name for name in named - exported - recorded if not name.startswith(OF_OTHERS)}
        assert not unknown, f"{rule.get('record', rule.get('alert'))} rests on {unknown}"


def test_every_number_that_decides_stands_among_the_thresholds() -> None:
    for alert in alerts():
        decisive = re.findall(r"(?:[<>]=?|==) *([0-9.]+)\b", alert.expr)
        assert set(decisive) <= {"0", "1"}, f"{alert.name} compares with {decisive}"
