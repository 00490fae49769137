"""The ConfigMap against the settings that the control plane reads, and what reaches worker pods through them."""

from __future__ import annotations

import json
import re

import pytest
from helm import chart
from tests.chart.rendered import configured, environment, one

from tidegate.adapters.configuration import Configuration, described
from tidegate.core.contract import GIB


@pytest.mark.parametrize("scenario", chart.scenarios())
def test_every_name_in_the_environment_is_a_setting_and_every_value_can_be_read(
    monkeypatch: pytest.MonkeyPatch, scenario: str
) -> None:
    told = environment(chart.scenarios()[scenario])
    assert told.keys() <= {name for name, _, _ in described()}
    assert configured(monkeypatch, told).namespace == chart.scenarios()[scenario].get("jobs", {}).get(
        "namespace", "tidegate-jobs"
    )


def test_the_values_reach_the_control_plane(monkeypatch: pytest.MonkeyPatch) -> None:
    values = chart.scenarios()["antenna"]
    found = configured(monkeypatch, environment(values))
    assert found.worker_image == "images.example.org/tidegate/tidegate-worker:0.1.0"
    assert (found.gpus, found.cap_bytes, found.staging_bytes) == (1, 64 * GIB, 10 * GIB)
    assert found.image_pull_secrets == ("registry",)
    assert found.pipelines == ("quebec_vermont_moths_2023", "global_moths_2024")
    assert found.nightly_timezone == "America/Montreal"
    assert found.pod_env["TIDEGATE_ANTENNA_URL"] == found.antenna_url == "https://antenna.example.org/api/v2"
    assert found.pod_secrets == {"TIDEGATE_ANTENNA_TOKEN": "tidegate-antenna/token"}
    assert found.weights_claim == "tidegate-weights"
    assert found.slack_conn_id == "slack_tidegate"
    assert found.opsgenie_conn_id is None


def test_the_large_uids_of_openshift_are_told_in_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert configured(monkeypatch, environment({"worker": {"uid": 1000650000}})).uid == 1000650000


def test_manifest_jobs_get_their_ledger_by_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    found = configured(monkeypatch, environment(chart.scenarios()["manifests"]))
    assert found.pod_secrets["TIDEGATE_LEDGER_URL"] == "tidegate-ledger/ledger-url"
    assert found.nightly_manifests == ("global_moths_2024=s3://surveys/{{ ds }}.csv",)
    assert found.ledger_url is None
    assert (found.staging_claim, found.results_claim) == ("tidegate-staging", "tidegate-results")


def test_what_the_chart_does_not_say_keeps_the_default_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    found = configured(monkeypatch, environment())
    plain = configured(monkeypatch, {})
    chosen = {
        "namespace", "service_account", "worker_image", "prometheus_url",
    }  # fmt: skip
    assert {name for name in Configuration.model_fields if getattr(found, name) != getattr(plain, name)} == chosen


def test_settings_by_name_win_over_values(monkeypatch: pytest.MonkeyPatch) -> None:
    told = environment({"plan": {"leaseSeconds": 200}, "settings": {"TIDEGATE_LEASE_SECONDS": "250"}})
    assert configured(monkeypatch, told).lease_seconds == 250.0


@pytest.mark.parametrize(
    ("version", "told", "resizes"),
    [("v1.33.0", "auto", True), ("v1.33.1+k3s1", "auto", True), ("v1.32.9-gke.1", "auto", False),
     ("v1.32.0", True, True), ("v1.36.0", False, False)],
)  # fmt: skip
def test_pods_are_resized_where_the_cluster_can(
    monkeypatch: pytest.MonkeyPatch, version: str, told: bool | str, resizes: bool
) -> None:
    found = environment({"plan": {"resize": told}}, chart.Cluster(version=version))
    assert configured(monkeypatch, found).resize is resizes


def test_the_environment_of_pods_is_known_to_the_worker() -> None:
    documented = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", (chart.REPOSITORY / "docs" / "settings.md").read_text()))
    for scenario in chart.scenarios().values():
        told = environment(scenario)
        names = json.loads(told.get("TIDEGATE_POD_ENV", "{}")) | json.loads(told.get("TIDEGATE_POD_SECRETS", "{}"))
        ours = {name for name in names if name.startswith("TIDEGATE_")}
        assert ours <= documented
        doctor = one(chart.objects(scenario), "Pod")["spec"]["containers"][0]["env"]
        assert {each["name"] for each in doctor if each["name"].startswith("TIDEGATE_")} <= documented


@pytest.mark.parametrize("scenario", chart.scenarios())
def test_no_secret_is_made_and_none_is_told_in_plain(scenario: str) -> None:
    made = chart.objects(chart.scenarios()[scenario], chart.WITH_OPERATOR)
    assert not [each for each in made if each["kind"] == "Secret"]
    secret = re.compile(r"(TOKEN|PASSWORD|SECRET|ACCESS_KEY|LEDGER_URL|RUN_STORE_URL)$")
    assert not [name for name in environment(chart.scenarios()[scenario]) if secret.search(name)]
    for each in one(made, "Pod")["spec"]["containers"][0]["env"]:
        assert "valueFrom" in each or not secret.search(each["name"]), each["name"]
