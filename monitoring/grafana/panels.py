"""How our panels look, once for all dashboards; what they ask is the views'."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeVar

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import prometheus as prometheus_model

DATASOURCE: Final = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG: Final = "tidegate"
#: Grid units: a row is 24 wide.
SIXTH, THIRD, HALF, FULL = 4, 8, 12, 24
GRAPH_HEIGHT, FIGURE_HEIGHT = 8, 4
#: Steps of what is set, not measured: drawn as stairs.
_STAIRS: Final = "/limit|cap|upper|budget/"


@dataclass(frozen=True, slots=True)
class Query:
    """One line of a panel; `legend` is a template over labels."""

    expr: str
    legend: str


Panel = Builder[model.Panel]
P = TypeVar("P", timeseries.Panel, stat.Panel, bargauge.Panel, statetimeline.Panel, table.Panel)


def graph(title: str, told: str, *queries: Query, unit: str = "short", span: int = HALF) -> timeseries.Panel:
    """Lines over time."""
    panel = (
        timeseries.Panel()
        .fill_opacity(8)
        .legend(
            common.VizLegendOptions()
            .display_mode(common_model.LegendDisplayMode.TABLE)
            .placement(common_model.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(common.VizTooltipOptions().mode(common_model.TooltipDisplayMode.MULTI))
        .override_by_regexp(
            _STAIRS,
            [
                model.DynamicConfigValue("custom.lineInterpolation", "stepAfter"),
                model.DynamicConfigValue("custom.fillOpacity", 0),
            ],
        )
    )
    return _asked(panel, title, told, queries, unit, span, GRAPH_HEIGHT)


def figure(title: str, told: str, query: Query, unit: str = "short", span: int = SIXTH) -> stat.Panel:
    """One number for the time shown, or the legend's words where `unit` is "string"."""
    panel = stat.Panel().graph_mode(common_model.BigValueGraphMode.NONE)
    if unit == "string":
        panel.text_mode(common_model.BigValueTextMode.NAME)
    return _asked(panel, title, told, [query], unit, span, FIGURE_HEIGHT, instant=True)


def bars(title: str, told: str, *queries: Query, unit: str = "short", span: int = HALF) -> bargauge.Panel:
    """A bar for each series, at the end of the time shown."""
    panel = bargauge.Panel().orientation(common_model.VizOrientation.HORIZONTAL)
    return _asked(panel, title, told, queries, unit, span, GRAPH_HEIGHT, instant=True)


def timeline(title: str, told: str, *queries: Query, span: int = FULL) -> statetimeline.Panel:
    """Which of several states held when."""
    panel = statetimeline.Panel().show_value(common_model.VisibilityMode.NEVER)
    return _asked(panel, title, told, queries, "short", span, GRAPH_HEIGHT)


def rows(title: str, told: str, facts: Query, columns: Iterable[tuple[Query, str]], *, link: str) -> table.Panel:
    """A line for each series of `facts` with its labels, and a column with its unit for each further query.

    The label that `facts` names in its legend is the key that all queries share; it leads to `link`.
    """
    panel = table.Panel()
    queries = [facts]
    for query, unit in columns:
        panel.override_by_name(
            f"Value #{_ref(len(queries))}",
            [model.DynamicConfigValue("displayName", query.legend), model.DynamicConfigValue("unit", unit)],
        )
        queries.append(query)
    panel.override_by_name(facts.legend, [model.DynamicConfigValue("links", [{"title": "Open", "url": link}])])
    panel.with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
    # Facts are labels; their value is always 1.
    hidden = {"Time": True, f"Value #{_ref(0)}": True}
    panel.with_transformation(model.DataTransformerConfig(id_val="organize", options={"excludeByName": hidden}))
    return _asked(panel, title, told, queries, "short", FULL, GRAPH_HEIGHT + 2, instant=True, as_table=True)


def _asked(
    panel: P,
    title: str,
    told: str,
    queries: Iterable[Query],
    unit: str,
    span: int,
    height: int,
    *,
    instant: bool = False,
    as_table: bool = False,
) -> P:
    panel.title(title).description(told).datasource(DATASOURCE).span(span).height(height).unit(unit)
    for number, query in enumerate(queries):
        target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(_ref(number))
        target.datasource(DATASOURCE)
        if instant:
            target.instant()
        else:
            target.range()
        if as_table:
            target.format(prometheus_model.PromQueryFormat.TABLE)
        panel.with_target(target)
    return panel


def _ref(number: int) -> str:
    return chr(ord("A") + number)


# -- around the panels -------------------------------------------------------------------------------------------------


def board(uid: str, title: str, told: str, since: str) -> dashboard.Dashboard:
    """An empty dashboard with what all have: the data source to choose, and links to the others."""
    return (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(told)
        .tags([TAG])
        .readonly()
        .refresh("30s")
        .time(f"now-{since}", "now")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("Tidegate")
            .type(model.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(False)
            .keep_time(True)
            .include_vars(True)
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )


def choice(name: str, label: str, query: str, *, one: bool = False) -> dashboard.QueryVariable:
    """A variable over the values of a label: all of them unless `one` is to be chosen."""
    variable = (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(DATASOURCE)
        .query(query)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        # Ids of runs hold their time: the newest first.
        .sort(model.VariableSort.ALPHABETICAL_DESC if one else model.VariableSort.ALPHABETICAL_ASC)
    )
    return variable if one else variable.multi(True).include_all(True).all_value(".*").current(_ALL)


_ALL: Final = model.VariableOption(selected=True, text="All", value="$__all")


class Moments(model.AnnotationQuery):
    """Marks on every graph at the times that a series of unix times tells."""

    def __init__(self, name: str, expr: str, title: str, color: str) -> None:
        super().__init__(name=name, datasource=DATASOURCE, enable=True, icon_color=color, expr=f"{expr} * 1000")
        self._title = title

    def to_json(self) -> dict[str, object]:
        # Grafana's own fields for Prometheus, which its schema leaves open.
        return super().to_json() | {"useValueForTime": True, "titleFormat": self._title, "step": "15s"}


@dataclass(frozen=True, slots=True)
class Marks(Builder[model.AnnotationQuery]):
    """The SDK takes builders only."""

    name: str
    expr: str
    title: str
    color: str

    def build(self) -> Moments:
        return Moments(self.name, self.expr, self.title, self.color)
