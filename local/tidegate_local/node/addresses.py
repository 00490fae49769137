"""Pod addresses: each pod gets a loopback address of its own, so that pods can listen on the same port."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

#: 127.64.x.y to 127.127.x.y: a second octet that nothing else is known to use.
_FIRST_OCTET: Final = 64
_OCTETS: Final = 64
_HOSTS: Final = 256 * 254


class Addresses:
    """Free addresses in the range of one work folder, so that stacks side by side seldom meet."""

    def __init__(self, folder: Path) -> None:
        digest = hashlib.sha256(str(folder.resolve()).encode()).digest()
        self._prefix = f"127.{_FIRST_OCTET + digest[0] % _OCTETS}"
        self._next = 0

    def free(self, used: Iterable[str]) -> str:
        """An address that is not in `used`, and not one that was just given back: its port may still be closing."""
        taken = set(used)
        for _ in range(_HOSTS):
            high, low = divmod(self._next, 254)
            self._next = (self._next + 1) % _HOSTS
            address = f"{self._prefix}.{high}.{low + 1}"
            if address not in taken:
                return address
        raise RuntimeError("no free pod address is left")
