"""Jobs that are no Antenna job, and runs that only look."""

from __future__ import annotations

import json

import pytest
from tests.e2e.running_stack import Case, Outcome, Stack

pytestmark = pytest.mark.e2e


@pytest.mark.smoke
@pytest.mark.needs("volume", "ledger")
@pytest.mark.begins(Case("tidegate_demo", images=100, is_manifest=True))
def test_a_manifest_becomes_part_files_with_each_image_once(outcome: Outcome, stack: Stack) -> None:
    assert outcome.state == "success"
    assert outcome.summary["acked"] == 100
    files = stack.results(outcome)
    index = json.loads(files["_index.json"])
    assert index["complete"]
    rows = [json.loads(line) for part in index["parts"] for line in files[part["name"]].splitlines()]
    assert sorted(row["row"] for row in rows) == list(range(100))
    assert [row["error"] for row in rows if row["error"]] == []


@pytest.mark.begins(Case("tidegate_demo", images=30, params={"dry_run": True}))
def test_a_dry_run_probes_and_plans_and_launches_no_pod(outcome: Outcome) -> None:
    assert outcome.state == "success"
    assert outcome.run.plan is not None
    assert outcome.attempts == []
    assert outcome.truth is not None
    # The probe answers what it leases, and nobody else leases anything.
    assert outcome.truth.totals["answered"] < 30
    assert outcome.truth.totals["lost"] == 0
