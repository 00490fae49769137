"""How a pod ended, judged from what the cluster says of it and from its own last words.

| seen                                                        | end                  |
|-------------------------------------------------------------|----------------------|
| container reason OOMKilled, whatever exit code and phase say | MEMORY               |
| evicted, preempted, node lost or shut down, deleted by others | INFRASTRUCTURE       |
| image not pulled, never placed, never started               | INFRASTRUCTURE       |
| a secret or config map that is missing, an unusable image name | CONFIGURATION        |
| a command that the container runtime cannot start          | CONFIGURATION        |
| exit 0, 65, 69, 75, 78                                      | as the worker says   |
| exit 137 without OOMKilled after an order to end            | DRAINED              |
| exit 132, 134, 135, 136, 139                                | CRASHED, with suspects |
| any other exit code                                         | CRASHED              |

Only memory kills and decoder crashes make suspects of what was in flight: a kill from outside says nothing of an image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from tidegate.core.contract import Character, ExitCode, Suspect, Trip, TripCause, WorkerReport
from tidegate.core.slot import End

_FROM_OUTSIDE: Final = frozenset(
    {"Evicted", "Preempting", "PreemptionByScheduler", "NodeLost", "NodeShutdown", "Terminated", "NodeAffinity",
     "DeletionByTaintManager", "EvictionByEvictionAPI", "DeletionByPodGC", "TerminationByKubelet", "Shutdown",
     "OutOfmemory", "OutOfcpu", "OutOfpods", "UnexpectedAdmissionError", "ContainerStatusUnknown"}
)  # fmt: skip
_NOT_PULLED: Final = frozenset({"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "RegistryUnavailable"})
_MISCONFIGURED: Final = frozenset(
    {"CreateContainerConfigError", "InvalidImageName", "CreateContainerError", "RunContainerError"}
)
#: The container runtime gave up before the worker's first line; the exit code beside it is the runtime's.
NOT_STARTED: Final = frozenset({"StartError", "ContainerCannotRun"})
#: 128 + SIGILL, SIGABRT, SIGBUS, SIGFPE, SIGSEGV: native code went wrong, and here that is a decoder.
_NATIVE_CRASHES: Final = frozenset({132, 134, 135, 136, 139})
_SIGTERM: Final = 143
_SAID_BY_WORKER: Final[Mapping[int, End]] = {
    ExitCode.DONE: End.FINISHED,
    ExitCode.FAILURE_BUDGET_SPENT: End.FAILURE_BUDGET_SPENT,
    ExitCode.UPSTREAM_UNAVAILABLE: End.UPSTREAM_UNAVAILABLE,
    ExitCode.DRAINED: End.DRAINED,
    ExitCode.CONFIGURATION: End.CONFIGURATION,
}


@dataclass(frozen=True, slots=True)
class PodEvidence:
    """What the cluster says of a pod that is over, or of one that is given up while it waits."""

    pod_name: str
    exists: bool = True
    #: status.reason, or the reason of a DisruptionTarget condition.
    pod_reason: str | None = None
    container_reason: str | None = None
    #: Why the container has not started, or why the pod is not placed.
    waiting_reason: str | None = None
    exit_code: int | None = None
    #: The cluster's own words, such as the volume that outgrew its limit.
    message: str = ""
    #: Whether Tidegate asked this pod to end.
    was_told_to_end: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    end: End
    #: One word for tables and counters: finer than `end`, which decides.
    kind: str
    detail: str
    #: Whether what was in flight must be distrusted.
    makes_suspects: bool = False


def judge(pod: PodEvidence, report: WorkerReport | None) -> Verdict:
    """The end of `pod`; `report` is its last termination message where one could be read."""
    said = report is not None and report.phase == "finished"
    words = f": {report.reason}" if report is not None and report.reason else ""
    name = pod.pod_name
    if pod.container_reason == "OOMKilled" and not said:
        return Verdict(End.MEMORY, "oom", f"pod {name} was killed for its memory limit", makes_suspects=True)
    for reason in (pod.pod_reason, pod.container_reason):
        if reason in _FROM_OUTSIDE:
            detail = f"pod {name} was ended from outside: {reason}{_cluster_words(pod)}"
            return Verdict(End.INFRASTRUCTURE, "evicted", detail)
    if pod.exit_code is None or pod.container_reason in NOT_STARTED:
        return _never_ran(pod)
    if (end := _SAID_BY_WORKER.get(pod.exit_code)) is not None:
        return Verdict(end, end.value, f"pod {name} ended with {pod.exit_code}{words}")
    if pod.exit_code in _NATIVE_CRASHES:
        signal = pod.exit_code - 128
        detail = f"pod {name} crashed in native code (signal {signal}), most likely in a decoder"
        return Verdict(End.CRASHED, "decoder_crash", detail, makes_suspects=True)
    if pod.exit_code in (ExitCode.KILLED, _SIGTERM):
        if pod.was_told_to_end or pod.pod_reason == "DeadlineExceeded":
            return Verdict(End.DRAINED, "drained", f"pod {name} was told to end and did not answer everything in time")
        return Verdict(End.INFRASTRUCTURE, "killed", f"pod {name} was killed from outside ({pod.exit_code})")
    return Verdict(End.CRASHED, "crash", f"pod {name} ended with {pod.exit_code}, which the worker never says{words}")


def _never_ran(pod: PodEvidence) -> Verdict:
    words = _cluster_words(pod)
    if pod.waiting_reason in _NOT_PULLED:
        detail = (
            f"the image of pod {pod.pod_name} is not pulled ({pod.waiting_reason}): check name and pull secret{words}"
        )
        return Verdict(End.INFRASTRUCTURE, "image_pull", detail)
    reason = pod.container_reason if pod.container_reason in NOT_STARTED else pod.waiting_reason
    if reason in _MISCONFIGURED or reason in NOT_STARTED:
        detail = f"pod {pod.pod_name} cannot start ({reason}): a secret, config map or command is missing{words}"
        return Verdict(End.CONFIGURATION, "configuration", detail)
    if pod.waiting_reason == "Unschedulable":
        return Verdict(End.INFRASTRUCTURE, "unschedulable", f"no node has room for pod {pod.pod_name}{words}")
    if not pod.exists:
        return Verdict(End.INFRASTRUCTURE, "lost", f"pod {pod.pod_name} is gone, and nothing tells how it ended")
    waits = f" ({pod.waiting_reason})" if pod.waiting_reason else ""
    return Verdict(End.INFRASTRUCTURE, "not_started", f"pod {pod.pod_name} never started{waits}{words}")


def _cluster_words(pod: PodEvidence) -> str:
    return f" [{pod.message[:300]}]" if pod.message else ""


def struck(report: WorkerReport | None, known: Iterable[Suspect]) -> tuple[Suspect, ...]:
    """The images in flight at a kill, each with one strike more than it had."""
    if report is None:
        return ()
    before = {suspect.image_id: suspect for suspect in known}
    is_lone = len(report.in_flight) == 1 and report.in_flight_omitted == 0
    counted = []
    for entry in report.in_flight:
        old = before.get(entry.image_id)
        counted.append(
            Suspect(
                image_id=entry.image_id,
                reply_subject=entry.reply_subject or (old.reply_subject if old else None),
                strikes=(old.strikes if old else 0) + 1,
                strikes_alone=(old.strikes_alone if old else 0) + (1 if entry.alone and is_lone else 0),
            )
        )
    return tuple(counted)


def memory_trip(
    report: WorkerReport | None, *, run_id: str, slot: int, generation: int, pod_uid: str, limit_bytes: int, at: float
) -> Trip:
    """A kill by the pod's own limit as the trip that the breaker did not get to see."""
    peak = max(report.peak_bytes if report else 0, limit_bytes)
    growth = report.growth_bytes_per_image * report.acked if report else 0
    # Most of what lies above the floor stayed after its image was done.
    leaks = report is not None and growth > 0.5 * max(1, peak - report.floor_bytes)
    held = len(report.in_flight) if report else 0
    return Trip(
        run_id=run_id,
        slot=slot,
        generation=generation,
        pod_uid=pod_uid,
        at=at,
        cause=TripCause.OOM,
        character=Character.LEAK if leaks else Character.LOAD if report is not None else Character.UNKNOWN,
        limit_bytes=limit_bytes,
        nonreclaimable_bytes=peak,
        peak_bytes=peak,
        wanted_bytes=report.wanted_bytes if report else 0,
        ratio=peak / limit_bytes,
        velocity_bytes_per_second=0.0,
        evidence=(f"the kernel killed the pod at its limit of {limit_bytes} bytes with {held} images in flight",),
    )
