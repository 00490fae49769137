"""A PostgreSQL server of one's own, from the Debian packages, in a directory of a test."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


def _binaries() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@contextlib.contextmanager
def postgres_server(directory: Path) -> Iterator[str]:
    """The URL of an empty database."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server is installed (Debian package postgresql)")
    user: list[str] = []
    if os.geteuid() == 0:
        # The server refuses to run as root.
        try:
            owner = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        user = ["setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
        os.chown(directory, owner.pw_uid, owner.pw_gid)
        for parent in directory.parents:
            if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    data = directory / "data"
    run = {"check": True, "capture_output": True, "timeout": 120, "cwd": directory}
    subprocess.run(
        [*user, binaries / "initdb", "-D", data, "-U", "tidegate", "--auth=trust", "--no-sync", "-E", "UTF8"],
        **run,  # type: ignore[call-overload]
    )
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={directory} -c fsync=off"
    control = [*user, binaries / "pg_ctl", "-D", data, "-w"]
    # Not captured: the server would hold the pipe open for ever.
    subprocess.run(
        [*control, "-l", directory / "log", "-o", options, "start"],
        check=True, timeout=120, cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield f"postgresql://tidegate@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], **run)  # type: ignore[call-overload]
