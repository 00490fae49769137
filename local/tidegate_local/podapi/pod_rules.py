"""What may be written about a pod: defaults at creation, fields that may change, deletion with grace, in-place resize.

Pure functions from objects to objects or a Refusal. What the node makes of a pod is not decided here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Final

from tidegate_local.podapi.pod_shape import Pod, checked
from tidegate_local.podapi.quantity import quantity
from tidegate_local.podapi.refusals import Cause, Json, forbidden, invalid

TERMINAL_PHASES: Final = frozenset({"Succeeded", "Failed"})
_RESIZABLE: Final = ("cpu", "memory")
_VOLUME_SOURCES: Final = frozenset(
    {"emptyDir", "hostPath", "persistentVolumeClaim", "secret", "configMap", "downwardAPI", "projected"}
)
_PULL_LATEST: Final = "Always"


def is_terminal(pod: Json) -> bool:
    return pod.get("status", {}).get("phase") in TERMINAL_PHASES


def containers(pod: Json) -> list[Json]:
    found: list[Json] = pod["spec"]["containers"]
    return found


def _all_containers(spec: Json) -> Iterator[tuple[str, Json]]:
    for field in ("initContainers", "containers"):
        for at, container in enumerate(spec.get(field) or []):
            yield f"spec.{field}[{at}]", container


# -- creation


def admitted(pod: Json) -> Json:
    """A new pod with defaults set and status Pending, or a Refusal."""
    checked(Pod, "Pod", pod)
    pod = copy.deepcopy(pod)
    _set_defaults(pod["spec"])
    _refuse_broken(pod)
    _refuse_privilege(pod)
    pod["status"] = {"phase": "Pending", "qosClass": qos_class(pod["spec"])}
    return pod


def _set_defaults(spec: Json) -> None:
    for field, value in _POD_DEFAULTS.items():
        spec.setdefault(field, copy.deepcopy(value))
    spec.setdefault("serviceAccount", spec["serviceAccountName"])
    for _, container in _all_containers(spec):
        tag = container["image"].rpartition("/")[2].partition("@")[0].partition(":")[2]
        pull = "IfNotPresent" if "@" in container["image"] or tag not in ("", "latest") else _PULL_LATEST
        container.setdefault("imagePullPolicy", pull)
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
        resources = container.setdefault("resources", {})
        if limits := resources.get("limits"):
            resources["requests"] = {**limits, **(resources.get("requests") or {})}
        given = {policy["resourceName"] for policy in container.get("resizePolicy") or []}
        named = {name for part in ("limits", "requests") for name in resources.get(part) or {}}
        missing = [name for name in _RESIZABLE if name in named and name not in given]
        if missing:
            policies = [{"resourceName": name, "restartPolicy": "NotRequired"} for name in missing]
            container["resizePolicy"] = [*(container.get("resizePolicy") or []), *policies]
        for port in container.get("ports") or []:
            if isinstance(port, dict):
                port.setdefault("protocol", "TCP")
        for env in container.get("env") or []:
            if "fieldRef" in env.get("valueFrom", {}):
                env["valueFrom"]["fieldRef"].setdefault("apiVersion", "v1")
    for volume in spec.get("volumes") or []:
        if not _VOLUME_SOURCES & volume.keys():
            volume["emptyDir"] = {}
        for source in ("secret", "configMap", "downwardAPI", "projected"):
            if isinstance(volume.get(source), dict):
                volume[source].setdefault("defaultMode", 0o644)


_POD_DEFAULTS: Final[Json] = {
    "restartPolicy": "Always",
    "dnsPolicy": "ClusterFirst",
    "terminationGracePeriodSeconds": 30,
    "schedulerName": "default-scheduler",
    "securityContext": {},
    "serviceAccountName": "default",
    "enableServiceLinks": True,
    "preemptionPolicy": "PreemptLowerPriority",
    "priority": 0,
    "tolerations": [
        {"key": f"node.kubernetes.io/{trouble}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
        for trouble in ("not-ready", "unreachable")
    ],
}


def _refuse_broken(pod: Json) -> None:
    spec, causes = pod["spec"], []
    volumes = [volume["name"] for volume in spec.get("volumes") or []]
    for at, name in enumerate(volumes):
        if name in volumes[:at]:
            causes.append(Cause(f"spec.volumes[{at}].name", "FieldValueDuplicate", f'"{name}"'))
    seen: set[str] = set()
    for place, container in _all_containers(spec):
        if container["name"] in seen:
            causes.append(Cause(f"{place}.name", "FieldValueDuplicate", f'"{container["name"]}"'))
        seen.add(container["name"])
        causes += _resource_causes(place, container["resources"])
        for at, mount in enumerate(container.get("volumeMounts") or []):
            if mount["name"] not in volumes:
                causes.append(Cause(f"{place}.volumeMounts[{at}].name", "FieldValueNotFound", f'"{mount["name"]}"'))
        restarts = any(policy["restartPolicy"] == "RestartContainer" for policy in container.get("resizePolicy") or [])
        if restarts and spec["restartPolicy"] == "Never":
            told = '"RestartContainer": must be "NotRequired" when pod "restartPolicy" is "Never"'
            causes.append(Cause(f"{place}.resizePolicy", "FieldValueInvalid", told))
    if causes:
        raise invalid("Pod", pod["metadata"]["name"], *causes)


def _resource_causes(place: str, resources: Json) -> list[Cause]:
    causes = []
    limits = resources.get("limits") or {}
    for name, request in (resources.get("requests") or {}).items():
        if name in limits and quantity(request) > quantity(limits[name]):
            told = f'"{request}": must be less than or equal to {name} limit of {limits[name]}'
            causes.append(Cause(f"{place}.resources.requests", "FieldValueInvalid", told))
    return causes


def _refuse_privilege(pod: Json) -> None:
    """A pod here shares the machine's kernel and network: what would give it the machine is refused outright."""
    spec, broken = pod["spec"], []
    broken += [f"{field}=true" for field in ("hostPID", "hostIPC") if spec.get(field)]
    for _, container in _all_containers(spec):
        context = {**(spec.get("securityContext") or {}), **(container.get("securityContext") or {})}
        if context.get("privileged"):
            broken.append(f"privileged (container {container['name']})")
        if context.get("runAsUser") == 0:
            broken.append(f"runAsUser=0 (container {container['name']})")
        if added := (context.get("capabilities") or {}).get("add"):
            broken.append(f"capabilities.add {added} (container {container['name']})")
    if broken:
        why = f"violates the policy of this machine, which runs no privileged pod: {', '.join(broken)}"
        raise forbidden("pods", pod["metadata"]["name"], why)


