"""`tidegate`: which command was asked for, how its answer is printed, and with which code it ends.

| code | means                                                  |
|------|--------------------------------------------------------|
| 0    | done                                                   |
| 1    | a person must decide                                   |
| 2    | the command line itself is wrong                       |
| 75   | the database does not answer: the same again later     |
| 78   | a setting or an argument is wrong; the message says which |
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

from tidegate.adapters.configuration import configuration
from tidegate.adapters.kube_pods import quantity_bytes
from tidegate.cli import changes, text
from tidegate.control import record
from tidegate.control.runs import open_store
from tidegate.core.contract import EXPORTER_PORT, ExitCode
from tidegate.core.errors import FixConfig, RetryLater, TidegateError
from tidegate.exporter.server import serve

_CODES: Final = {FixConfig: ExitCode.CONFIGURATION, RetryLater: ExitCode.DRAINED}


def main(arguments: Sequence[str] | None = None) -> int:
    asked = _parser().parse_args(arguments)
    try:
        if asked.command == "exporter":
            # An exporter that is brought up to date before Airflow must not take the store from it.
            serve(open_store(configuration(), migrate=False), configuration(), asked.host, asked.port)
            return 0
        answer = _answer(asked)
    except TidegateError as error:
        print(f"tidegate: {' '.join(str(error).split())}", file=sys.stderr)
        return next((int(code) for kind, code in _CODES.items() if isinstance(error, kind)), 1)
    try:
        print(json.dumps(answer, indent=2) if asked.json else text.RENDERINGS[asked.command](answer))
    except BrokenPipeError:
        # `tidegate runs | head` has read enough; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _answer(asked: argparse.Namespace) -> Any:
    settings = configuration()
    store = open_store(settings)
    match asked.command:
        case "runs":
            return record.runs(store, asked.pipeline, asked.at_most)
        case "show":
            return record.show(store, asked.run)
        case "history":
            return record.history(store, asked.pipeline)
        case "reset":
            return changes.reset(
                store, settings, asked.run, slot=asked.slot, cap=asked.cap, limit=asked.limit, by=asked.by
            )
        case _:
            return changes.upgraded(store)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tidegate", description="Runs, their pods, trips and baselines.")
    # Before and after the command alike.
    printing = argparse.ArgumentParser(add_help=False)
    printing.add_argument("--json", action="store_true", help="print JSON, for programs")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    runs = commands.add_parser("runs", parents=[printing], help="list runs, the newest first")
    runs.add_argument("--pipeline", help="of this pipeline alone")
    runs.add_argument("--at-most", type=int, default=20, metavar="N", help="how many (default: %(default)s)")

    show = commands.add_parser("show", parents=[printing], help="one run: plan, slots, pods, trips, summary")
    show.add_argument("run", metavar="RUN", help="its id, or the id of its DAG run in Airflow")

    history = commands.add_parser("history", parents=[printing], help="what healthy runs of a pipeline have needed")
    history.add_argument("pipeline", metavar="PIPELINE")

    reset = commands.add_parser(
        "reset", parents=[printing], help="let a locked-out run go on, perhaps with more memory"
    )
    reset.add_argument("run", metavar="RUN", help="its id, or the id of its DAG run in Airflow")
    reset.add_argument("--cap", type=_size, metavar="SIZE", help="new cap of each slot, such as 32Gi")
    reset.add_argument("--limit", type=_size, metavar="SIZE", help="limit of the next pod, such as 8Gi")
    reset.add_argument("--slot", type=int, metavar="N", help="this slot alone (default: every locked-out one)")
    reset.add_argument("--by", default=_user(), metavar="NAME", help="who decided (default: %(default)s)")

    exporter = commands.add_parser("exporter", help="serve what the run store knows to Prometheus")
    exporter.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="bind here (default: %(default)s)")
    exporter.add_argument("--port", type=int, default=EXPORTER_PORT, metavar="N", help="port (default: %(default)s)")

    database = commands.add_parser("db", help="the run store's database")
    database.add_subparsers(dest="verb", required=True, metavar="VERB").add_parser(
        "upgrade", parents=[printing], help="bring its schema to this release; every other command does so too"
    )
    return parser


def _size(written: str) -> int:
    size = quantity_bytes(written)
    if size < 1:
        raise ValueError(written)
    return size


_size.__name__ = "size"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container's user without a name.
        return f"uid {os.getuid()}"
