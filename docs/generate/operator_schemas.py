#!/usr/bin/env python3
"""Writes the fields of the Prometheus operator's objects that the chart makes, as JSON schemas that know no others.

Run by hand for a newer operator; the package that carries the fields is no dependency of the project:

uv run --no-project --with cloudcoil --with cloudcoil-models-prometheus-operator==0.80.1.0 \\
  python docs/generate/operator_schemas.py
"""

from __future__ import annotations

import importlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

PACKAGE: Final = "cloudcoil-models-prometheus-operator"
KINDS: Final = {"v1": ("PodMonitor", "ServiceMonitor", "PrometheusRule"), "v1alpha1": ("AlertmanagerConfig",)}
SCHEMAS: Final = Path(__file__).parents[2] / "tests" / "chart" / "operator"
_WORDS: Final = frozenset({"title", "default", "description", "examples"})
#: Kubernetes' own, and checked as such for every other object.
_METADATA: Final = {"type": "object", "required": ["name"]}


def strict(schema: Any) -> Any:
    """`schema` without words and nulls, refusing what it does not name."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "anyOf" in schema:
        kinds = [each for each in schema["anyOf"] if each != {"type": "null"}]
        if len(kinds) == 1:
            schema = {**{key: value for key, value in schema.items() if key != "anyOf"}, **kinds[0]}
    if "(?i)" in str(schema.get("pattern", "")):
        # Go allows flags anywhere, Python at the start alone.
        schema = {**schema, "pattern": "(?i)" + schema["pattern"].replace("(?i)", "")}
    kept = {
        key: {name: strict(each) for name, each in value.items()} if key in ("properties", "$defs") else strict(value)
        for key, value in schema.items()
        if key not in _WORDS or isinstance(value, dict)
    }
    return {**kept, "additionalProperties": False} if "properties" in kept else kept


def used(schema: dict[str, Any]) -> dict[str, Any]:
    """`schema` with the definitions alone that it refers to."""
    definitions = schema.pop("$defs", {})
    found: dict[str, Any] = {}
    waiting = [schema]
    while waiting:
        text = json.dumps(waiting.pop())
        for name in definitions:
            if name not in found and f'"#/$defs/{name}"' in text:
                found[name] = definitions[name]
                waiting.append(definitions[name])
    return {**schema, "$defs": {name: found[name] for name in sorted(found)}}


def written(schema: dict[str, Any]) -> str:
    """A line a definition and a line a field of the top, which a reader can compare."""
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in schema.items() if key != "$defs"]
    lines.append('  "$defs": {')
    lines.append(",\n".join(f"    {json.dumps(name)}: {json.dumps(each)}" for name, each in schema["$defs"].items()))
    return "{\n" + ",\n".join(lines[:-1]) + "\n" + lines[-1] + "\n  }\n}\n"


def main() -> None:
    SCHEMAS.mkdir(exist_ok=True)
    for api, kinds in KINDS.items():
        module = importlib.import_module(f"cloudcoil.models.prometheus_operator.{api}")
        for kind in kinds:
            schema = strict(getattr(module, kind).model_json_schema())
            schema["properties"] |= {
                "apiVersion": {"const": f"monitoring.coreos.com/{api}"},
                "kind": {"const": kind},
                "metadata": _METADATA,
            }
            schema = {
                "$comment": f"Fields of the operator's CRD (Apache-2.0), from {PACKAGE} {version(PACKAGE)};"
                " made by docs/generate/operator_schemas.py",
                **schema,
                "required": ["apiVersion", "kind", "metadata", "spec"],
            }
            (SCHEMAS / f"{kind}.json").write_text(written(used(schema)), encoding="utf-8")


if __name__ == "__main__":
    main()
