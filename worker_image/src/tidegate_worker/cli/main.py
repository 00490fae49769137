"""The verbs of `tidegate-worker`, and what their errors become; the verbs themselves are modules beside this one.

Nothing heavy is imported before a verb needs it: `--help` and `doctor` must answer at once, also where torch is broken.
"""

from __future__ import annotations

import argparse
import errno
import faulthandler
import importlib
import sys
from collections.abc import Sequence
from typing import Final, Protocol

from tidegate.core.contract import ExitCode
from tidegate.core.errors import RetryLater, TidegateError
from tidegate_worker import __version__
from tidegate_worker.redact import redact
from tidegate_worker.settings import Settings

_EPILOG: Final = """\
examples:
  tidegate-worker run                                    serve open Antenna jobs, as configured by .env
  tidegate-worker run --antenna-job 88                   one job, tuned on its own images
  tidegate-worker run --manifest night.csv --output out  images named by a file
  tidegate-worker tune --antenna-job 88 --write-env .env what to set, and why
  tidegate-worker doctor                                 what is wrong here

exit codes:
  0   the job is drained and answered       69  the job's owner cannot be reached
  65  too many images failed                75  drained on request
  78  a setting must be changed

Settings are read from the environment and from .env: docs/settings.md.
"""

#: Verb -> what it does; each is a module of this package with `arguments` and `execute`.
_VERBS: Final = {
    "run": "work a job until it is done (the assignment in TIDEGATE_PLAN, a job named here, or any open one)",
    "probe": "measure on a job's own images, answer those, and report",
    "tune": "recommend settings for a job, with the mathematics",
    "doctor": "look for what would stop or slow a run, and say what to do",
    "register": "tell Antenna which pipelines this worker serves",
    "weights": "fetch the files of pipelines into the cache and name their hashes",
}


class Verb(Protocol):
    def arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def execute(self, arguments: argparse.Namespace, settings: Settings) -> int: ...


def main(argv: Sequence[str] | None = None) -> int:
    faulthandler.enable()
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="tidegate-worker",
        description="Bounded-memory image inference: bytes in, results out, never more memory than allowed.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, help_text in _VERBS.items():
        _verb(name).arguments(
            verbs.add_parser(
                name, help=help_text, description=help_text, formatter_class=argparse.RawDescriptionHelpFormatter
            )
        )
    arguments = parser.parse_args(words)
    try:
        settings = Settings.read()
        return _verb(arguments.verb).execute(arguments, settings)
    except TidegateError as error:
        return _told(redact(str(error)), exit_code_of(error))
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        return _told(
            "too many open files: raise the hard limit of this process (`ulimit -Hn`, LimitNOFILE= in a systemd unit,"
            " the container runtime's default-ulimits) to 65536",
            ExitCode.CONFIGURATION,
        )


def exit_code_of(error: TidegateError) -> ExitCode:
    """What a supervisor should make of it: waiting helps only where the other side is not well."""
    return ExitCode.UPSTREAM_UNAVAILABLE if isinstance(error, RetryLater) else ExitCode.CONFIGURATION


def _told(problem: str, code: ExitCode) -> int:
    print(f"tidegate-worker: {problem}", file=sys.stderr)
    return code


def _verb(name: str) -> Verb:
    module: Verb = importlib.import_module(f"tidegate_worker.cli.{name}")
    return module
