"""The worker's last words on disk: one write of constant length, so that a kill leaves either the old or the new text.

The kubelet reads the file (/dev/termination-log) also after an OOM kill. A text shorter than the file is padded with
spaces, which JSON allows, because truncating first would leave a moment without any words.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from tidegate.core.contract import TERMINATION_MESSAGE_BYTES, WorkerReport
from tidegate.core.errors import FixConfig


class Journal:
    def __init__(self, path: Path | None) -> None:
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        if path is not None:
            try:
                self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise FixConfig(f"the termination log {path} cannot be opened: {error.strerror}") from None

    def close(self) -> None:
        """Write nothing more, whoever asks."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def write(self, report: Callable[[], WorkerReport]) -> None:
        """Ask for the report inside the lock, so that of two writers the later text is the later state."""
        with self._lock:
            if self._descriptor is not None:
                os.pwrite(self._descriptor, report().to_message().ljust(TERMINATION_MESSAGE_BYTES), 0)
