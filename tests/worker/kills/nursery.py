"""Workers without their seconds of imports: one process holds the modules and forks a real worker a line it reads.

Lines are JSON: `{"start": {"arguments", "environment", "log"}}` is answered with the PID, `{"wait": {"pid",
"seconds"}}` with the exit code (negative: the signal) or null where it still runs. Only the imports are shared: a
worker is a process of its own that reads its environment, makes its threads and dies alone.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import tidegate_worker.cli.composition
import tidegate_worker.cli.last_words
import tidegate_worker.cli.profiling
import tidegate_worker.cli.standalone  # noqa: F401
from tidegate_worker.cli.main import main

_STEP_SECONDS = 0.005


def start(told: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        log = os.open(told["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for descriptor, source in ((0, nothing), (1, log), (2, log)):
            os.dup2(source, descriptor)
        os.environ.clear()
        os.environ.update(told["environment"])
        code = main(told["arguments"])
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def wait(told: dict[str, Any]) -> int | None:
    give_up_at = time.monotonic() + told["seconds"]
    while True:
        try:
            pid, status = os.waitpid(told["pid"], os.WNOHANG)
        except ChildProcessError:
            # Its end was told before.
            return 0
        if pid:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > give_up_at:
            return None
        time.sleep(_STEP_SECONDS)


def serve() -> None:
    names = {(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()}
    # Threads do not live through a fork; pyarrow's allocator does without its housekeeper.
    assert len(names - {"jemalloc_bg_thd"}) == 1, names
    # A collection in a child would visit, and so copy, everything that was imported.
    gc.freeze()
    print("ready", flush=True)
    started: list[int] = []
    for line in sys.stdin:
        ((verb, told),) = json.loads(line).items()
        if verb == "start":
            started.append(start(told))
        print(json.dumps(started[-1] if verb == "start" else wait(told)), flush=True)
    # A test that broke off has left one running.
    if started and wait({"pid": started[-1], "seconds": 0}) is None:
        os.kill(started[-1], signal.SIGKILL)


if __name__ == "__main__":
    serve()
