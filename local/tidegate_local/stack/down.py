"""`tidegate-local down`: end exactly what this stack started; its state stays for the next start."""

from __future__ import annotations

import argparse

from tidegate_local.stack.session import Session, add_home_argument
from tidegate_local.stack.supervisor import exclusive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_home_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    if not arguments.home.exists():
        print(f"no stack at {arguments.home}")
        return 0
    session = Session.open(arguments.home)
    with exclusive(session.layout):
        session.supervisor.down()
    return 0
