"""From what the node knows of a pod's containers to the status that the API shows; pure, and in the kubelet's words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tidegate_local.podapi.refusals import Json
from tidegate_local.podapi.store import timestamp

LOST: Final = "The container could not be located when the pod was terminated"


@dataclass(frozen=True, slots=True)
class Waiting:
    reason: str = "ContainerCreating"
    message: str = ""


@dataclass(frozen=True, slots=True)
class Running:
    started_at: float


@dataclass(frozen=True, slots=True)
class Terminated:
    exit_code: int
    reason: str
    finished_at: float
    started_at: float | None = None
    message: str = ""


State = Waiting | Running | Terminated


@dataclass(frozen=True, slots=True)
class ContainerView:
    """One container as the node sees it now. `actuated` are the resources in force, `allocated` those granted."""

    name: str
    image: str
    state: State = Waiting()
    last: Terminated | None = None
    restarts: int = 0
    identifier: str = ""
    actuated: Json | None = None
    allocated: Json | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why the node ended the pod, whatever its containers said."""

    reason: str
    message: str


def ended(exit_code: int, oom_kills: int, started_at: float, finished_at: float, message: str) -> Terminated:
    """How a container that ran has ended; a kill for memory is the reason, whatever its first process made of it."""
    reason = "Completed" if exit_code == 0 else "Error"
    if oom_kills:
        reason = "OOMKilled"
    return Terminated(exit_code, reason, finished_at, started_at, message)


def lost(started_at: float | None, finished_at: float, message: str = "") -> Terminated:
    return Terminated(137, "ContainerStatusUnknown", finished_at, started_at, message or LOST)


def phase(restart_policy: str, views: Sequence[ContainerView], initials: Sequence[ContainerView] = ()) -> str:
    """The pod's phase by its containers alone."""
    if any(_has_failed(restart_policy, view) for view in initials):
        return "Failed"
    if any(not _has_succeeded(view) for view in initials):
        return "Pending"
    begun = [view for view in views if view.last or not isinstance(view.state, Waiting)]
    if not begun:
        return "Pending"
    if any(_will_run(restart_policy, view) for view in views):
        return "Running"
    failed = any(isinstance(view.state, Terminated) and view.state.exit_code for view in views)
    return "Failed" if failed else "Succeeded"


def _has_succeeded(view: ContainerView) -> bool:
    return isinstance(view.state, Terminated) and view.state.exit_code == 0


def _has_failed(restart_policy: str, view: ContainerView) -> bool:
    return restart_policy == "Never" and isinstance(view.state, Terminated) and view.state.exit_code != 0


def _will_run(restart_policy: str, view: ContainerView) -> bool:
    return not isinstance(view.state, Terminated) or restarts(restart_policy, view.state)


def restarts(restart_policy: str, state: Terminated) -> bool:
    return restart_policy == "Always" or (restart_policy == "OnFailure" and state.exit_code != 0)


def status(
    pod: Json,
    views: Sequence[ContainerView],
    initials: Sequence[ContainerView],
    *,
    verdict: Verdict | None,
    is_stopped: bool,
    resize_conditions: Sequence[Json] = (),
) -> Json:
    """The pod's whole status. A verdict counts once every container has stopped; until then the pod still runs."""
    was: Json = pod.get("status", {})
    spec = pod["spec"]
    current = phase(spec["restartPolicy"], views, initials)
    judged = verdict if is_stopped else None
    if verdict is not None:
        current = "Failed" if is_stopped else "Running" if current == "Succeeded" else current
    elif is_stopped and current in ("Running", "Pending"):
        # A deletion ends it: containers that were to be restarted stay as they are.
        failed = any(isinstance(view.state, Terminated) and view.state.exit_code for view in views)
        current = "Failed" if failed or current == "Pending" else "Succeeded"
    result: Json = {
        "phase": current,
        "conditions": _conditions(was.get("conditions") or [], current, views, initials, resize_conditions),
    }
    if judged is not None:
        result |= {"reason": judged.reason, "message": judged.message}
    for field in ("hostIP", "hostIPs", "podIP", "podIPs", "startTime", "qosClass"):
        if field in was:
            result[field] = was[field]
    result["observedGeneration"] = pod["metadata"].get("generation", 1)
    if initials:
        result["initContainerStatuses"] = [container_status(view, is_initial=True) for view in initials]
    result["containerStatuses"] = [container_status(view) for view in views]
    return result


def container_status(view: ContainerView, *, is_initial: bool = False) -> Json:
    running = isinstance(view.state, Running)
    result: Json = {
        "name": view.name,
        "state": _state(view.state, view.identifier),
        "lastState": _state(view.last, "") if view.last else {},
        "ready": running or (is_initial and _has_succeeded(view)),
        "started": running,
        "restartCount": view.restarts,
        "image": view.image,
        "imageID": f"tidegate-local://{view.image}" if view.identifier else "",
    }
    if view.identifier:
        result["containerID"] = f"tidegate://{view.identifier}"
    if view.allocated is not None:
        result["allocatedResources"] = view.allocated
    if view.actuated is not None:
        result["resources"] = view.actuated
    return result


def _state(state: State, identifier: str) -> Json:
    match state:
        case Waiting(reason, message):
            return {"waiting": {"reason": reason, **({"message": message} if message else {})}}
        case Running(started_at):
            return {"running": {"startedAt": timestamp(started_at)}}
        case Terminated():
            return {
                "terminated": {
                    "exitCode": state.exit_code,
                    "reason": state.reason,
                    **({"message": state.message} if state.message else {}),
                    "startedAt": timestamp(state.started_at) if state.started_at else None,
                    "finishedAt": timestamp(state.finished_at),
                    **({"containerID": f"tidegate://{identifier}"} if identifier else {}),
                }
            }


def _conditions(
    was: Sequence[Json],
    current: str,
    views: Sequence[ContainerView],
    initials: Sequence[ContainerView],
    resize_conditions: Sequence[Json],
) -> list[Json]:
    done = current in ("Succeeded", "Failed")
    initialized = all(_has_succeeded(view) for view in initials)
    unready = [view.name for view in views if not isinstance(view.state, Running)]
    if done:
        ready: Json = {"status": "False", "reason": "PodCompleted" if current == "Succeeded" else "PodFailed"}
    elif unready:
        told = f"containers with unready status: [{' '.join(unready)}]"
        ready = {"status": "False", "reason": "ContainersNotReady", "message": told}
    else:
        ready = {"status": "True"}
    begun = any(view.identifier for view in (*views, *initials))
    initial: Json = {"status": "True" if initialized or current == "Succeeded" else "False"}
    if current == "Succeeded":
        initial["reason"] = "PodCompleted"
    wanted = [
        {"type": "PodReadyToStartContainers", "status": "True" if begun and not done else "False"},
        {"type": "Initialized", **initial},
        {"type": "Ready", **ready},
        {"type": "ContainersReady", **ready},
        {"type": "PodScheduled", "status": "True"},
        *resize_conditions,
    ]
    return [with_transition(was, condition) for condition in wanted]


def with_transition(was: Sequence[Json], condition: Json) -> Json:
    """The condition with the time at which its status last changed."""
    before = next((each for each in was if each["type"] == condition["type"]), None)
    since = before.get("lastTransitionTime") if before and before["status"] == condition["status"] else None
    return {"lastProbeTime": None, "lastTransitionTime": since or timestamp(), **condition}
