"""`tidegate-worker`: find the verb, run it, turn what it raises into one line and an exit code, and leave with it."""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import NoReturn

from tidegate_worker.cli import main as cli


def main() -> NoReturn:
    leave(cli.main())


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
