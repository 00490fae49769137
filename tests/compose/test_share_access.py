"""The script that shares k3s with Airflow and Prometheus, run with a real kubectl against a real API server."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client, config

from tidegate.core.errors import FixConfig
from tidegate_local.podapi.process import PodApiProcess

SCRIPT = Path(__file__).resolve().parents[2] / "compose" / "k3s" / "share-access"
NAMESPACE = "tidegate"


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.skipif(os.geteuid() != 0, reason="it gives files to other users, as root in its container")
def test_pods_get_their_secrets_and_each_server_its_own_account_and_a_second_start_changes_nothing(
    tmp_path: Path,
) -> None:
    table = tmp_path / "table.yaml"
    table.write_text(f'images: {{"python:3": {{python: "{sys.prefix}"}}}}\n')
    try:
        api = PodApiProcess.start(tmp_path / "work", "--images", str(table), "--memory", "64Mi")
    except FixConfig as error:
        pytest.skip(f"the pod API does not run here: {error}")
    try:
        core = client.CoreV1Api(config.new_client_from_config(str(api.kubeconfig)))
        core.create_namespace({"metadata": {"name": NAMESPACE}})
        # What k3s puts into secrets of accounts.
        for account in ("airflow", "prometheus"):
            content = {"token": f"of-{account}", "ca.crt": "an authority"}
            body = {"metadata": {"name": f"{account}-token"}, "stringData": content}
            core.create_namespaced_secret(NAMESPACE, body)
        shared = tmp_path / "cluster"
        shared.mkdir()
        (tmp_path / "antenna-token").write_text("a token\n")
        script = tmp_path / "share-access"
        text = SCRIPT.read_text().replace("/run/secrets/antenna-token", str(tmp_path / "antenna-token"))
        script.write_text(text.replace("/cluster", str(shared)))
        found = [_run(script, api, shared, core) for _ in range(2)]
    finally:
        api.stop()
    assert found[0] == found[1]
    assert found[0]["secrets"] == {"antenna": {"token": "a token"}, "ledger": {"url": "postgresql://ledger"}}
    (user,) = yaml.safe_load(found[0]["kubeconfig"])["users"]
    assert user["user"] == {"token": "of-airflow"}
    assert found[0]["prometheus"] == "of-prometheus"
    assert found[0]["modes"] == {"airflow.kubeconfig": 0o440, "prometheus.token": 0o400, "ca.crt": 0o444}


def _run(script: Path, api: PodApiProcess, shared: Path, core: Any) -> dict[str, Any]:
    environment = {**os.environ, "KUBECONFIG": str(api.kubeconfig), "LEDGER_URL": "postgresql://ledger"}
    done = subprocess.run(["sh", script], env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return {
        "secrets": {name: _data(core, name) for name in ("antenna", "ledger")},
        "kubeconfig": (shared / "airflow.kubeconfig").read_text(),
        "prometheus": (shared / "prometheus.token").read_text(),
        "modes": {each.name: each.stat().st_mode & 0o777 for each in shared.iterdir()},
    }


def _data(core: Any, name: str) -> dict[str, str]:
    data = core.read_namespaced_secret(name, NAMESPACE).data
    return {key: base64.b64decode(value).decode() for key, value in data.items()}
