"""A stack whose pods run on a cluster that a kubeconfig names; here that is a pod API which the test starts itself."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from kubernetes.client.exceptions import ApiException

from tidegate.core.contract import METRICS_PORT
from tidegate.core.errors import FixConfig
from tidegate_local.discovery.targets import proxied_groups
from tidegate_local.podapi.process import PodApiProcess
from tidegate_local.stack import airflow_config, metrics_config
from tidegate_local.stack.cluster import Cluster
from tidegate_local.stack.layout import PORT_NAMES, Layout, free_ports
from tidegate_local.stack.provisioning import AIRFLOW_RULES, provision, withdraw, write_authority
from tidegate_local.stack.services import services

#: Shows one number on the worker's port, as a worker shows its own.
SHOWS_A_NUMBER = f"""
    import http.server, os
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(b"tidegate_memory_limit_bytes 17\\n")
    http.server.HTTPServer((os.environ["ADDRESS"], {METRICS_PORT}), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PodApiProcess]:
    folder = tmp_path_factory.mktemp("foreign")
    table = folder / "table.yaml"
    table.write_text(f'images: {{"python:3": {{python: "{sys.prefix}"}}}}\n')
    try:
        running = PodApiProcess.start(folder / "work", "--images", str(table), "--memory", "1Gi")
    except FixConfig as error:
        pytest.skip(f"no pod can run here: {error}")
    yield running
    running.stop()


@pytest.fixture
def cluster(api: PodApiProcess) -> Cluster:
    return Cluster.foreign(api.kubeconfig, "python:3", "127.0.0.1")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "stack")
    made.make()
    (made.jobserver / "token").write_text("a-token-of-the-job-server")
    return made


@pytest.fixture
def ports() -> dict[str, int]:
    return dict(zip(PORT_NAMES, free_ports(len(PORT_NAMES)), strict=True))


def eventually(look: Callable[[], Any]) -> Any:
    give_up = time.monotonic() + 60
    while not (seen := look()):
        assert time.monotonic() < give_up, f"not so: {seen}"
        time.sleep(0.2)
    return seen


@pytest.mark.parametrize("address", [None, "", "a-name"])
def test_a_cluster_without_an_address_of_this_machine_is_refused_with_a_proposal(
    api: PodApiProcess, address: str | None
) -> None:
    with pytest.raises(FixConfig, match=r"HOST_ADDRESS.*this machine is 127\.0\.0\.1"):
        Cluster.foreign(api.kubeconfig, "python:3", address)


def test_a_kubeconfig_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(FixConfig, match="KUBECONFIG"):
        Cluster.foreign(tmp_path / "none", "python:3", "127.0.0.1")


def test_what_the_cluster_offers_is_found_out(cluster: Cluster) -> None:
    assert cluster.resizes
    # The pod API has neither storage classes nor roles.
    assert not cluster.has_volumes
    assert not cluster.has_roles


def test_an_address_that_is_not_this_machines_is_told_to_pods_and_every_interface_is_bound(api: PodApiProcess) -> None:
    # TEST-NET-1 is nobody's.
    cluster = Cluster.foreign(api.kubeconfig, "python:3", "192.0.2.1")
    assert cluster.binds == "0.0.0.0"
    assert cluster.jobs_url_of_pods(80) == "http://192.0.2.1:80"
    assert cluster.jobs_url_here(80) == "http://127.0.0.1:80"


def test_only_the_job_server_leaves_loopback_and_only_for_a_foreign_cluster(
    api: PodApiProcess, layout: Layout, ports: dict[str, int]
) -> None:
    own = services(layout, ports, Cluster.own(layout))
    assert not [service.name for service in own if "0.0.0.0" in " ".join(service.argv)]
    foreign = services(layout, ports, Cluster.foreign(api.kubeconfig, "python:3", "192.0.2.1"))
    assert [service.name for service in foreign if "0.0.0.0" in " ".join(service.argv)] == ["jobserver"]
    assert {service.name for service in own} - {service.name for service in foreign} == {"podapi"}


