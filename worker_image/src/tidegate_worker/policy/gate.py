"""The inlet gate and the byte budget, from one reading of memory to the next.

The gate closes at `CLOSE_RATIO` of the limit and opens at `OPEN_RATIO` (hysteresis). The budget is halved when the gate
closes and grows back by small steps while it is open (AIMD), never above the plan's saturating budget, so that
headroom won by a larger limit is not eaten by more work in flight.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from tidegate.core.contract import MIB

CLOSE_RATIO: Final = 0.80
OPEN_RATIO: Final = 0.70
#: What one image alone may bring memory to; above it, it is parked.
ALONE_RATIO: Final = 0.90
#: ... and up to here where the worker has to end: what it leaves unanswered has used up one of its few deliveries.
DRAIN_RATIO: Final = 0.97

_DECREASE: Final = 0.5
#: From half to the full budget in about this many seconds of open gate.
_RECOVERY_SECONDS: Final = 30.0
_SMALLEST_BUDGET_BYTES: Final = 8 * MIB


@dataclass(frozen=True, slots=True)
class Reading:
    """Memory at one moment, as the kernel counts it against this worker."""

    nonreclaimable_bytes: int
    limit_bytes: int

    @property
    def ratio(self) -> float:
        return self.nonreclaimable_bytes / self.limit_bytes


@dataclass(frozen=True, slots=True)
class Gate:
    """The state between two readings; `after` gives the next."""

    saturating_bytes: int
    budget_bytes: int
    closed: bool = False
    closed_seconds: float = 0.0

    @classmethod
    def opened(cls, saturating_bytes: int) -> Gate:
        return cls(saturating_bytes=saturating_bytes, budget_bytes=saturating_bytes)

    def after(self, reading: Reading, elapsed_seconds: float) -> Gate:
        if self.closed:
            waited = replace(self, closed_seconds=self.closed_seconds + elapsed_seconds)
            return replace(waited, closed=False) if reading.ratio < OPEN_RATIO else waited
        if reading.ratio >= CLOSE_RATIO:
            smallest = min(_SMALLEST_BUDGET_BYTES, self.saturating_bytes)
            return replace(self, closed=True, budget_bytes=max(smallest, int(self.budget_bytes * _DECREASE)))
        step = int(self.saturating_bytes * (1 - _DECREASE) * elapsed_seconds / _RECOVERY_SECONDS)
        return replace(self, budget_bytes=min(self.saturating_bytes, self.budget_bytes + step))
