"""The wish to stop: asked once, by a signal or by a caller, seen by every loop."""

from __future__ import annotations

import signal
import time
from types import FrameType


class Drain:
    """A flag with a reason. No lock: a signal may interrupt the very thread that would hold it."""

    def __init__(self) -> None:
        self.asked = False
        self.reason = ""
        self.asked_at = float("inf")

    def ask(self, reason: str) -> None:
        """The first reason and its time stay."""
        if not self.asked:
            self.reason = reason
            self.asked_at = time.monotonic()
            self.asked = True

    def on_signals(self, *signals: signal.Signals) -> None:
        """Ask at the first of these signals (SIGTERM and SIGINT if none is named); a second one kills.

        Not process 1 of a container, to which the kernel gives no signal that it has no handler for: a pod that is
        deleted while it drains gets a second SIGTERM, and goes on draining until its grace is over.
        """

        def handle(number: int, _frame: FrameType | None) -> None:
            signal.signal(number, signal.SIG_DFL)
            self.ask(f"asked to stop by {signal.Signals(number).name}")

        for number in signals or (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, handle)
