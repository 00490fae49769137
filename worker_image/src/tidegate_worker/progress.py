"""A progress bar on a terminal: acked images of the job's total, with what holds the worker up."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Final, Self

from tqdm import tqdm  # type: ignore[import-untyped]

from tidegate.core.contract import MIB
from tidegate_worker.engine import Engine

_REFRESH_SECONDS: Final = 0.5


class ProgressBar:
    """Refreshed by a thread of its own while it is entered."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._bar = tqdm(unit="image", desc=engine.assignment.source.job, dynamic_ncols=True)
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._refresh, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._left.set()
        self._thread.join()
        self._show()
        self._bar.close()

    def _refresh(self) -> None:
        while not self._left.wait(_REFRESH_SECONDS):
            self._show()

    def _show(self) -> None:
        tally = self._engine.ledger.tally()
        memory = self._engine.inlet.memory()
        progress = self._engine.progress
        self._bar.total = progress.total if progress is not None else None
        self._bar.n = progress.done if progress is not None and progress.done is not None else tally.acked
        self._bar.set_postfix(
            {
                "failed": tally.failed,
                "leased": self._engine.ledger.count(),
                "MiB": f"{memory.reading.nonreclaimable_bytes // MIB}/{memory.reading.limit_bytes // MIB}",
                "gate": "closed" if memory.gate.closed else "open",
            }
        )
