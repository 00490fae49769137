"""The checked-in dashboards as Grafana would ask a Prometheus for them: every query, with its variables filled in."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from tidegate.core.contract import Metric

FOLDER = Path(__file__).parents[2] / "monitoring" / "dashboards"
#: Where no pod has a GPU its worker tells nothing of one, and a panel about it is rightly empty.
GPU_SERIES = frozenset({Metric.GPU_MEMORY})
SERIES = re.compile(r"tidegate_[a-z_]+")
_LABEL_VALUES = re.compile(r"label_values\((.*), (\w+)\)")


@dataclass(frozen=True)
class Asked:
    """One query of one panel."""

    dashboard: str
    panel: str
    ref: str
    expr: str
    instant: bool

    def __str__(self) -> str:
        return f"{self.dashboard}: {self.panel} {self.ref}"

    @property
    def needs_gpu(self) -> bool:
        return bool(GPU_SERIES & set(SERIES.findall(self.expr)))


def dashboards() -> dict[str, dict[str, Any]]:
    """The parsed files, by uid."""
    parsed = (json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json")))
    return {each["uid"]: each for each in parsed}


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (panel for panel in dashboard["panels"] if panel["type"] != "row")


def queries() -> list[Asked]:
    return [
        Asked(uid, panel["title"], target["refId"], target["expr"], bool(target.get("instant")))
        for uid, dashboard in dashboards().items()
        for panel in panels(dashboard)
        for target in panel["targets"]
    ]


def annotations() -> dict[str, str]:
    return {
        each["name"]: each["expr"]
        for dashboard in dashboards().values()
        for each in dashboard.get("annotations", {}).get("list", [])
    }


def variables(uid: str) -> dict[str, tuple[str, str]]:
    """The selector and the label of each variable that is a query."""
    listed = dashboards()[uid]["templating"]["list"]
    found = {each["name"]: _LABEL_VALUES.fullmatch(each["query"]) for each in listed if each["type"] == "query"}
    return {name: (match[1], match[2]) for name, match in found.items() if match is not None}


@dataclass(frozen=True)
class Viewer:
    """A person who looks at one run, from `since` until `until`."""

    url: str
    run_id: str
    since: float
    until: float
    session: requests.Session

    def sees(self, expr: str, *, instant: bool) -> list[float]:
        """Every number that the query brings; raises what Prometheus says where it fails."""
        filled = self._filled(expr)
        if instant:
            answer = self._get("query", query=filled, time=str(self.until))
            return [float(series["value"][1]) for series in answer["result"]]
        step = max(1.0, (self.until - self.since) / 300)
        answer = self._get("query_range", query=filled, start=str(self.since), end=str(self.until), step=f"{step:.0f}")
        return [float(value) for series in answer["result"] for _, value in series["values"]]

    def is_empty(self, asked: Asked) -> bool:
        return not any(math.isfinite(number) for number in self.sees(asked.expr, instant=asked.instant))

    def values(self, selector: str, label: str) -> list[str]:
        """What a variable offers."""
        found: list[str] = self._get(
            f"label/{label}/values",
            **{"match[]": self._filled(selector), "start": str(self.since), "end": str(self.until)},
        )
        return found

    def _filled(self, expr: str) -> str:
        told = {
            "$__range": f"{self.until - self.since:.0f}s",
            "$run": self.run_id,
            # Grafana's "All".
            "$namespace": ".*",
            "$job": ".*",
            "$pipeline": ".*",
        }
        for name, value in told.items():
            expr = expr.replace(name, value)
        assert "$" not in expr, f"a variable that nobody fills in: {expr}"
        return expr

    def _get(self, path: str, **parameters: str) -> Any:
        answer = self.session.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=20)
        assert answer.ok, f"{parameters}: {answer.text}"
        return answer.json()["data"]
