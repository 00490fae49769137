"""Who reaches worker pods and what they reach; link-local is left out of every network."""

from __future__ import annotations

import ipaddress
from typing import Any

import helm_python
import pytest
from helm import chart
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.chart.rendered import configured, environment, one, pod, selects

from tidegate.core.contract import METRICS_PORT

LINK_LOCAL = ipaddress.ip_network("169.254.0.0/16")
DNS = [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]


def _egress_blocks(policy: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        peer["ipBlock"]
        for rule in policy["spec"]["egress"]
        for peer in rule["to"]
        if "ipBlock" in peer and rule.get("ports") != DNS
    ]


def test_only_prometheus_reaches_a_worker_and_only_its_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = one(chart.objects(), "NetworkPolicy", "tidegate-workers")
    worker = pod(configured(monkeypatch, environment()))
    assert selects(policy["spec"]["podSelector"], worker["metadata"]["labels"])
    assert policy["metadata"]["namespace"] == worker["metadata"]["namespace"]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert policy["spec"]["ingress"] == [
        {
            "from": [
                {
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}},
                    "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}},
                }
            ],
            "ports": [{"port": METRICS_PORT, "protocol": "TCP"}],
        }
    ]


def test_everywhere_is_said_of_pods_too_which_some_networks_count_as_part_of_no_cidr() -> None:
    policy = one(chart.objects(), "NetworkPolicy", "tidegate-workers")
    assert {"namespaceSelector": {}} in policy["spec"]["egress"][1]["to"]
    closed = one(chart.objects(chart.scenarios()["closed"]), "NetworkPolicy", "tidegate-workers")
    assert not [rule for rule in closed["spec"]["egress"] if {"namespaceSelector": {}} in rule["to"]]


def test_workers_reach_dns_and_the_listed_networks_on_their_ports_alone() -> None:
    policy = one(chart.objects(chart.scenarios()["closed"]), "NetworkPolicy", "tidegate-workers")
    dns, *rooms = policy["spec"]["egress"]
    assert dns["ports"] == DNS
    assert dns["to"][1] == {"ipBlock": {"cidr": "169.254.20.10/32"}}
    reach = {
        (peer["ipBlock"]["cidr"], port["port"])
        for rule in rooms
        for peer in rule["to"]
        for port in rule.get("ports", [])
    }
    assert reach == {
        ("10.20.0.0/16", 443), ("10.30.0.0/16", 443), ("2001:db8::/32", 443), ("10.40.0.7/32", 5432),
        ("10.50.0.0/16", 443), ("10.50.0.0/16", 9000), ("10.60.0.0/24", 443),
    }  # fmt: skip
    assert not any("except" in block for block in _egress_blocks(policy))


def test_workers_reach_everything_but_link_local_by_default() -> None:
    policy = one(chart.objects(), "NetworkPolicy", "tidegate-workers")
    assert _egress_blocks(policy) == [
        {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]},
        {"cidr": "::/0", "except": ["fe80::/10", "fd00:ec2::254/128"]},
    ]


@settings(max_examples=60, deadline=None)
@given(
    address=st.one_of(
        st.integers(0, 2**32 - 1), st.integers(int(LINK_LOCAL[0]), int(LINK_LOCAL[-1])).map(lambda each: each ^ 1 << 20)
    ),
    prefix=st.integers(0, 32),
)
def test_link_local_is_left_out_of_every_network_that_holds_it(address: int, prefix: int) -> None:
    network = ipaddress.ip_network((address, prefix), strict=False)
    values = {"networkPolicy": {"egress": {"weights": {"cidrs": [str(network)], "ports": []}}}}
    if network.subnet_of(LINK_LOCAL):
        with pytest.raises(helm_python.HelmError, match="link-local"):
            chart.objects(values)
        return
    blocks = _egress_blocks(one(chart.objects(values), "NetworkPolicy", "tidegate-workers"))
    (block,) = [each for each in blocks if each["cidr"] == str(network)][-1:]
    assert block.get("except", []) == ([str(LINK_LOCAL)] if network.supernet_of(LINK_LOCAL) else [])


@pytest.mark.parametrize("network", ["169.254.169.254/32", "169.254.0.0/16", "fe80::/10", "fe90::1/128", "fc00::/6"])
def test_a_network_that_is_link_local_is_refused(network: str) -> None:
    with pytest.raises(helm_python.HelmError, match="link-local"):
        chart.objects({"networkPolicy": {"egress": {"jobSource": {"cidrs": [network], "ports": []}}}})
