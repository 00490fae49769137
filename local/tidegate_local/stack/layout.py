"""Where the stack keeps what it writes: one folder, every file below it; no process knowledge."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tidegate.core.contract import MIB
from tidegate.core.errors import FixConfig

#: Databases, logs and images of a demo take a fifth of it.
ROOM_BYTES: Final = 512 * MIB
REPOSITORY: Final = Path(__file__).resolve().parents[3]
LOOPBACK: Final = "127.0.0.1"

#: Every server of the stack by the name of its port.
PORT_NAMES: Final = (
    "airflow",
    "scheduler_health",
    "scheduler_logs",
    "triggerer_logs",
    "podapi",
    "discovery",
    "exporter",
    "jobserver",
    "prometheus",
    "alertmanager",
)


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders of one stack. Two stacks with two homes share nothing."""

    home: Path

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def airflow(self) -> Path:
        return self.home / "airflow"

    @property
    def podapi(self) -> Path:
        return self.home / "podapi"

    @property
    def jobserver(self) -> Path:
        return self.home / "jobserver"

    @property
    def prometheus(self) -> Path:
        return self.home / "prometheus"

    @property
    def alertmanager(self) -> Path:
        return self.home / "alertmanager"

    @property
    def secrets(self) -> Path:
        return self.home / "secrets"

    @property
    def alert_secrets(self) -> Path:
        """Where a person puts the secrets of channels for alerts; none is needed."""
        return self.secrets / "alertmanager"

    @property
    def results(self) -> Path:
        return self.podapi / "claims" / "default" / "results"

    @property
    def airflow_kubeconfig(self) -> Path:
        """As whom Airflow works in the cluster."""
        return self.secrets / "airflow-kubeconfig"

    @property
    def scrape_token(self) -> Path:
        """As whom Prometheus reads through a foreign cluster's API server, and who signed that server's certificate."""
        return self.secrets / "scrape-token"

    @property
    def cluster_authority(self) -> Path:
        return self.secrets / "cluster-ca.crt"

    @property
    def store_url(self) -> str:
        """Of the run store."""
        return f"sqlite:///{self.home / 'runs.sqlite'}"

    @property
    def pids(self) -> Path:
        return self.home / "pids.json"

    @property
    def lock(self) -> Path:
        return self.home / "lock"

    def make(self) -> None:
        """Create the folders; the home is the user's alone, for tokens lie in it."""
        self.home.mkdir(parents=True, exist_ok=True)
        for folder in (
            self.logs,
            self.airflow,
            self.podapi,
            self.jobserver,
            self.prometheus,
            self.alertmanager,
            self.secrets,
            self.alert_secrets,
        ):
            folder.mkdir(parents=True, exist_ok=True)
        self.secrets.chmod(0o700)

    def demand_room(self) -> None:
        """Told once, here: each server would end in its own words, some of which would not fit on the disk."""
        self.home.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.home).free
        if free < ROOM_BYTES:
            raise FixConfig(
                f"{free // MIB} MiB are free at {self.home}, and the stack needs {ROOM_BYTES // MIB}: free some, or"
                " name a folder on another disk by TIDEGATE_HOME"
            )

    def secret(self, name: str) -> str:
        """The secret of that name, made at first use and kept in a file that only this user reads."""
        path = self.secrets / name
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return path.read_text()
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(20))
        return path.read_text()

    def ports(self) -> dict[str, int]:
        """A port for every server: chosen free once, then kept, so that addresses survive a restart.

        A kept port that somebody else has taken meanwhile is chosen anew by `forget_ports`.
        """
        path = self.home / "ports.json"
        known: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
        missing = [name for name in PORT_NAMES if name not in known]
        if missing:
            known |= dict(zip(missing, free_ports(len(missing)), strict=True))
            draft = path.with_suffix(".draft")
            draft.write_text(json.dumps(known, indent=1))
            draft.replace(path)
        return known

    def forget_ports(self, *names: str) -> None:
        path = self.home / "ports.json"
        known: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps({name: port for name, port in known.items() if name not in names}))
        draft.replace(path)


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    # Held together until all are known: one at a time the kernel may hand out the same port twice.
    held = [socket.socket() for _ in range(count)]
    try:
        for each in held:
            each.bind((LOOPBACK, 0))
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()
