"""A pod API of its own for each module, and the few calls that its tests share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config

from tidegate.core.errors import FixConfig
from tidegate_local.podapi.process import PodApiProcess

PATIENCE_SECONDS = 20.0


@dataclass
class Stack:
    """A running pod API and a client of it."""

    api: PodApiProcess
    core: Any

    def run(self, name: str, program: str, **spec: Any) -> Any:
        """Create a pod that runs `program` with python3; `container` in `spec` adds to its only container."""
        container = {
            "name": "main",
            "image": "python:3",
            "command": ["python3", "-u", "-c", program],
            "resources": {"requests": {"memory": "64Mi"}, "limits": {"memory": "64Mi"}},
            **spec.pop("container", {}),
        }
        body = {
            "metadata": {"name": name, "labels": spec.pop("labels", {})},
            "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 2, "containers": [container], **spec},
        }
        return self.core.create_namespaced_pod("default", body)

    def until(self, name: str, holds: Callable[[Any], Any]) -> Any:
        give_up = time.monotonic() + PATIENCE_SECONDS
        while True:
            pod = self.core.read_namespaced_pod(name, "default")
            if holds(pod):
                return pod
            if time.monotonic() > give_up:
                pytest.fail(f"not so after {PATIENCE_SECONDS:.0f} s: {pod.status}")
            time.sleep(0.02)

    def running(self, name: str) -> Any:
        return self.until(name, lambda pod: pod.status.phase == "Running")

    def ended(self, name: str) -> Any:
        return self.until(name, lambda pod: pod.status.phase in ("Succeeded", "Failed"))

    def log(self, name: str, **options: Any) -> str:
        answer = self.core.read_namespaced_pod_log(name, "default", _preload_content=False, **options)
        return bytes(answer.data).decode()

    def says(self, name: str, text: str) -> None:
        self.until(name, lambda pod: pod.status.phase != "Pending" and text in self.log(name))

    def kubectl(self, *words: str, stdin: str = "") -> str:
        """What kubectl prints; fails where it fails."""
        done = subprocess.run(
            ["kubectl", "--kubeconfig", str(self.api.kubeconfig), *words],
            input=stdin, capture_output=True, text=True, timeout=60, check=False,
            env={"PATH": os.environ["PATH"], "HOME": str(self.api.workdir)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout


def started(workdir: Path, *options: str, paths: Sequence[Path] = ()) -> Stack:
    """A pod API on `workdir`, or a skip that says why none can run here; `paths` are more that its image reads."""
    table = workdir.parent / "table.yaml"
    image = {"python": sys.prefix, "paths": [str(path) for path in paths]}
    table.write_text(json.dumps({"images": {"python:*": image}}))
    try:
        api = PodApiProcess.start(workdir, "--images", str(table), "--memory", "2Gi", *options)
    except FixConfig as error:
        if "cgroup" not in str(error):
            raise
        pytest.skip(f"no pod can run here: {error}")
    return Stack(api, client.CoreV1Api(config.new_client_from_config(str(api.kubeconfig))))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    running = started(tmp_path_factory.mktemp("node") / "work")
    yield running
    running.api.stop()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    """Starts pod APIs on one work folder, one after the other; the last is stopped at the end."""
    stacks: list[Stack] = []

    def start(*options: str, **table: Any) -> Stack:
        stacks.append(started(tmp_path / "work", *options, **table))
        return stacks[-1]

    yield start
    for stack in stacks[-1:]:
        stack.api.stop()