def qos_class(spec: Json) -> str:
    named, guaranteed = False, True
    for _, container in _all_containers(spec):
        resources = container.get("resources") or {}
        requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
        named = named or any(name in requests or name in limits for name in _RESIZABLE)
        for name in _RESIZABLE:
            equal = name in limits and quantity(limits[name]) == quantity(requests.get(name, limits[name]))
            guaranteed = guaranteed and equal
    if not named:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


# -- change


def updated(current: Json, desired: Json) -> Json:
    """`desired` where it changes only what a live pod allows; status stays the node's."""
    checked(Pod, "Pod", desired)
    desired = {**desired, "status": current.get("status", {})}
    was, now = current["spec"], desired["spec"]
    _refuse_deadline(current["metadata"]["name"], was.get("activeDeadlineSeconds"), now.get("activeDeadlineSeconds"))
    if _fixed_part(was) != _fixed_part(now):
        told = (
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
            "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
            "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
        )
        raise invalid("Pod", current["metadata"]["name"], Cause("spec", "FieldValueForbidden", told))
    return desired


def _fixed_part(spec: Json) -> Json:
    fixed = {key: value for key, value in spec.items() if key not in ("activeDeadlineSeconds", "tolerations")}
    for field in ("containers", "initContainers"):
        if field in fixed:
            fixed[field] = [{**container, "image": ""} for container in fixed[field]]
    return fixed


def _refuse_deadline(name: str, was: int | None, now: int | None) -> None:
    place = "spec.activeDeadlineSeconds"
    if was is not None and now is None:
        told = f"{was}: must not update from a positive integer to nil value"
        raise invalid("Pod", name, Cause(place, "FieldValueInvalid", told))
    if was is not None and now is not None and now > was:
        raise invalid(
            "Pod", name, Cause(place, "FieldValueInvalid", f"{now}: must be less than or equal to previous value")
        )


def with_status(current: Json, desired: Json) -> Json:
    """The current pod with the status of `desired`; a client may set it, as the node does."""
    status = desired.get("status")
    if not isinstance(status, dict) or not isinstance(status.get("phase"), str):
        raise invalid(
            "Pod", current["metadata"]["name"], Cause("status.phase", "FieldValueRequired", "a pod has a phase")
        )
    resource_version = desired["metadata"].get("resourceVersion")
    return {**current, "status": status, "metadata": {**current["metadata"], "resourceVersion": resource_version}}


def resized(current: Json, desired: Json) -> Json:
    """The pod with new CPU and memory, which the node then actuates; the QoS class and the set of limits stay."""
    checked(Pod, "Pod", desired)
    name = current["metadata"]["name"]
    if is_terminal(current):
        raise forbidden("pods", name, "a pod that has ended cannot be resized")
    spec = copy.deepcopy(current["spec"])
    causes: list[Cause] = []
    by_name = {container["name"]: container for container in desired["spec"]["containers"]}
    if by_name.keys() != {container["name"] for container in spec["containers"]}:
        told = "containers may not be added or removed on resize"
        raise invalid("Pod", name, Cause("spec.containers", "FieldValueForbidden", told))
    for at, container in enumerate(spec["containers"]):
        place, was, now = f"spec.containers[{at}]", container["resources"], by_name[container["name"]]["resources"]
        for part in ("requests", "limits"):
            old, new = was.get(part) or {}, now.get(part) or {}
            gone = [f"{part}.{resource}" for resource in old if resource not in new]
            causes += [Cause(f"{place}.resources", "FieldValueForbidden", f"{each} cannot be removed") for each in gone]
            others = {key for key in {*old, *new} - set(_RESIZABLE) if old.get(key) != new.get(key)}
            told = "only cpu and memory resources are mutable"
            causes += [Cause(f"{place}.resources.{part}", "FieldValueForbidden", told) for _ in others]
        causes += _resource_causes(place, now)
        container["resources"] = now
        if "resizePolicy" in by_name[container["name"]]:
            container["resizePolicy"] = by_name[container["name"]]["resizePolicy"]
    if qos_class(spec) != current["status"].get("qosClass", qos_class(current["spec"])):
        told = f'"{qos_class(spec)}": Pod QOS Class may not change as a result of resizing'
        causes.append(Cause("spec", "FieldValueInvalid", told))
    if causes:
        raise invalid("Pod", name, *causes)
    metadata = {**current["metadata"], "resourceVersion": desired["metadata"].get("resourceVersion")}
    return {**current, "spec": spec, "metadata": metadata}


# -- deletion


def grace_seconds(pod: Json, asked: Any) -> int:
    """How long the node may take; 0 where there is nothing to stop, so that the object goes at once."""
    if not pod["spec"].get("nodeName") or is_terminal(pod):
        return 0
    grace = pod["spec"]["terminationGracePeriodSeconds"] if asked is None else asked
    return max(0, int(grace)) if grace != -1 else 1
