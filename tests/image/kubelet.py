"""The composed pod as a kubelet would start it, in the options of `docker run`; what differs is said here.

The network is the machine's own, so that the pod reaches servers on loopback, and its port of metrics is any free one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.image.engine import Engine

_FIELDS = {"status.podIP": "127.0.0.1", "spec.nodeName": "node-1", "metadata.name": "pod-1"}


@dataclass(frozen=True)
class Ended:
    exit_code: int
    logs: str
    last_words: str


class Container:
    """One pod's container; `with` ends it whatever happens."""

    def __init__(self, engine: Engine, image: str, pod: Any, folder: Path, secrets: Mapping[str, str]) -> None:
        self._engine = engine
        self._message = folder / "termination-log"
        self._message.touch()
        # The kubelet's own mode: whoever the container runs as may write its last words.
        self._message.chmod(0o666)
        options = [*_security(engine, pod), *_resources(pod), *_environment(pod, secrets), *_volumes(pod, folder)]
        mount = ("--volume", f"{self._message}:/dev/termination-log")
        arguments = pod.spec.containers[0].args
        started = engine("run", "--detach", "--network", "host", *engine.limits, *mount, *options, image, *arguments)
        self._id = started.stdout.strip()

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine("rm", "--force", self._id)

    def signal(self, name: str) -> None:
        self._engine("kill", "--signal", name, self._id)

    def is_running(self) -> bool:
        return bool(self._engine.inspect(self._id)["State"]["Running"])

    def logs(self) -> str:
        logs = self._engine("logs", self._id)
        return logs.stdout + logs.stderr

    def ended(self) -> Ended:
        """Once it has."""
        self._engine("wait", self._id)
        code = self._engine.inspect(self._id)["State"]["ExitCode"]
        return Ended(code, self.logs(), self._message.read_text().strip())


def _security(engine: Engine, pod: Any) -> Iterator[str]:
    security, own = pod.spec.security_context, pod.spec.containers[0].security_context
    assert own.read_only_root_filesystem
    assert not own.allow_privilege_escalation
    yield from ("--user", f"{security.run_as_user}:{security.run_as_group}")
    yield from ("--group-add", str(security.fs_group))
    yield from engine.read_only
    for capability in own.capabilities.drop:
        yield from ("--cap-drop", capability)
    yield from ("--security-opt", "no-new-privileges")


def _resources(pod: Any) -> Iterator[str]:
    memory = pod.spec.containers[0].resources.limits["memory"]
    yield from ("--memory", memory, "--memory-swap", memory)
    yield from ("--stop-timeout", str(pod.spec.termination_grace_period_seconds))


def _environment(pod: Any, secrets: Mapping[str, str]) -> Iterator[str]:
    for each in pod.spec.containers[0].env:
        value = each.value
        if each.value_from is not None:
            field, secret = each.value_from.field_ref, each.value_from.secret_key_ref
            value = _FIELDS[field.field_path] if field else secrets[f"{secret.name}/{secret.key}"]
        yield from ("--env", f"{each.name}={value}")
    yield from ("--env", "TIDEGATE_METRICS_PORT=0")


def _volumes(pod: Any, folder: Path) -> Iterator[str]:
    group = pod.spec.security_context.fs_group
    volumes = {volume.name: volume for volume in pod.spec.volumes}
    for mount in pod.spec.containers[0].volume_mounts:
        source = folder / mount.name
        if not source.exists():
            source.mkdir()
            # An emptyDir is open to all; of a claim the group alone may be sure, once fsGroup was applied.
            os.chown(source, 0, group)
            source.chmod(0o2777 if volumes[mount.name].empty_dir else 0o2775)
        if mount.sub_path:
            source /= mount.sub_path
            source.mkdir(exist_ok=True)
            source.chmod(0o2775)
        yield from ("--volume", f"{source}:{mount.mount_path}")
