"""How an image is handled that was in flight when an earlier pod was killed by its own memory or crashed.

| strikes | of them alone | handling                                                        |
|---------|---------------|-----------------------------------------------------------------|
| 0       | 0             | beside others, or alone at its last delivery                    |
| >= 1    | 0             | alone: the next kill, if it comes, has one suspect              |
| 1       | 1             | alone: once is not a proof                                      |
| >= 2    | >= 1          | quarantined: answered as failed, never decoded again            |
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from tidegate.core.contract import Suspect

_STRIKES: Final = 2
_STRIKES_ALONE: Final = 1


class Handling(Enum):
    BESIDE_OTHERS = auto()
    ALONE = auto()
    QUARANTINE = auto()


def handling(suspect: Suspect | None, last_delivery: bool) -> Handling:
    if suspect is not None:
        if suspect.strikes >= _STRIKES and suspect.strikes_alone >= _STRIKES_ALONE:
            return Handling.QUARANTINE
        return Handling.ALONE
    return Handling.ALONE if last_delivery else Handling.BESIDE_OTHERS
