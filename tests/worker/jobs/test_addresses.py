"""The address rules over numeric addresses."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.errors import FixConfig
from tidegate_worker.net.addresses import AddressRules, Verdict

EVERYTHING = AddressRules.parse(["0.0.0.0/0", "::/0"])


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254", "169.254.0.1", "fe80::1", "fe80::1%eth0", "224.0.0.1", "ff02::1", "0.0.0.0", "0.1.2.3", "::",
        "255.255.255.255", "240.0.0.1", "168.63.129.16", "100.100.100.200", "fd00:ec2::254", "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1",
    ],
)  # fmt: skip
def test_some_addresses_are_forbidden_even_where_every_network_is_listed(address: str) -> None:
    assert EVERYTHING.verdict(address) is Verdict.FORBIDDEN


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "::1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fc00::1", "::ffff:10.0.0.1",
     "64:ff9b::0a00:0001", "2002:0a00:0001::1"],
)  # fmt: skip
def test_a_private_address_is_allowed_only_where_its_network_is_listed(address: str) -> None:
    assert AddressRules().verdict(address) is Verdict.PRIVATE
    assert EVERYTHING.verdict(address) is Verdict.ALLOWED


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::0808:0808"])
def test_a_global_address_is_allowed(address: str) -> None:
    assert AddressRules().verdict(address) is Verdict.ALLOWED


def test_listing_one_network_opens_no_other() -> None:
    rules = AddressRules.parse(["10.1.0.0/16", "127.0.0.1"])
    assert rules.verdict("10.1.2.3") is Verdict.ALLOWED
    assert rules.verdict("127.0.0.1") is Verdict.ALLOWED
    assert rules.verdict("10.2.0.1") is Verdict.PRIVATE
    assert rules.verdict("127.0.0.2") is Verdict.PRIVATE


@given(st.ip_addresses())
def test_without_a_list_only_global_addresses_are_allowed(address: ipaddress.IPv4Address) -> None:
    if AddressRules().verdict(str(address)) is Verdict.ALLOWED and getattr(address, "ipv4_mapped", None) is None:
        assert address.is_global or address in ipaddress.ip_network("64:ff9b::/96")


def test_a_network_that_is_none_says_so() -> None:
    with pytest.raises(FixConfig, match="CIDR"):
        AddressRules.parse(["10.0.0.0/33"])
