"""Where memory went: memray around a run, and its flame graph beside the results."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tidegate.core.errors import FixConfig
from tidegate_worker.settings import Settings

_log = logging.getLogger(__name__)


@contextmanager
def profiled(profiler: str | None, settings: Settings) -> Iterator[None]:
    """Record what is allocated inside; nothing where no profiler is asked for."""
    if profiler is None:
        yield
        return
    if importlib.util.find_spec("memray") is None:
        raise FixConfig("memray is not installed: pip install 'tidegate-worker[profile]'")
    import memray

    folder = settings.storage.profile_dir or settings.storage.answer_dir
    folder.mkdir(parents=True, exist_ok=True)
    recording = folder / f"memray-{time.strftime('%Y%m%dT%H%M%S')}.bin"
    try:
        with memray.Tracker(recording, native_traces=False, follow_fork=False):
            yield
    finally:
        graph = recording.with_suffix(".html")
        # In a process of its own: drawing needs more memory than this one may have left.
        drawn = subprocess.run(
            [sys.executable, "-m", "memray", "flamegraph", "--output", str(graph), "--force", str(recording)],
            capture_output=True,
            text=True,
            check=False,
        )
        if drawn.returncode == 0:
            _log.info("flame graph: %s", graph)
        else:
            _log.error("the recording %s could not be drawn: %s", recording, drawn.stderr.strip()[-300:])
