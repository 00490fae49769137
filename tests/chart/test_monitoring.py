"""Rules as the operator gets them: those of monitoring/, which stand nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helm_python
import yaml
from helm import chart

MONITORING = chart.REPOSITORY / "monitoring"


def _made(kind: str, **values: Any) -> list[dict[str, Any]]:
    return [each for each in chart.objects(values, chart.WITH_OPERATOR) if each["kind"] == kind]


def test_the_operator_gets_every_rule_as_it_stands_in_monitoring() -> None:
    files = sorted((MONITORING / "rules").glob("*.yaml"))
    assert files
    made = {each["metadata"]["name"]: each["spec"] for each in _made("PrometheusRule")}
    assert made == {f"tidegate-{path.stem}": yaml.safe_load(path.read_text()) for path in files}


def test_the_files_are_there_once() -> None:
    for link in (chart.CHART / "files").iterdir():
        assert link.is_symlink(), f"{link} is a copy, which ages"
        assert link.resolve() == MONITORING / link.name


def test_the_package_holds_them_without_the_repository(tmp_path: Path) -> None:
    with helm_python.Chart.load(helm_python.package(chart.CHART, destination=tmp_path)) as packed:
        packed_files = {each["name"]: each["data"] for each in packed.files}
    for path in (MONITORING / "rules").glob("*.yaml"):
        assert packed_files[f"files/rules/{path.name}"] == path.read_text()
    assert not [name for name in packed_files if "/tests/" in name]
