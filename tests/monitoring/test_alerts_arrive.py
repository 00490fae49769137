"""From a series to a person: real rules, a real Alertmanager, and what arrives at each of the four services."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from tests.adapters.metrics_bed import Exporter, eventually
from tests.monitoring.bed import PATIENCE_SECONDS, Services, alertmanager_at, prometheus_at, put_secrets
from tests.monitoring.files import REPOSITORY

ALL = ("slack", "pagerduty", "opsgenie", "webhook")


def series(name: str, value: float, **labels: str) -> str:
    inner = ",".join(f'{label}="{text}"' for label, text in labels.items())
    return f"{name}{{{inner}}} {value}\n"


def run(run_id: str, job_id: str, *, locked_out: bool) -> str:
    """What `tidegate exporter` says of a run whose slot has just tripped, and was locked out or not."""
    kind = {"pipeline": "moths", "model_version": "v-41"}
    slot = {"run_id": run_id, "slot": "0"}
    where = {"generation": "2", "node": "node-17"}
    pod = {"worker_namespace": "jobs", "worker_pod": f"tidegate-{job_id}-run-0"}
    return (
        series("tidegate_slot_info", 1, **slot, job_id=job_id, **kind, **where, **pod)
        + series("tidegate_run_state", 1, run_id=run_id, state="running", job_id=job_id, **kind)
        + series("tidegate_run_images_acked", 118, run_id=run_id)
        + series("tidegate_breaker_state", float(locked_out), **slot, state="locked_out")
        + series("tidegate_breaker_trip_timestamp_seconds", time.time(), **slot, cause="velocity", **where)
    )


@pytest.fixture
def services() -> Iterator[Services]:
    started = Services().start()
    yield started
    started.stop()


@pytest.fixture
def exporter(services: Services) -> Iterator[Exporter]:
    links = series("tidegate_links_info", 1, dashboards=services.base, docs="http://docs.test")
    made = Exporter(links + run("dag/night 1", "4711", locked_out=True)).start()
    yield made
    made.stop()


def links(payload: Any) -> set[str]:
    """The dashboard's links in it."""
    words = json.dumps(payload).replace("\\u0026", "&").replace("\\n", " ").replace('"', " ").replace("\\", " ")
    return {word for word in words.split() if "/d/tidegate-run/" in word}


def test_a_lock_out_reaches_all_four_with_its_facts_and_a_link_that_works(
    services: Services, exporter: Exporter, tmp_path: Path
) -> None:
    secrets = put_secrets(tmp_path / "secrets", services.base)
    with alertmanager_at(tmp_path, secrets, services) as alerts, prometheus_at(tmp_path, exporter.target, alerts):
        eventually(lambda: set(services.told), lambda told: told >= set(ALL), PATIENCE_SECONDS)
        for service in ALL:
            (payload,) = services.told[service]
            said = json.dumps(payload)
            facts = ("4711", "dag/night 1", "0/2", "118 images", "moths", "v-41", "jobs/tidegate-4711-run-0", "node-17")
            assert [fact for fact in facts if fact not in said] == []
            assert "runbooks/locked-out.md" in said
            assert "TidegateBreakerTripped" not in said, "a lock-out silences the trip that led to it"
            assert links(payload)
            for link in links(payload):
                assert requests.get(link, timeout=5).status_code == 200
                asked = {name: values[0] for name, values in parse_qs(urlsplit(link).query).items()}
                assert (asked["var-run"], asked["var-job"], asked["var-namespace"]) == ("dag/night 1", "4711", "jobs")
                assert int(asked["from"]) < 1000 * time.time() < int(asked["to"])
        assert "GenieKey opsgenie-key" in services.keys
        assert services.told["pagerduty"][0]["routing_key"] == "0123456789abcdef0123456789abcdef"
        assert services.told["pagerduty"][0]["event_action"] == "trigger"

        # Another run trips and goes on by itself: told in the channel, paging nobody, and nothing is told twice.
        exporter.text = (exporter.text or "") + run("dag/night 2", "4712", locked_out=False)
        eventually(lambda: len(services.told["webhook"]), lambda told: told == 2, PATIENCE_SECONDS)
        eventually(lambda: len(services.told["slack"]), lambda told: told == 2, PATIENCE_SECONDS)
        second = services.told["webhook"][1]
        assert [each["labels"]["alertname"] for each in second["alerts"]] == ["TidegateBreakerTripped"]
        assert second["commonLabels"]["run_id"] == "dag/night 2"
        assert (len(services.told["pagerduty"]), len(services.told["opsgenie"])) == (1, 1)

        # A person resets the first: all are told that it is over.
        exporter.text = (exporter.text or "").replace('state="locked_out"} 1.0', 'state="locked_out"} 0.0')
        over = eventually(lambda: services.told["pagerduty"][-1], lambda e: e["event_action"] == "resolve", 120)
        assert over["dedup_key"] == services.told["pagerduty"][0]["dedup_key"]


def test_channels_without_a_secret_keep_none_of_the_others_from_being_told(
    services: Services, exporter: Exporter, tmp_path: Path
) -> None:
    secrets = put_secrets(tmp_path / "secrets", services.base, "pagerduty-routing-key", "opsgenie-api-key")
    with alertmanager_at(tmp_path, secrets, services) as alerts:
        # Another is lost while it runs.
        (secrets / "slack-url").unlink()
        with prometheus_at(tmp_path, exporter.target, alerts):
            eventually(lambda: set(services.told), lambda told: "webhook" in told, PATIENCE_SECONDS)
    assert set(services.told) == {"webhook"}


def test_the_link_opens_a_dashboard_with_the_variables_that_it_sets() -> None:
    board = json.loads((REPOSITORY / "monitoring" / "dashboards" / "tidegate-run.json").read_text())
    assert board["uid"] == "tidegate-run"
    assert {"namespace", "job", "run"} <= {variable["name"] for variable in board["templating"]["list"]}
