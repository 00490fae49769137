"""Where the files of monitoring/ are, and what stands in the rule files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
RULES = sorted((REPOSITORY / "monitoring" / "rules").glob("*.yaml"))
RULE_TESTS = sorted((REPOSITORY / "monitoring" / "rules" / "tests").glob("*.yaml"))
ALERTMANAGER = REPOSITORY / "monitoring" / "alertmanager"
RUNBOOKS = REPOSITORY / "docs" / "runbooks"


@dataclass(frozen=True)
class Alert:
    name: str
    expr: str
    labels: dict[str, str]
    annotations: dict[str, str]


def rules() -> list[dict[str, Any]]:
    return [rule for path in RULES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def alerts() -> list[Alert]:
    return [
        Alert(rule["alert"], rule["expr"], rule["labels"], rule["annotations"]) for rule in rules() if "alert" in rule
    ]
