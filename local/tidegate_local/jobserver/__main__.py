"""`python -m tidegate_local.jobserver`: the job server alone, without the rest of the stack."""

from __future__ import annotations

import argparse
import sys

from tidegate_local.jobserver.command import add_arguments, run

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m tidegate_local.jobserver",
        description="A demo job server with Antenna's pull API. Without a command it serves until SIGTERM.",
    )
    add_arguments(parser)
    sys.exit(run(parser.parse_args()))
