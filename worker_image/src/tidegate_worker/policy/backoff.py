"""How long to wait before the next attempt: doubling, capped, with full jitter so that pods do not come in step."""

from __future__ import annotations

from typing import Final

_FIRST_SECONDS: Final = 1.0
_LONGEST_SECONDS: Final = 60.0


def delay_seconds(failures: int, told_seconds: float | None, dice: float) -> float:
    """After `failures` in a row (>= 1); `told_seconds` is the other side's wish and is never undercut.

    `dice` in [0, 1) is the caller's.
    """
    ceiling = min(_LONGEST_SECONDS, _FIRST_SECONDS * 2.0 ** min(failures - 1, 16))
    jittered = ceiling * (0.5 + dice / 2)
    return jittered if told_seconds is None else told_seconds + jittered * dice
