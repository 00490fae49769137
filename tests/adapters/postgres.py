"""A PostgreSQL server of Debian's package for the length of a test run: a folder of its own, loopback, no superuser."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

READY_SECONDS = 20.0


class NotHere(Exception):
    """Why no server can be started."""


@dataclass
class Postgres:
    folder: Path
    process: subprocess.Popen[bytes]
    port: int

    @classmethod
    def start(cls) -> Postgres:
        if find_spec("psycopg") is None:
            raise NotHere("psycopg is not installed")
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if not found:
            raise NotHere("Debian's postgresql is not installed")
        bin_folder = found[-1].parent
        # Not in pytest's folder, which only the user that runs pytest may enter.
        folder = Path(tempfile.mkdtemp(prefix="tidegate-postgres-"))
        as_user = _unprivileged(folder)
        data = folder / "data"
        options = ["--username=tidegate", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"]
        made = subprocess.run(
            [bin_folder / "initdb", "-D", data, *options],
            capture_output=True,
            preexec_fn=as_user,
            timeout=60,
            cwd=folder,
        )
        if made.returncode != 0:
            raise NotHere(f"initdb failed: {made.stderr.decode()[-300:]}")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off"}
        process = subprocess.Popen(
            [bin_folder / "postgres", "-D", data, *(f"-c{name}={value}" for name, value in settings.items())],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=as_user,
            cwd=folder,
        )
        server = cls(folder, process, port)
        give_up = time.monotonic() + READY_SECONDS
        while time.monotonic() < give_up and process.poll() is None:
            ready = subprocess.run(
                [bin_folder / "pg_isready", "-h", "127.0.0.1", "-p", str(port)], capture_output=True, timeout=10
            )
            if ready.returncode == 0:
                return server
            time.sleep(0.1)
        server.stop()
        raise NotHere("the server did not get ready")

    def url(self, database: str) -> str:
        """The URL of a new, empty database."""
        import psycopg

        with psycopg.connect(f"host=127.0.0.1 port={self.port} user=tidegate dbname=postgres", autocommit=True) as one:
            one.execute(f'CREATE DATABASE "{database}"'.encode())
        return f"postgresql+psycopg://tidegate@127.0.0.1:{self.port}/{database}"

    def stop(self) -> None:
        if self.process.poll() is None:
            # Fast shutdown: it does not wait for clients.
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def _unprivileged(folder: Path) -> Callable[[], None] | None:
    """What a child does before it becomes the server, which refuses to run as root."""
    if os.geteuid() != 0:
        return None
    account = pwd.getpwnam("nobody")
    shutil.chown(folder, account.pw_uid, account.pw_gid)

    def become() -> None:
        os.setgroups([])
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)

    return become
