"""The cluster that the conformance suite runs against: one that options name, or the local pod API, started for it.

    pytest tests/conformance                                              # the local pod API
    pytest tests/conformance --kubeconfig FILE --image python:3.13-slim   # any cluster

KUBECONFIG and IMAGE together do what the options do. The image needs python3 and nothing else. Everything happens in a
namespace of its own, which is deleted at the end.
"""

from __future__ import annotations

import os
import secrets
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config

from tidegate.core.errors import FixConfig
from tidegate_local.podapi.process import PodApiProcess

#: Against a real cluster images are pulled and nodes are busy.
LOCAL_PATIENCE_SECONDS = 20.0
CLUSTER_PATIENCE_SECONDS = 120.0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kubeconfig", help="run the conformance suite against this cluster (needs --image)")
    parser.addoption("--image", help="an image with python3 that the cluster can pull")


@dataclass(frozen=True)
class Cluster:
    """A namespace of a cluster, and how long to wait there."""

    core: Any
    namespace: str
    image: str
    kubeconfig: Path
    patience_seconds: float
    is_local: bool

    def manifest(self, name: str, program: str, *, memory: str | None = "64Mi", **spec: Any) -> dict[str, Any]:
        """A pod that runs `program` with python3. `container` in `spec` adds fields to its only container."""
        extra = spec.pop("container", {})
        labels = spec.pop("labels", {})
        resources = {"requests": {"memory": memory}, "limits": {"memory": memory}} if memory else {}
        container = {
            "name": "main",
            "image": self.image,
            # An image that was loaded into the node may be in no registry.
            "imagePullPolicy": "IfNotPresent",
            "command": ["python3", "-u", "-c", textwrap.dedent(program)],
            "resources": resources,
            **extra,
        }
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"test": name, **labels}},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 5,
                "containers": [container],
                **spec,
            },
        }

    def create(self, name: str, program: str, **spec: Any) -> Any:
        return self.core.create_namespaced_pod(self.namespace, self.manifest(name, program, **spec))

    def read(self, name: str) -> Any:
        return self.core.read_namespaced_pod(name, self.namespace)

    def patch(self, name: str, body: Any) -> Any:
        return self.core.patch_namespaced_pod(name, self.namespace, body)

    def delete(self, name: str, **options: Any) -> Any:
        return self.core.delete_namespaced_pod(name, self.namespace, **options)

    def log(self, name: str, **options: Any) -> str:
        # The client would print bytes as b'...' where it reads text.
        answer = self.core.read_namespaced_pod_log(name, self.namespace, _preload_content=False, **options)
        return bytes(answer.data).decode()

    def until(self, name: str, holds: Callable[[Any], Any]) -> Any:
        """The pod once `holds` is true of it."""
        return self.eventually(lambda: self.read(name), holds)

    def eventually(self, look: Callable[[], Any], holds: Callable[[Any], Any]) -> Any:
        """What `look` returns once `holds` is true of it; fails with what it was when patience ends."""
        give_up = time.monotonic() + self.patience_seconds
        while True:
            seen = look()
            if holds(seen):
                return seen
            if time.monotonic() > give_up:
                pytest.fail(f"not so after {self.patience_seconds:.0f} s: {getattr(seen, 'status', seen)}")
            time.sleep(0.05 if self.is_local else 0.5)

    def running(self, name: str) -> Any:
        return self.until(name, lambda pod: pod.status.phase == "Running")

    def ended(self, name: str) -> Any:
        return self.until(name, lambda pod: pod.status.phase in ("Succeeded", "Failed"))

    def says(self, name: str, text: str) -> str:
        """The pod's log once it holds `text`."""
        self.until(name, lambda pod: pod.status.phase != "Pending")
        return str(self.eventually(lambda: self.log(name), lambda log: text in log))

    def gone(self, name: str) -> None:
        def exists() -> bool:
            try:
                self.read(name)
            except client.ApiException as error:
                if error.status == 404:
                    return False
                raise
            return True

        self.eventually(exists, lambda there: not there)

    def terminated(self, name: str, container: str = "main") -> Any:
        """How the container of an ended pod ended."""
        statuses = self.ended(name).status.container_statuses
        return next(each for each in statuses if each.name == container).state.terminated

    def events(self, name: str, reason: str) -> list[Any]:
        selector = f"involvedObject.name={name},reason={reason}"
        found: list[Any] = self.core.list_namespaced_event(self.namespace, field_selector=selector).items
        return found

    def told(self, name: str, reason: str) -> Any:
        """The first event of `reason` about the pod, once there is one."""
        return self.eventually(lambda: self.events(name, reason), bool)[0]

    def minor_version(self) -> int:
        return int(client.VersionApi(self.core.api_client).get_code().minor.rstrip("+"))


@pytest.fixture(scope="session")
def kubeconfig_and_image(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, str, bool]]:
    kubeconfig = request.config.getoption("kubeconfig", default=None) or os.environ.get("KUBECONFIG")
    image = request.config.getoption("image", default=None) or os.environ.get("IMAGE")
    if kubeconfig and image:
        yield Path(kubeconfig), image, False
        return
    folder = tmp_path_factory.mktemp("podapi")
    table = folder / "table.yaml"
    table.write_text(f'images: {{"python:3": {{python: "{sys.prefix}"}}}}\n')
    try:
        api = PodApiProcess.start(folder / "work", "--images", str(table), "--memory", "4Gi")
    except FixConfig as error:
        if "cgroup" not in str(error):
            raise
        pytest.skip(f"no pod can run here: {error}")
    yield api.kubeconfig, "python:3", True
    api.stop()


@pytest.fixture(scope="session")
def cluster(kubeconfig_and_image: tuple[Path, str, bool]) -> Iterator[Cluster]:
    kubeconfig, image, is_local = kubeconfig_and_image
    core = client.CoreV1Api(config.new_client_from_config(str(kubeconfig)))
    namespace = f"tidegate-conformance-{secrets.token_hex(3)}"
    core.create_namespace({"metadata": {"name": namespace}})
    patience = LOCAL_PATIENCE_SECONDS if is_local else CLUSTER_PATIENCE_SECONDS
    found = Cluster(core, namespace, image, kubeconfig, patience, is_local)
    accounts = lambda: core.list_namespaced_service_account(namespace).items  # noqa: E731
    found.eventually(accounts, lambda items: any(each.metadata.name == "default" for each in items))
    yield found
    core.delete_namespace(namespace)
