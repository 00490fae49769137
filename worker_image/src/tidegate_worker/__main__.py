"""`tidegate-worker`: find the verb, run it, turn what it raises into one line and an exit code, and leave with it."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn


def main() -> NoReturn:
    # The kernel drops what process 1 of a container has no handler for, and importing takes seconds: a pod that was
    # told to end in them would lease on until it is killed.
    signal.signal(signal.SIGTERM, _leave_before_work)
    from tidegate_worker.cli import main as cli

    leave(cli.main())


def _leave_before_work(_signal: int, _frame: FrameType | None) -> NoReturn:
    """Nothing is leased before a drain listens (`pipeline.drain`), so nothing is left behind."""
    os._exit(os.EX_TEMPFAIL)  # ExitCode.DRAINED


def leave(code: int) -> NoReturn:
    """End the process with `code`, whatever threads are still at."""
    if threading.active_count() > 1:
        # Native code under which the interpreter is taken down aborts: exit 134 would make innocent images suspects.
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
