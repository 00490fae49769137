"""The dashboards: current, whole, and full of numbers when a real Prometheus that watched a real worker is asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from monitoring.grafana.__main__ import FOLDER
from monitoring.grafana.__main__ import dashboards as generated
from tests.monitoring.panels_bed import SERIES, Asked, Viewer, annotations, dashboards, panels, queries, variables
from tests.monitoring.watched_run import NAMESPACE, RUN_ID, WORKER, watched

from tidegate.core.contract import Metric, StoreMetric

UIDS = ["tidegate-baseline", "tidegate-fleet", "tidegate-run"]
PROMISED = {value for names in (Metric, StoreMetric) for name, value in vars(names).items() if name.isupper()}


def test_the_files_are_what_the_code_makes() -> None:
    written = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}
    assert written == generated(), "run python -m monitoring.grafana"


def test_alerts_find_the_dashboards_and_their_variables() -> None:
    assert sorted(dashboards()) == UIDS
    for uid in UIDS:
        names = [each["name"] for each in dashboards()[uid]["templating"]["list"]]
        assert names[:3] == ["datasource", "namespace", "job"]
        assert len(variables(uid)) == len(names) - 1
    assert "run" in variables("tidegate-run")


@pytest.mark.parametrize("uid", UIDS)
def test_every_panel_says_what_it_shows_and_asks_the_chosen_data_source(uid: str) -> None:
    shown = list(panels(dashboards()[uid]))
    titles = [panel["title"] for panel in shown]
    assert len(titles) == len(set(titles))
    for panel in shown:
        assert panel["description"], panel["title"]
        assert panel["targets"], panel["title"]
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert {source["uid"] for source in sources} == {"${datasource}"}, panel["title"]
        legends = [target["legendFormat"] for target in panel["targets"]]
        assert len(legends) == len(set(legends)), panel["title"]


@pytest.mark.parametrize("uid", UIDS)
def test_panels_do_not_cover_each_other(uid: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboards()[uid]["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24, panel["title"]
        assert not taken & cells, panel["title"]
        taken |= cells


@pytest.mark.parametrize("asked", queries(), ids=str)
def test_only_series_that_the_contract_promises_are_asked_for(asked: Asked) -> None:
    named = {name.removesuffix("_bucket") for name in SERIES.findall(asked.expr)}
    assert named
    assert named <= PROMISED


# -- asked of a real Prometheus ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    if not WORKER.exists():
        pytest.skip("the worker's environment is not there: scripts/setup worker")
    try:
        with watched(tmp_path_factory.mktemp("watched")) as looking:
            yield looking
    except FileNotFoundError as why:
        pytest.skip(str(why))


@pytest.mark.parametrize("asked", queries(), ids=str)
def test_every_query_of_every_panel_has_an_answer(viewer: Viewer, asked: Asked) -> None:
    if asked.needs_gpu and not viewer.sees("tidegate_gpu_memory_bytes", instant=False):
        # It must still be a query; no worker on this machine has a GPU to tell of.
        assert viewer.sees(asked.expr, instant=asked.instant) == []
        pytest.skip("no GPU here: its panel is rightly empty")
    assert not viewer.is_empty(asked), f"{asked} is empty: {asked.expr}"


def test_a_query_that_fails_and_one_that_finds_nothing_are_told_apart_from_an_answer(viewer: Viewer) -> None:
    def asked(expr: str) -> Asked:
        return Asked("", "", "", expr, instant=False)

    assert viewer.is_empty(asked("tidegate_of_nobody"))
    assert viewer.is_empty(asked("0 * tidegate_run_images / 0"))
    assert not viewer.is_empty(asked("tidegate_run_images"))
    with pytest.raises(AssertionError, match="parse error"):
        viewer.is_empty(asked("sum by ("))


@pytest.mark.parametrize("uid", UIDS)
def test_every_variable_has_values_to_choose_from(viewer: Viewer, uid: str) -> None:
    offered = {name: viewer.values(*query) for name, query in variables(uid).items()}
    assert all(offered.values()), offered
    assert offered["namespace"] == [NAMESPACE]
    assert offered.get("run", [RUN_ID]) == [RUN_ID]


def test_a_trip_is_marked_at_its_time_on_every_graph(viewer: Viewer) -> None:
    marked = {name: viewer.sees(expr, instant=False) for name, expr in annotations().items()}
    assert viewer.since * 1000 <= marked["Trips"][-1] <= viewer.until * 1000
    assert marked["OOM kills"] == []


def test_figures_of_the_run_are_those_of_its_store(viewer: Viewer) -> None:
    def figure(panel: str) -> Any:
        (asked,) = [each for each in queries() if each.dashboard == "tidegate-run" and each.panel == panel]
        return viewer.sees(asked.expr, instant=asked.instant)

    assert figure("Trips") == [1]
    assert figure("OOM kills") == [0]
    assert figure("Answered") == [1]
