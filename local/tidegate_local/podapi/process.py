"""A pod API in a process of its own: started, awaited, stopped or killed; for the supervisor and for tests."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tidegate.core.contract import ExitCode
from tidegate.core.errors import FixConfig

_READY_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 20.0
_READY: Final = re.compile(r"^pod API at (\S+), kubeconfig ", re.MULTILINE)


@dataclass(slots=True)
class PodApiProcess:
    """One running pod API; its output goes to `podapi.log` in its work folder."""

    workdir: Path
    process: subprocess.Popen[bytes]
    url: str

    @classmethod
    def start(cls, workdir: Path, *options: str, environment: dict[str, str] | None = None) -> PodApiProcess:
        """Start a pod API and wait until it answers; FixConfig with its own words where a person must act first."""
        workdir.mkdir(parents=True, exist_ok=True)
        log = workdir / "podapi.log"
        begins = log.stat().st_size if log.exists() else 0
        command: Sequence[str] = [sys.executable, "-m", "tidegate_local", "podapi", "--workdir", str(workdir), *options]
        with log.open("ab") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                env={**os.environ, **(environment or {})},
            )  # fmt: skip
        give_up = time.monotonic() + _READY_SECONDS
        while time.monotonic() < give_up:
            said = log.read_bytes()[begins:].decode(errors="replace")
            if ready := _READY.search(said):
                return cls(workdir, process, ready[1])
            if process.poll() is not None:
                told = said.strip() or f"the pod API ended with code {process.returncode}"
                raise FixConfig(told) if process.returncode == ExitCode.CONFIGURATION else RuntimeError(told)
            time.sleep(0.02)
        process.kill()
        process.wait()
        raise RuntimeError(f"the pod API did not answer within {_READY_SECONDS:.0f} s: see {log}")

    @property
    def kubeconfig(self) -> Path:
        return self.workdir / "kubeconfig"

    def stop(self) -> None:
        """End it as a supervisor does: its pods end too."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it at once; its pods go on, for the next process to find."""
        self.process.kill()
        self.process.wait()
