"""Stages as frozen definitions, and the crew of threads that runs them.

Success: each thread takes, works, takes again until its inlet says closed (None). Failure: what `work` lets escape is a
bug or a wrong setting, never one image's fault; the first such error stops nothing by itself, it is kept for the
engine, and its thread ends. Cancel: the engine closes the inlets; a thread ends after the item it has in hand. Threads
are daemons, so that a hanging network call cannot outlive the grace period.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stage:
    name: str
    threads: int
    #: Blocks for the next item; None: closed.
    take: Callable[[], Any]
    work: Callable[[Any], None]
    #: Items that wait before the stage.
    waiting: Callable[[], int]


class Crew:
    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = tuple(stages)
        self.failure: BaseException | None = None
        self._busy = {stage.name: 0 for stage in stages}
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._serve, args=(stage,), name=f"{stage.name}-{index}", daemon=True)
            for stage in stages
            for index in range(stage.threads)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for threads whose inlets are closed; False if some is still at work."""
        deadline = time.monotonic() + timeout_seconds
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def busy(self, stage: Stage) -> int:
        """Threads of the stage that have an item in hand."""
        return self._busy[stage.name]

    def _serve(self, stage: Stage) -> None:
        try:
            while (item := stage.take()) is not None:
                self._count(stage, 1)
                try:
                    stage.work(item)
                finally:
                    self._count(stage, -1)
                # An item must not live on in this frame while the thread waits for the next.
                del item
        except BaseException as error:  # noqa: BLE001  # a thread's error would vanish with it
            _log.error("stage %s stopped", stage.name, exc_info=error)
            self.failure = self.failure or error

    def _count(self, stage: Stage, change: int) -> None:
        with self._lock:
            self._busy[stage.name] += change
