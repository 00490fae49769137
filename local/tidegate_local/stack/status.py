"""`tidegate-local status`: which parts of the stack serve, and what keeps the others from it."""

from __future__ import annotations

import argparse

from tidegate_local.stack.session import Session, add_home_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_home_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """0 where all parts serve, 3 where some do not, as `systemctl status` does."""
    if not arguments.home.exists():
        print(f"no stack at {arguments.home}; make up starts one")
        return 3
    session = Session.open(arguments.home)
    rows = session.supervisor.status()
    for row in rows:
        print(f"{row.name:22} {row.pid or '-':>8}  {row.problem or 'serves'}")
    if any(row.problem for row in rows):
        print("make up heals what is missing; make logs shows why it ended")
        return 3
    for name, where in session.addresses():
        print(f"{name:15} {where}")
    return 0
