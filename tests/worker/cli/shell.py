"""The worker's command line as a shell runs it: a process with an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def worker(
    *words: str, folder: Path, environment: Mapping[str, str] | None = None, seconds: float = 600.0
) -> subprocess.CompletedProcess[str]:
    """`tidegate-worker WORDS`, in `folder`, with none of this process's own settings."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("TIDEGATE_", "AMI_", "COV_"))
    }
    return subprocess.run(
        [sys.executable, "-m", "tidegate_worker", *words],
        cwd=folder,
        env={
            **inherited,
            "TIDEGATE_STAGING_DIR": str(folder / "staging"),
            "TIDEGATE_WEIGHTS_DIR": str(folder / "weights"),
            "TIDEGATE_METRICS_PORT": "-1",
            **(environment or {}),
        },
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
