"""The wish to stop: set once, by a signal or by a caller, seen by every thread."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType


class Drain:
    """Asked for at most once; the first reason and its time stay."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self.reason = ""
        self.asked_at = float("inf")

    @property
    def asked(self) -> bool:
        return self._asked.is_set()

    def ask(self, reason: str) -> None:
        """Signal-safe: takes no lock that the interrupted code could hold."""
        if not self._asked.is_set():
            self.reason = reason
            self.asked_at = time.monotonic()
            self._asked.set()

    def on_signals(self, *signals: signal.Signals) -> None:
        """Ask at the first of these signals; a second one falls through to the default and kills."""

        def handle(number: int, frame: FrameType | None) -> None:
            signal.signal(number, signal.SIG_DFL)
            self.ask(f"asked to stop by {signal.Signals(number).name}")

        for number in signals or (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, handle)
