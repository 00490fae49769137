#!/usr/bin/env python3
"""Lints, renders and packages the chart by Helm's own Go code, in this process and without a cluster.

Covers `make chart` and what the tests render; what the rendered objects must be is tests/chart.

.venv/control/bin/python -m helm.chart            # every scenario of ci/ into dist/chart, the package into dist
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import helm_python
import yaml
from helm_python import _native

REPOSITORY: Final = Path(__file__).parents[1]
CHART: Final = REPOSITORY / "helm" / "tidegate"
DIST: Final = REPOSITORY / "dist"
OPERATOR: Final = ("monitoring.coreos.com/v1", "monitoring.coreos.com/v1alpha1")


@dataclass(frozen=True, slots=True)
class Cluster:
    """What a chart may ask of the cluster it is installed on."""

    version: str = "v1.33.0"
    api_versions: tuple[str, ...] = ()


BARE: Final = Cluster()
WITH_OPERATOR: Final = Cluster(api_versions=OPERATOR)


def scenarios() -> dict[str, dict[str, Any]]:
    """The values of each file in ci/, by the scenario's name."""
    return {
        path.name.removesuffix("-values.yaml"): yaml.safe_load(path.read_text()) or {}
        for path in sorted((CHART / "ci").glob("*-values.yaml"))
    }


def texts(
    values: Mapping[str, Any] | None = None,
    cluster: Cluster = BARE,
    *,
    name: str = "tidegate",
    namespace: str = "airflow",
) -> dict[str, str]:
    """What each template becomes, by its path in the chart."""
    options = {
        "name": name,
        "namespace": namespace,
        "is_install": True,
        "kube_version": cluster.version,
        "api_versions": list(cluster.api_versions),
    }
    with helm_python.Chart.load(CHART) as chart:
        chart.validate_schema(dict(values or {}))
        # `Chart.render` has no word for the cluster's version and APIs; the library beneath it takes them.
        rendered = _native.call_string("helm_render", chart._raw(), json.dumps(values or {}), json.dumps(options))
    return {path.partition("/")[2]: text for path, text in json.loads(rendered).items()}


def objects(values: Mapping[str, Any] | None = None, cluster: Cluster = BARE, **release: str) -> list[dict[str, Any]]:
    """The Kubernetes objects of a release."""
    return [
        document
        for path, text in texts(values, cluster, **release).items()
        if path.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document
    ]


def findings(values: Mapping[str, Any], cluster: Cluster = BARE) -> list[str]:
    """What Helm's linter says of the chart with these values, but for what it merely recommends."""
    report = helm_python.lint(CHART, dict(values), strict=True, kube_version=cluster.version)
    informative = 1
    messages = [each for each in report["messages"] if each["severity"] > informative]
    return [*(f"{each['path']}: {each['error']}" for each in messages), *report["errors"]]


def package() -> Path:
    DIST.mkdir(exist_ok=True)
    return Path(helm_python.package(CHART, destination=DIST))


def _with_the_binary(values_file: Path) -> None:
    """The same by the `helm` on PATH, which is what a person installs with."""
    for verb in (["lint", "--strict"], ["template", "tidegate"]):
        subprocess.run(["helm", *verb, str(CHART), "--values", str(values_file)], check=True, stdout=subprocess.DEVNULL)


def main() -> int:
    made = DIST / "chart"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    wrong = 0
    for scenario, values in scenarios().items():
        found = findings(values)
        wrong += len(found)
        for finding in found:
            print(f"{scenario}: {finding}", file=sys.stderr)
        for suffix, cluster in (("", BARE), ("-with-operator", WITH_OPERATOR)):
            rendered = objects(values, cluster)
            (made / f"{scenario}{suffix}.yaml").write_text(yaml.safe_dump_all(rendered, sort_keys=False))
            print(f"{scenario + suffix:<40} {len(rendered):>3} objects")
        if shutil.which("helm"):
            _with_the_binary(CHART / "ci" / f"{scenario}-values.yaml")
    if wrong:
        return 1
    print(f"packaged {package().relative_to(REPOSITORY)}; objects in {made.relative_to(REPOSITORY)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
