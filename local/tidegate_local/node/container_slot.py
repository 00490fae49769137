"""One container of a pod on this node: made, started, observed, started again; when to is the pod worker's matter."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from tidegate.core.errors import RetryLater
from tidegate_local.node import cgroups, container_config, container_world, states
from tidegate_local.node.attempts import Attempt
from tidegate_local.node.cgroups import Group
from tidegate_local.node.container_config import ConfigError, Lookup
from tidegate_local.node.images import Image
from tidegate_local.node.scheduling import GPU
from tidegate_local.node.services import NodeServices
from tidegate_local.node.states import ContainerView, Running, Terminated, Waiting
from tidegate_local.node.volumes import VolumeMissing, Volumes
from tidegate_local.podapi.refusals import Json

_RETRY_SECONDS: Final = 2.0
_FIRST_BACKOFF_SECONDS: Final = 10.0
_MAX_BACKOFF_SECONDS: Final = 300.0
#: A container that ran this long begins its back-off anew.
_STEADY_SECONDS: Final = 600.0
_GROUP_FILE: Final = "cgroup.json"

#: (container, number of the attempt) to a new cgroup and the memory limit that it is to have.
MakeGroup = Callable[[str, str], tuple[Group, int | None]]


def note_group(folder: Path, group: Group) -> None:
    """Write down where a group is, for a later process that lives in another cgroup."""
    (folder / _GROUP_FILE).write_text(json.dumps([str(path) for path in group.folders]))


def noted_group(folder: Path, services: NodeServices) -> Group | None:
    try:
        paths = json.loads((folder / _GROUP_FILE).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return services.cgroups.existing([Path(path) for path in paths])


class ContainerSlot:
    """A container's view and, once there is one, its attempt."""

    def __init__(self, services: NodeServices, pod_folder: Path, spec: Json, on_change: Callable[[], None]) -> None:
        self.name: str = spec["name"]
        self.view = ContainerView(spec["name"], spec["image"])
        self.attempt: Attempt | None = None
        self.retry_at = 0.0
        #: A resize asks for a restart, whatever the pod's restart policy.
        self.restarts_once = False
        self._services = services
        self._spec = spec
        self._folder = pod_folder / "containers" / spec["name"]
        self._on_change = on_change
        self._backoff_seconds = _FIRST_BACKOFF_SECONDS
        self._told: set[str] = set()

    @property
    def is_running(self) -> bool:
        return self.attempt is not None and not self.attempt.has_ended

    @property
    def has_succeeded(self) -> bool:
        return isinstance(self.view.state, Terminated) and self.view.state.exit_code == 0

    # -- observing

    def observe(self, pod: Json) -> None:
        """Bring the view up to date with the attempt."""
        if self.attempt is None or isinstance(self.view.state, Terminated):
            return
        falls_back = self._spec.get("terminationMessagePolicy") == "FallbackToLogsOnError"
        state = self.attempt.state(self.attempt.folder / "termination-log", falls_back_to_log=falls_back)
        if isinstance(state, Terminated):
            if state.reason == "OOMKilled":
                self.tell(pod, "OOMKilling", f"Memory limit of container {self.name} exceeded", warns=True)
            elif state.reason == "StartError":
                self.tell(pod, "Failed", f"Error: {state.message}", warns=True)
            cgroups.remove(self.attempt.group.folders)
        self.view = replace(self.view, state=state)

    def tell(self, pod: Json, reason: str, message: str, *, warns: bool = False) -> None:
        self._services.recorder.record(pod, reason, message, container=self.name, warns=warns)

    def recover(self, pod: Json) -> None:
        """Find the attempt of an earlier process again, alive or not."""
        folders = sorted(self._folder.glob("[0-9]*"), key=lambda path: int(path.name))
        if not folders:
            return
        self.view = replace(self.view, restarts=int(folders[-1].name), identifier=self._identifier(pod, folders[-1]))
        group = noted_group(folders[-1], self._services)
        attempt = Attempt(folders[-1], group, self._on_change) if group is not None else None
        if attempt is None or attempt.never_ran:
            if attempt is not None:
                cgroups.remove(attempt.group.folders)
            shutil.rmtree(folders[-1])
            self.view = replace(self.view, identifier="")
            return
        self.attempt = attempt
        self.attempt.adopt()
        self.observe(pod)

    def _identifier(self, pod: Json, folder: Path) -> str:
        return f"{pod['metadata']['uid']}-{self.name}-{folder.name}"

    # -- starting

    async def advance(self, pod: Json, policy: str, make_group: MakeGroup) -> float:
        """Start the container where it should run; returns when to try again."""
        never = time.time() + 3600
        state = self.view.state
        if self.attempt is not None and isinstance(state, Terminated):
            if not self.restarts_once and not states.restarts(policy, state):
                return never
            self._schedule_restart(pod, state)
        if self.attempt is not None or isinstance(self.view.state, Running):
            return never
        if time.time() >= self.retry_at:
            await self._try_start(pod, make_group)
        return self.retry_at if self.attempt is None else never

    def _schedule_restart(self, pod: Json, ended: Terminated) -> None:
        waiting, self.attempt = Waiting(), None
        if not self.restarts_once:
            if ended.started_at is not None and ended.finished_at - ended.started_at > _STEADY_SECONDS:
                self._backoff_seconds = _FIRST_BACKOFF_SECONDS
            # The first restart is immediate.
            if self.view.restarts:
                self.retry_at = ended.finished_at + self._backoff_seconds
                told = f"back-off {self._backoff_seconds:.0f}s restarting failed container={self.name}"
                waiting = Waiting("CrashLoopBackOff", told)
                self._backoff_seconds = min(_MAX_BACKOFF_SECONDS, self._backoff_seconds * 2)
                self.tell(pod, "BackOff", f"Back-off restarting failed container {self.name}", warns=True)
        self.restarts_once = False
        self.view = replace(self.view, state=waiting, last=ended, restarts=self.view.restarts + 1)

    async def _try_start(self, pod: Json, make_group: MakeGroup) -> None:
        """Start the container, or say what it waits for. VolumeRefused is the pod's end and passes through."""
        try:
            image = await self._services.images.resolve(self._spec["image"])
            if image is None:
                self._wait_for_image(pod)
            else:
                await self._start(pod, image, make_group)
        except ConfigError as missing:
            self._wait(pod, "CreateContainerConfigError", str(missing))
        except VolumeMissing as missing:
            self._wait(pod, "ContainerCreating", str(missing), event="FailedMount")
        except RetryLater as trouble:
            self._wait(pod, "ErrImagePull", str(trouble))
        except OSError as trouble:
            self._wait(pod, "CreateContainerError", str(trouble))

    def _wait_for_image(self, pod: Json) -> None:
        """First the error, then the wait before the next try, as the kubelet shows them."""
        name = self._spec["image"]
        if isinstance(self.view.state, Waiting) and self.view.state.reason in ("ErrImagePull", "ImagePullBackOff"):
            self._wait(pod, "ImagePullBackOff", f'Back-off pulling image "{name}"', event="BackOff")
            return
        known = ", ".join(self._services.images.names())
        why = f"the image table of this node does not name it (it names: {known})"
        self._wait(pod, "ErrImagePull", f'failed to pull and unpack image "{name}": not found: {why}')

    def _wait(self, pod: Json, reason: str, message: str, *, event: str = "Failed") -> None:
        self.retry_at = time.time() + _RETRY_SECONDS
        self.view = replace(self.view, state=Waiting(reason, message))
        if message not in self._told:
            self._told.add(message)
            self.tell(pod, event, f"Error: {message}" if event == "Failed" else message, warns=True)

    async def _start(self, pod: Json, image: Image, make_group: MakeGroup) -> None:
        services, container = self._services, self._spec
        namespace = pod["metadata"]["namespace"]
        lookup: Lookup = lambda kind, name: services.store.find(kind, namespace, name)  # noqa: E731
        volumes = Volumes(pod, services.folders, services.facts, lookup)
        volumes.prepare()
        variables = container_config.environment(pod, container, image, services.facts, lookup)
        argv = container_config.command_line(container, image, variables)
        folder = self._folder / str(self.view.restarts)
        # What an attempt leaves that never ran.
        shutil.rmtree(folder, ignore_errors=True)
        container_world.make_folders(folder, image)
        group, limit_bytes = make_group(self.name, folder.name)
        note_group(folder, group)
        group.set_limit(limit_bytes)
        termination_log = folder / "termination-log"
        termination_log.touch()
        termination_log.chmod(0o666)
        specification = container_world.specification(
            folder=folder,
            hostname=pod["spec"].get("hostname") or pod["metadata"]["name"],
            argv=argv,
            environment=variables,
            working_directory=container.get("workingDir") or "/",
            identity=container_config.identity(pod, container),
            image=image,
            volume_mounts=list(volumes.mounts(container)),
            termination_log=(termination_log, container["terminationMessagePath"]),
            group=group,
            has_gpu=GPU in (container["resources"].get("limits") or {}),
            read_only_root=bool((container.get("securityContext") or {}).get("readOnlyRootFilesystem")),
        )
        attempt = Attempt(folder, group, self._on_change)
        self.view = replace(self.view, identifier=self._identifier(pod, folder), state=Waiting())
        self.tell(pod, "Pulled", f'Container image "{container["image"]}" already present on machine')
        self.tell(pod, "Created", f"Created container: {self.name}")
        await attempt.start(specification)
        self.attempt = attempt
        self.observe(pod)
        if not (isinstance(self.view.state, Terminated) and self.view.state.reason == "StartError"):
            self.tell(pod, "Started", f"Started container {self.name}")

    def signal(self, number: signal.Signals) -> None:
        if self.attempt is not None:
            self.attempt.signal(number)
