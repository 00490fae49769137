"""Airflow's own KubernetesPodOperator against the pod API, as a task and deferred; without the rest of Airflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("airflow.providers.cncf.kubernetes")

if TYPE_CHECKING:
    from tests.local.node.conftest import Stack

STEPS = "import time\nfor n in range(3): print('step', n); time.sleep(0.5)\n"

#: (outcome, what was logged) by mode and program.
Runs = dict[tuple[str, str], tuple[dict[str, Any], str]]


@pytest.fixture(scope="module")
def runs(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Every operator in one process: importing Airflow takes longer than all of them."""
    home = tmp_path_factory.mktemp("airflow")
    script = str(Path(__file__).with_name("run_operator.py"))
    done = subprocess.run(
        [sys.executable, script, str(stack.api.kubeconfig), STEPS, STEPS + "raise SystemExit(65)"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False,
        env={"PATH": os.environ["PATH"], "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    found: Runs = {}
    labels = [(mode, program) for mode in ("task", "deferred") for program in ("succeeds", "fails")]
    rest = done.stdout
    for label in labels:
        told, _, rest = rest.partition("OUTCOME ")
        line, _, rest = rest.partition("\n")
        found[label] = json.loads(line), told
    return found


@pytest.mark.parametrize("mode", ["task", "deferred"])
def test_the_operator_runs_a_pod_and_shows_its_log(runs: Runs, mode: str) -> None:
    outcome, told = runs[mode, "succeeds"]
    assert outcome["outcome"] == "success"
    assert outcome["pushed"]["pod_name"].startswith("infer-0-")
    for number in range(3):
        assert f"step {number}" in told


@pytest.mark.parametrize("mode", ["task", "deferred"])
def test_the_operator_fails_with_the_pod_and_names_its_exit_code(runs: Runs, mode: str) -> None:
    outcome, _ = runs[mode, "fails"]
    assert outcome["outcome"].startswith("failed")
    assert "65" in outcome["outcome"]
