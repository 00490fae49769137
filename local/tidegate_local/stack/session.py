"""One stack opened by a command: its layout, ports and supervisor put together; the commands stay thin."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tidegate_local.jobserver.control import JobServer
from tidegate_local.stack import metrics_config
from tidegate_local.stack.airflow_config import ADMIN
from tidegate_local.stack.cluster import Cluster
from tidegate_local.stack.doors import Doors
from tidegate_local.stack.layout import LOOPBACK, REPOSITORY, Layout
from tidegate_local.stack.provisioning import provision, withdraw, write_authority
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
    cluster: Cluster
    supervisor: Supervisor

    @classmethod
    def open(cls, home: Path, tell: Callable[[str], None] = say, cluster: Cluster | None = None) -> Session:
        layout = Layout(home.resolve())
        layout.make()
        ports = layout.ports()
        cluster = cluster or Cluster.own(layout)
        return cls(layout, ports, cluster, Supervisor(layout, services(layout, ports, cluster), tell))

    @classmethod
    def started(cls, home: Path, tell: Callable[[str], None] = say, cluster: Cluster | None = None) -> Session:
        """The stack at `home`, serving, with its pods on `cluster` or its own; raises what keeps it from it."""
        session = cls.open(home, tell, cluster)
        taken = session.supervisor.taken_ports(session.ports)
        if taken:
            tell(f"another program has the port of {', '.join(taken)}: choosing anew")
            # Addresses stand in other services' configuration, so all of them start anew.
            session.supervisor.down()
            session.layout.forget_ports(*taken)
            session = cls.open(home, tell, cluster)
        if not session.cluster.is_own:
            write_authority(session.layout, session.cluster)
        prepare(session.layout, session.ports, session.cluster, tell)
        session.supervisor.up()
        provision(session.layout, session.cluster)
        return session

    def doors(self) -> Doors:
        """What opens the servers of a stack that serves."""
        jobs = JobServer.of_workdir(self.layout.jobserver)
        return Doors(
            airflow_url=f"http://{LOOPBACK}:{self.ports['airflow']}",
            airflow_user=ADMIN,
            airflow_password=self.layout.secret("airflow-admin-password"),
            prometheus_url=f"http://{LOOPBACK}:{self.ports['prometheus']}",
            prometheus_user=metrics_config.USER,
            prometheus_password=self.layout.secret("metrics-password"),
            store_url=self.layout.store_url,
            jobs=JobServer(self.cluster.jobs_url_here(self.ports["jobserver"]), jobs.token),
            jobs_url_of_pods=self.cluster.jobs_url_of_pods(self.ports["jobserver"]),
            demand_alive=self.supervisor.demand_alive,
        )

    def ended(self) -> None:
        """End what `started` began, on a foreign cluster too; the state on this machine stays."""
        self.supervisor.down()
        if not self.cluster.is_own:
            withdraw(self.cluster)

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
            ("Kubernetes API", f"KUBECONFIG={self.cluster.kubeconfig}"),
            ("job server", self.cluster.jobs_url_here(self.ports["jobserver"])),
            ("logs", str(self.layout.logs)),
        ]
