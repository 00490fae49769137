"""The local pod API with pods that are small Python programs, for tests of whatever talks to a cluster."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config
from kubernetes_asyncio import client as async_client
from kubernetes_asyncio import config as async_config
from tests.adapters.metrics_bed import eventually

from tidegate.adapters.kube_pods import WORKER_CONTAINER, KubePods
from tidegate.core.errors import FixConfig
from tidegate_local.podapi.process import PodApiProcess

NAMESPACE = "default"
MIB = 1024 * 1024
NODE_MEMORY = "2Gi"

SLEEPS = "import time; time.sleep(300)"
DRAINS = """
    import signal, sys, time
    def drained(*_):
        open("/dev/termination-log", "w").write("answered all")
        sys.exit(75)
    signal.signal(signal.SIGTERM, drained)
    print("ready")
    time.sleep(300)
"""
#: Does not heed SIGTERM, which would end it at once otherwise.
LINGERS = """
    import signal, time
    signal.signal(signal.SIGTERM, lambda *_: None)
    print("ready")
    while True:
        time.sleep(1)
"""


@dataclass
class Cluster:
    api: PodApiProcess
    core: Any

    def create(
        self,
        name: str,
        program: str = SLEEPS,
        memory: str = "64Mi",
        *,
        arguments: Sequence[str] = (),
        env: Sequence[Mapping[str, Any]] = (),
        labels: Mapping[str, str] | None = None,
    ) -> Any:
        resources = {"requests": {"memory": memory}, "limits": {"memory": memory}}
        container = {
            "name": WORKER_CONTAINER,
            "image": "python:3",
            "command": ["python3", "-u", "-c", textwrap.dedent(program), *arguments],
            "env": list(env),
            "resources": resources,
        }
        spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 5, "containers": [container]}
        metadata = {"name": name, "labels": {"test": name, **(labels or {})}}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        return self.core.create_namespaced_pod(NAMESPACE, body)

    def read(self, name: str) -> Any:
        return self.core.read_namespaced_pod(name, NAMESPACE)

    def running(self, name: str) -> Any:
        return eventually(lambda: self.read(name), lambda pod: pod.status.phase == "Running")

    def ready(self, name: str) -> Any:
        """The pod once its program has said so."""
        self.running(name)
        eventually(lambda: self.core.read_namespaced_pod_log(name, NAMESPACE), lambda log: "ready" in log)
        return self.read(name)

    def ended(self, name: str) -> Any:
        return eventually(lambda: self.read(name), lambda pod: pod.status.phase in ("Succeeded", "Failed"))

    def gone(self, name: str) -> None:
        def names() -> set[str]:
            return {pod.metadata.name for pod in self.core.list_namespaced_pod(NAMESPACE).items}

        eventually(names, lambda there: name not in there)

    @asynccontextmanager
    async def pods(self) -> AsyncIterator[KubePods]:
        """What the breaker would hold of this cluster."""
        settings = async_client.Configuration()
        await async_config.load_kube_config(str(self.api.kubeconfig), client_configuration=settings)
        async with async_client.ApiClient(settings) as connection:
            yield KubePods(async_client.CoreV1Api(connection), NAMESPACE)


def started(folder: Path) -> Iterator[Cluster]:
    table = folder / "images.yaml"
    table.write_text(f'images: {{"python:3": {{python: "{sys.prefix}"}}}}\n')
    try:
        api = PodApiProcess.start(folder / "work", "--images", str(table), "--memory", NODE_MEMORY)
    except FixConfig as why:
        pytest.skip(f"no pod can run here: {why}")
    core = client.CoreV1Api(config.new_client_from_config(str(api.kubeconfig)))
    yield Cluster(api, core)
    core.delete_collection_namespaced_pod(NAMESPACE, grace_period_seconds=0)
    api.stop()
