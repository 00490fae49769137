"""`tidegate-worker`: find the verb, run it, and turn what it raises into one line and an exit code."""

from __future__ import annotations

import sys

from tidegate_worker.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
