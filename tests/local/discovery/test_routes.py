"""How Prometheus is told of worker pods: straight, or through the API server, but never both."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tidegate.core.contract import METRICS_PORT
from tidegate_local.discovery.route import Route, Routes, answers_directly
from tidegate_local.discovery.targets import direct_groups, proxied_groups, scraped

ADDRESS = "127.64.99.1"


def pod(name: str, address: str | None = ADDRESS, phase: str = "Running") -> dict[str, Any]:
    status = {"phase": phase, **({"podIP": address} if address else {})}
    spec = {"nodeName": "here", "containers": [{"name": "worker"}]}
    return {"metadata": {"name": name, "namespace": "jobs", "uid": name}, "spec": spec, "status": status}


def routes(direct: bool, proxy: bool) -> Routes:
    return Routes({Route.DIRECT: lambda _: direct, Route.PROXY: lambda _: proxy})


def test_pods_within_reach_are_scraped_straight() -> None:
    assert routes(direct=True, proxy=True).choose([pod("a")]) is Route.DIRECT


def test_pods_out_of_reach_are_scraped_through_the_api_server() -> None:
    assert routes(direct=False, proxy=True).choose([pod("a")]) is Route.PROXY


def test_before_a_pod_has_answered_no_way_is_chosen() -> None:
    assert routes(direct=False, proxy=False).choose([pod("a")]) is None
    assert routes(direct=True, proxy=True).choose([]) is None


def test_the_way_is_kept_when_the_other_opens_later() -> None:
    reachable: list[bool] = []
    chosen = Routes({Route.DIRECT: lambda _: bool(reachable), Route.PROXY: lambda _: True})
    assert chosen.choose([pod("a")]) is Route.PROXY
    reachable.append(True)
    assert chosen.choose([pod("b")]) is Route.PROXY


def test_a_pod_that_serves_nothing_yet_does_not_decide_for_another() -> None:
    chosen = Routes({Route.DIRECT: lambda each: each["metadata"]["name"] == "b", Route.PROXY: lambda _: False})
    assert chosen.choose([pod("a"), pod("b")]) is Route.DIRECT


def test_pending_ended_and_addressless_pods_are_no_targets() -> None:
    pods = [pod("a"), pod("b", phase="Pending"), pod("c", phase="Succeeded"), pod("d", address=None)]
    assert [each["metadata"]["name"] for each in scraped(pods)] == ["a"]
    assert [group["targets"] for group in direct_groups(pods)] == [[f"{ADDRESS}:{METRICS_PORT}"]]


@pytest.mark.parametrize(
    ("server", "target", "prefix"),
    [
        ("https://10.0.0.1:6443", "10.0.0.1:6443", ""),
        ("https://cluster.example", "cluster.example:443", ""),
        ("https://rancher.example/k8s/clusters/c-1/", "rancher.example:443", "/k8s/clusters/c-1"),
        ("https://[fd00::1]:6443", "[fd00::1]:6443", ""),
    ],
)
def test_a_proxied_target_is_the_api_server_with_the_pods_path(server: str, target: str, prefix: str) -> None:
    (group,) = proxied_groups([pod("a")], server)
    assert group["targets"] == [target]
    assert group["labels"]["__scheme__"] == "https"
    assert group["labels"]["__metrics_path__"] == f"{prefix}/api/v1/namespaces/jobs/pods/a:{METRICS_PORT}/proxy/metrics"
    assert group["labels"]["__meta_kubernetes_pod_name"] == "a"


def test_an_ipv6_pod_is_written_in_brackets() -> None:
    (group,) = direct_groups([pod("a", address="fd00::2")])
    assert group["targets"] == [f"[fd00::2]:{METRICS_PORT}"]


@pytest.fixture(params=["tidegate_images_acked_total 1\n", "somebody_elses_metric 1\n"])
def text_served(request: pytest.FixtureRequest) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(request.param.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((ADDRESS, METRICS_PORT), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield request.param
    server.shutdown()
    server.server_close()


def test_a_worker_answers_directly_and_a_stranger_at_its_address_does_not(text_served: str) -> None:
    assert answers_directly(pod("a")) is text_served.startswith("tidegate_")


def test_an_address_where_nobody_listens_does_not_answer() -> None:
    assert not answers_directly(pod("a", address="127.64.99.2"))
