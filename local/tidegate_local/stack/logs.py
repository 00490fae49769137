"""`tidegate-local logs`: the ends of the stack's logs, or one of them as it grows."""

from __future__ import annotations

import argparse
import contextlib
import time
from pathlib import Path

from tidegate_local.stack.layout import Layout
from tidegate_local.stack.session import add_home_argument
from tidegate_local.stack.supervisor import tail


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_home_argument(parser)
    parser.add_argument("service", nargs="?", help="only this service's log (default: the end of each)")
    parser.add_argument("--lines", type=int, default=20, help="how many lines of each (default: %(default)s)")
    parser.add_argument("--follow", action="store_true", help="go on as the named log grows; Ctrl-C ends")


def run(arguments: argparse.Namespace) -> int:
    folder = Layout(arguments.home.resolve()).logs
    logs = sorted(folder.glob("*.log"))
    if arguments.service:
        chosen = [log for log in logs if log.stem == arguments.service]
        if not chosen:
            known = ", ".join(log.stem for log in logs) or "none yet; make up starts the stack"
            print(f"no log of {arguments.service!r} in {folder} (there are: {known})")
            return 2
        logs = chosen
    for log in logs:
        print(f"== {log}\n{tail(log, arguments.lines)}")
    if arguments.follow and arguments.service:
        with contextlib.suppress(KeyboardInterrupt):
            _follow(logs[0])
    return 0


def _follow(log: Path) -> None:
    with log.open(errors="replace") as file:
        file.seek(0, 2)
        while True:
            if text := file.read():
                print(text, end="", flush=True)
            else:
                time.sleep(0.2)
