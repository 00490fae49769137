"""Which addresses an image may be fetched from; a pure policy over numeric addresses, no names and no sockets.

| address                                                  | verdict                                        |
|----------------------------------------------------------|------------------------------------------------|
| link-local, multicast, unspecified, reserved, metadata   | forbidden, whatever the settings say           |
| loopback, private and every other address not global     | private: allowed only where a network is listed |
| global                                                   | allowed                                        |

An IPv4 address inside an IPv6 one (mapped, 6to4, NAT64, Teredo) is judged by what it reaches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from tidegate.core.errors import FixConfig

#: Metadata services outside the link-local range: Azure's wire server, Alibaba, Oracle, AWS over IPv6.
_METADATA: Final = frozenset(map(ip_address, ("168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254")))
_NAT64: Final = ip_network("64:ff9b::/96")
_THIS_NETWORK: Final = ip_network("0.0.0.0/8")


class Verdict(StrEnum):
    ALLOWED = "allowed"
    PRIVATE = "private"
    FORBIDDEN = "forbidden"


@dataclass(frozen=True, slots=True)
class AddressRules:
    """The private networks that this worker may fetch from; none by default."""

    allowed: tuple[IPv4Network | IPv6Network, ...] = ()

    @classmethod
    def parse(cls, networks: Iterable[str]) -> AddressRules:
        """Rules from CIDR texts or single addresses."""
        try:
            return cls(tuple(ip_network(text.strip()) for text in networks))
        except ValueError as error:
            raise FixConfig(f"a network from which images may come is not a CIDR: {error}") from None

    def verdict(self, address: str) -> Verdict:
        for reached in _reached(ip_address(address)):
            if _forbidden(reached):
                return Verdict.FORBIDDEN
            if not reached.is_global and not any(reached in network for network in self.allowed):
                return Verdict.PRIVATE
        return Verdict.ALLOWED


def _reached(address: IPv4Address | IPv6Address) -> list[IPv4Address | IPv6Address]:
    """The addresses that a packet to `address` may end at."""
    if isinstance(address, IPv4Address):
        return [address]
    if address.ipv4_mapped:
        return [address.ipv4_mapped]
    if address.sixtofour:
        return [address, address.sixtofour]
    if address.teredo:
        return [address, *address.teredo]
    if address in _NAT64:
        return [IPv4Address(int(address) & 0xFFFFFFFF)]
    return [address]


def _forbidden(address: IPv4Address | IPv6Address) -> bool:
    return (
        address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or (address.is_reserved and not address.is_loopback and address not in _NAT64)
        or address in _THIS_NETWORK
        or address in _METADATA
    )
