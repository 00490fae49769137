"""The door to the one-machine stack: hands each sub-command to the room that owns it, and does nothing else."""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import Final, Protocol, cast

from tidegate.core.errors import TidegateError


class Command(Protocol):
    """What a room's command module offers; it is imported only when its command is named."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, arguments: argparse.Namespace) -> int: ...


#: name -> (module that is a `Command`, one line of help)
COMMANDS: Final = {
    "up": ("tidegate_local.stack.up", "start or heal the whole stack and say where it is"),
    "down": ("tidegate_local.stack.down", "end exactly what the stack started"),
    "status": ("tidegate_local.stack.status", "say which parts serve"),
    "logs": ("tidegate_local.stack.logs", "show the ends of the logs"),
    "demo": ("tidegate_local.demo.command", "run a scenario through the whole stack and show it live"),
    "web-config": ("tidegate_local.stack.web_config", "write the password file of Prometheus and Alertmanager"),
    "discovery": ("tidegate_local.discovery.command", "tell Prometheus where the worker pods are"),
    "podapi": ("tidegate_local.podapi.command", "serve the pod API and run its pods on this machine"),
    "jobserver": ("tidegate_local.jobserver.command", "serve demo jobs with Antenna's pull API, or steer that server"),
}


def main(argv: list[str] | None = None) -> int:
    """Run the command in `argv` and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="tidegate-local", description="The one-machine stack of Tidegate.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    named = arguments[0] if arguments else ""
    for name, (module, summary) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        if name == named:
            command = cast("Command", importlib.import_module(module))
            command.add_arguments(subparser)
            subparser.set_defaults(run=command.run)
    parsed = parser.parse_args(arguments)
    try:
        return cast("int", parsed.run(parsed))
    except TidegateError as error:
        print(f"{parser.prog} {named}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{parser.prog} {named}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
