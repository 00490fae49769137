"""`tidegate-local up`: start or heal the stack and say where it is."""

from __future__ import annotations

import argparse
import time

from tidegate_local.stack.layout import Layout
from tidegate_local.stack.session import Session, add_home_argument, say
from tidegate_local.stack.supervisor import exclusive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_home_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    layout = Layout(arguments.home.resolve())
    layout.demand_room()
    layout.make()
    began = time.monotonic()
    with exclusive(layout):
        session = Session.started(arguments.home)
    say(f"the stack serves after {time.monotonic() - began:.0f} s; make down ends it")
    for name, where in session.addresses():
        print(f"{name:15} {where}")
    return 0
