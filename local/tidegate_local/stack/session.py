"""One stack opened by a command: its layout, ports and supervisor put together; the commands stay thin."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tidegate_local.stack import metrics_config
from tidegate_local.stack.airflow_config import ADMIN
from tidegate_local.stack.layout import LOOPBACK, REPOSITORY, Layout
from tidegate_local.stack.provisioning import provision
from tidegate_local.stack.services import prepare, services
from tidegate_local.stack.supervisor import Supervisor


def add_home_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--home",
        type=Path,
        default=Path(os.environ.get("TIDEGATE_HOME", REPOSITORY / ".run")),
        help="folder of the stack's state, logs and secrets (default: %(default)s, or TIDEGATE_HOME)",
    )


def say(line: str) -> None:
    # Progress is for people: standard output stays free for results.
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Session:
    layout: Layout
    ports: dict[str, int]
    supervisor: Supervisor

    @classmethod
    def open(cls, home: Path, tell: Callable[[str], None] = say) -> Session:
        layout = Layout(home.resolve())
        layout.make()
        ports = layout.ports()
        return cls(layout, ports, Supervisor(layout, services(layout, ports), tell))

    @classmethod
    def started(cls, home: Path, tell: Callable[[str], None] = say) -> Session:
        """The stack at `home`, serving; raises what keeps it from it."""
        session = cls.open(home, tell)
        taken = session.supervisor.taken_ports(session.ports)
        if taken:
            tell(f"another program has the port of {', '.join(taken)}: choosing anew")
            # Addresses stand in other services' configuration, so all of them start anew.
            session.supervisor.down()
            session.layout.forget_ports(*taken)
            session = cls.open(home, tell)
        prepare(session.layout, session.ports, tell)
        session.supervisor.up()
        provision(session.layout)
        return session

    def addresses(self) -> list[tuple[str, str]]:
        """Where a person finds what, with where the passwords lie."""
        secrets = self.layout.secrets

        def at(name: str) -> str:
            return f"http://{LOOPBACK}:{self.ports[name]}"

        return [
            ("Airflow", f"{at('airflow')}  (user {ADMIN}, password in {secrets / 'airflow-admin-password'})"),
            (
                "Prometheus",
                f"{at('prometheus')}  (user {metrics_config.USER}, password in {secrets / 'metrics-password'})",
            ),
            ("Alertmanager", f"{at('alertmanager')}  (same user and password as Prometheus)"),
            ("Kubernetes API", f"KUBECONFIG={self.layout.podapi / 'kubeconfig'}"),
            ("job server", at("jobserver")),
            ("logs", str(self.layout.logs)),
        ]
