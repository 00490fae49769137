"""Tells the job server of a pipeline, as an administrator does once: it does not save a stranger's results."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tidegate.core.errors import FixConfig
from tidegate_local.jobserver.control import JobServer
from tidegate_local.stack.layout import REPOSITORY


def register(jobs: JobServer, *pipelines: str) -> None:
    """Run `tidegate-worker register`; safe to repeat."""
    worker = REPOSITORY / ".venv" / "worker" / "bin" / "tidegate-worker"
    done = subprocess.run(
        (str(worker), "register", *(word for pipeline in pipelines for word in ("--pipeline", pipeline))),
        env={
            "PATH": os.defpath,
            "HOME": str(Path.home()),
            "TIDEGATE_ANTENNA_URL": jobs.api_url,
            "TIDEGATE_ANTENNA_TOKEN": jobs.token,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise FixConfig(f"{', '.join(pipelines)} could not be registered: {done.stderr.strip()[-500:]}")