def test_pods_are_told_addresses_that_they_reach(api: PodApiProcess, layout: Layout, ports: dict[str, int]) -> None:
    cluster = Cluster.foreign(api.kubeconfig, "worker:1", "192.0.2.1", "postgresql+psycopg://user@192.0.2.9/ledger")
    told = airflow_config.environment(layout, ports, cluster)
    pod_env = json.loads(told["TIDEGATE_POD_ENV"])
    assert pod_env["TIDEGATE_ANTENNA_URL"] == f"http://192.0.2.1:{ports['jobserver']}/api/v2"
    assert pod_env["TIDEGATE_ALLOWED_NETWORKS"] == "192.0.2.1"
    assert told["TIDEGATE_ANTENNA_URL"] == f"http://127.0.0.1:{ports['jobserver']}/api/v2"
    assert told["TIDEGATE_WORKER_IMAGE"] == "worker:1"
    # By reference: what a pod's environment says, everybody reads who may read pods.
    assert json.loads(told["TIDEGATE_POD_SECRETS"])["TIDEGATE_LEDGER_URL"] == "ledger/url"
    assert "192.0.2.9" not in told["TIDEGATE_POD_ENV"]
    assert "TIDEGATE_STAGING_CLAIM" not in told


def test_what_is_made_in_the_cluster_is_gone_with_its_namespace(cluster: Cluster, layout: Layout) -> None:
    provision(layout, cluster)
    provision(layout, cluster)
    secret = cluster.core.read_namespaced_secret(airflow_config.TOKEN_SECRET, cluster.namespace)
    assert set(secret.data) == {"token"}
    assert layout.scrape_token.stat().st_mode & 0o077 == 0
    withdraw(cluster)
    with pytest.raises(ApiException) as refusal:
        cluster.core.read_namespace(cluster.namespace)
    assert refusal.value.status == 404


def test_airflow_may_there_what_the_chart_lets_it() -> None:
    text = (Path(__file__).parents[3] / "helm" / "tidegate" / "templates" / "role.yaml").read_text()
    rules = text[text.index("rules:") : text.index("---")]
    assert yaml.safe_load(rules)["rules"] == AIRFLOW_RULES


def test_a_real_prometheus_scrapes_a_pod_through_the_api_server(
    cluster: Cluster, layout: Layout, ports: dict[str, int]
) -> None:
    if shutil.which("prometheus") is None:
        pytest.skip("Debian's prometheus is not installed")
    provision(layout, cluster)
    write_authority(layout, cluster)
    layout.secret("discovery-token")
    metrics_config.write(layout, ports, cluster)
    container = {
        "name": "worker",
        "image": "python:3",
        "command": ["python3", "-c", textwrap.dedent(SHOWS_A_NUMBER)],
        "env": [{"name": "ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "resources": {"requests": {"memory": "64Mi"}, "limits": {"memory": "64Mi"}},
    }
    pod = {"metadata": {"name": "shows"}, "spec": {"restartPolicy": "Never", "containers": [container]}}
    cluster.core.create_namespaced_pod(cluster.namespace, pod)

    class Discovery(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            listed = cluster.core.list_namespaced_pod(cluster.namespace, _preload_content=False)
            pods = json.loads(listed.data)["items"] if self.path == "/targets/proxied" else []
            body = json.dumps(proxied_groups(pods, cluster.core.api_client.configuration.host)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    discovery = ThreadingHTTPServer(("127.0.0.1", ports["discovery"]), Discovery)
    threading.Thread(target=discovery.serve_forever, daemon=True).start()
    (service,) = [each for each in services(layout, ports, cluster) if each.name == "prometheus"]
    prometheus = subprocess.Popen(service.argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    auth = (metrics_config.USER, layout.secret("metrics-password"))

    def found() -> Any:
        try:
            answer = requests.get(
                f"http://127.0.0.1:{ports['prometheus']}/api/v1/query",
                params={"query": "tidegate_memory_limit_bytes"}, auth=auth, timeout=5,
            )  # fmt: skip
        except requests.ConnectionError:
            return None
        return answer.json()["data"]["result"] if answer.ok else None

    try:
        (series,) = eventually(found)
    finally:
        prometheus.terminate()
        prometheus.wait(15)
        discovery.shutdown()
        discovery.server_close()
        withdraw(cluster)
    labels = {name: series["metric"][name] for name in ("job", "namespace", "pod", "container")}
    assert labels == {
        "job": "tidegate-worker", "namespace": cluster.namespace, "pod": "shows", "container": "worker",
    }  # fmt: skip
    assert series["value"][1] == "17"
