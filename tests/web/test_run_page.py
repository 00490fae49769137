"""The page of a run as Airflow's own server mounts it: who may see it, and that it shows all and runs nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from airflow.api_fastapi.app import init_auth_manager, init_plugins
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.models import import_all_models
from airflow.models.base import Base
from airflow.plugins_manager import get_plugin_info
from airflow.settings import engine
from fastapi import FastAPI
from fastapi.testclient import TestClient
from tests.adapters.examples import RUN_ID, attempt, moved, planned, the_slot, trip

from tidegate.adapters.configuration import configuration
from tidegate.adapters.run_store import RunState, RunStore, StoredTrip
from tidegate.control.closing import Summary
from tidegate.core.contract import GIB
from tidegate.core.slot import Phase, SlotState

DAG, _, DAG_RUN = RUN_ID.partition("/")
PAGE = f"/tidegate/dags/{DAG}/runs/{DAG_RUN}"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunStore]:
    url = f"sqlite:///{tmp_path}/runs.sqlite"
    monkeypatch.setenv("TIDEGATE_RUN_STORE_URL", url)
    configuration.cache_clear()
    opened = RunStore.open(url)
    yield opened
    opened.close()
    configuration.cache_clear()


@pytest.fixture(scope="module")
def server() -> FastAPI:
    """What of Airflow's API server has to do with plugins: its loader, its mounts, its users, its tables."""
    import_all_models()
    Base.metadata.create_all(engine)
    server = FastAPI()
    init_plugins(server)
    init_auth_manager(server)
    return server


@pytest.fixture
def viewer(server: FastAPI) -> TestClient:
    user = SimpleAuthManagerUser(username="reader", role="viewer")
    token = server.state.auth_manager.generate_jwt(user)
    return TestClient(server, headers={"Authorization": f"Bearer {token}"})


def happened(store: RunStore, *, reason: str = "", evidence: str = "it grows") -> None:
    """A pod of the run's first slot has tripped the breaker."""
    before = the_slot(store)
    after: SlotState = moved(before.state, phase=Phase.CLOSED, pod_uid="uid-1", reason=reason)
    shown = StoredTrip(trip(before.state, evidence=(evidence,)), "resize", "2.00 to 4.00 GiB without a restart")
    store.advance(before, after, attempt=attempt(before.state), trip=shown)


def summary(run_id: str) -> Summary:
    return Summary(
        run_id=run_id, state="failed", images=100, acked=99, failed=1, quarantined=1, attempts=2, trips=1, resizes=1,
        relaunches=0, oom_kills=0, limit_steps=(2 * GIB, 4 * GIB), planned_bytes=2 * GIB, peak_bytes=3 * GIB,
        images_redone=0, pause_seconds=0.0, wall_seconds=60.0, maq=0.8, allocated_gib_hours=0.1, static_gib_hours=0.4,
        peak_by_weekday="usual: 3 runs", peak_by_forecast=None,
    )  # fmt: skip


def test_airflow_shows_the_page_on_every_run() -> None:
    [ours] = [each for each in get_plugin_info() if each["name"] == "tidegate"]
    assert ours["external_views"] == [
        {
            "name": "Tidegate",
            "href": "/tidegate/dags/{DAG_ID}/runs/{RUN_ID}",
            "destination": "dag_run",
            "url_route": "tidegate",
        }
    ]


def test_nobody_reads_it_without_a_token(server: FastAPI, store: RunStore) -> None:
    planned(store)
    assert TestClient(server).get(PAGE).status_code == 401


def test_a_token_that_is_not_airflows_is_refused(server: FastAPI, store: RunStore) -> None:
    planned(store)
    assert TestClient(server, headers={"Authorization": "Bearer forged"}).get(PAGE).status_code == 403


def test_it_shows_plan_slots_pods_and_trips_of_a_live_run(viewer: TestClient, store: RunStore) -> None:
    planned(store, reasons=("models take 0.50 GiB",))
    happened(store, evidence="12 MiB/s for 60 s")
    answer = viewer.get(PAGE)
    assert answer.status_code == 200
    for words in ("antenna 7", "models take 0.50 GiB", "12 MiB/s for 60 s", "2.00Gi", "pod-0"):
        assert words in answer.text
    assert 'http-equiv="refresh"' in answer.text


def test_a_run_that_has_ended_is_no_longer_read_anew(viewer: TestClient, store: RunStore) -> None:
    planned(store)
    store.end_run(RUN_ID, RunState.FAILED, 1_000_200.0, json.dumps(asdict(summary(RUN_ID))), None)
    answer = viewer.get(PAGE)
    assert "answered 99, failed 1" in answer.text
    assert "2.00Gi → 4.00Gi" in answer.text
    assert "against the same weekday: usual: 3 runs" in answer.text
    assert "http-equiv" not in answer.text


def test_what_a_pod_wrote_is_text_and_no_markup(viewer: TestClient, store: RunStore) -> None:
    planned(store)
    happened(store, reason="<script>alert(1)</script>")
    answer = viewer.get(PAGE)
    assert "<script" not in answer.text
    assert "&lt;script&gt;alert(1)" in answer.text
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["Cache-Control"] == "no-store"


def test_a_run_of_another_dag_has_nothing_to_show(viewer: TestClient, store: RunStore) -> None:
    answer = viewer.get("/tidegate/dags/other/runs/manual__2026-01-01T00:00:00+00:00")
    assert answer.status_code == 404
    assert "Nothing to show yet" in answer.text


def test_it_changes_nothing_and_publishes_no_interface(viewer: TestClient, store: RunStore) -> None:
    planned(store)
    assert viewer.post(PAGE).status_code == 405
    assert viewer.get("/tidegate/openapi.json").status_code == 404
    assert viewer.get("/tidegate/docs").status_code == 404
