"""`python -m tidegate`: the command line, where its entry point is not on PATH."""

from __future__ import annotations

import sys

from tidegate.cli.command import main

sys.exit(main())
