"""The only place where a pod is composed: worker and probe differ by command, plan and memory alone.

Request and limit of memory are equal, so that the node's promise is the pod's ceiling and the quality-of-service class
never stands in the way of a resize. The pod is untrusted on purpose: it decodes images of strangers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from kubernetes.client import models as k8s

from tidegate.adapters.configuration import Configuration
from tidegate.adapters.kube_pods import WORKER_CONTAINER
from tidegate.core.contract import GIB, METRICS_PORT, PLAN_ENV, WORKER_LABELS, Assignment
from tidegate.core.errors import FixConfig

RUN_LABEL: Final = "tidegate.io/run"
SLOT_LABEL: Final = "tidegate.io/slot"
#: What the pod does, `run` or `probe`: a probe belongs to no slot.
ROLE_LABEL: Final = "tidegate.io/role"
#: Values that change with each pod of a slot are annotations: the operator finds its pods again by their labels.
GENERATION_ANNOTATION: Final = "tidegate.io/generation"
RUN_ANNOTATION: Final = "tidegate.io/run-id"
STAGING: Final = "/staging"
RESULTS: Final = "/results"
WEIGHTS: Final = "/weights"
#: What the models of one pipeline take on disk where no volume keeps them.
WEIGHTS_BYTES: Final = 2 * GIB


@dataclass(frozen=True, slots=True)
class Placement:
    """What one run asks of the scheduler beyond the administrator's settings."""

    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    gpu_type: str | None = None


def run_digest(run_id: str) -> str:
    """A run's name inside names and labels of Kubernetes, which a run id is too long and too free for."""
    return hashlib.sha256(run_id.encode()).hexdigest()[:10]


def pod_prefix(run_id: str) -> str:
    return f"tidegate-{run_digest(run_id)}-"


def pod_name(assignment: Assignment, command: str) -> str:
    """One name a slot: the API server itself refuses a second pod beside one that lives."""
    return f"{pod_prefix(assignment.run_id)}{command}-{assignment.slot}"


def run_selector(run_id: str) -> dict[str, str]:
    return {**WORKER_LABELS, RUN_LABEL: run_digest(run_id)}


def worker_pod(
    assignment: Assignment,
    *,
    command: str,
    limit_bytes: int,
    configuration: Configuration,
    placement: Placement,
) -> k8s.V1Pod:
    """The pod that runs `tidegate-worker COMMAND` for this assignment."""
    memory = str(limit_bytes)
    resources = k8s.V1ResourceRequirements(
        requests={"memory": memory, "cpu": configuration.cpu_request, **_gpus(configuration)},
        limits={"memory": memory, **_gpus(configuration)},
    )
    name = pod_name(assignment, command)
    mounts, volumes = _volumes(assignment, configuration, name)
    container = k8s.V1Container(
        name=WORKER_CONTAINER,
        image=configuration.worker_image,
        image_pull_policy=configuration.image_pull_policy,
        args=[command],
        env=_environment(assignment, configuration),
        resources=resources,
        resize_policy=[k8s.V1ContainerResizePolicy(resource_name="memory", restart_policy="NotRequired")],
        ports=[k8s.V1ContainerPort(name="metrics", container_port=METRICS_PORT)],
        volume_mounts=mounts,
        termination_message_policy="File",
        security_context=k8s.V1SecurityContext(
            allow_privilege_escalation=False,
            capabilities=k8s.V1Capabilities(drop=["ALL"]),
            read_only_root_filesystem=True,
            run_as_non_root=True,
        ),
    )
    return k8s.V1Pod(
        api_version="v1",
        kind="Pod",
        metadata=k8s.V1ObjectMeta(
            name=name,
            namespace=configuration.namespace,
            labels={**run_selector(assignment.run_id), ROLE_LABEL: command, SLOT_LABEL: str(assignment.slot)},
            annotations={
                RUN_ANNOTATION: assignment.run_id,
                GENERATION_ANNOTATION: str(assignment.generation),
                # The autoscaler must not move a pod whose leases cannot be given back.
                "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
            },
        ),
        spec=k8s.V1PodSpec(
            restart_policy="Never",
            containers=[container],
            volumes=volumes,
            termination_grace_period_seconds=int(assignment.grace_seconds),
            automount_service_account_token=False,
            # Variables of services in the namespace could pass for settings: a service `tidegate` is TIDEGATE_PORT.
            enable_service_links=False,
            service_account_name=configuration.service_account,
            priority_class_name=configuration.priority_class,
            image_pull_secrets=[k8s.V1LocalObjectReference(name=name) for name in configuration.image_pull_secrets]
            or None,
            node_selector=_node_selector(placement) or None,
            tolerations=[_toleration(each) for each in placement.tolerations] or None,
            # Slots of one run on one node would starve each other, and one lost node would take them all.
            topology_spread_constraints=[
                k8s.V1TopologySpreadConstraint(
                    max_skew=1,
                    topology_key="kubernetes.io/hostname",
                    when_unsatisfiable="ScheduleAnyway",
                    label_selector=k8s.V1LabelSelector(match_labels=run_selector(assignment.run_id)),
                )
            ],
            security_context=k8s.V1PodSecurityContext(
                run_as_non_root=True,
                run_as_user=configuration.uid,
                run_as_group=configuration.uid,
                fs_group=configuration.uid,
                # Else the kubelet goes through every file of a shared volume of weights each time a pod starts.
                fs_group_change_policy="OnRootMismatch",
                seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
            ),
        ),
    )


def _gpus(configuration: Configuration) -> dict[str, str]:
    return {configuration.gpu_resource: str(configuration.gpus)} if configuration.gpus else {}


def _node_selector(placement: Placement) -> dict[str, str]:
    gpu = {"nvidia.com/gpu.product": placement.gpu_type} if placement.gpu_type else {}
    return {**placement.node_selector, **gpu}


def _toleration(told: Mapping[str, Any]) -> k8s.V1Toleration:
    """A toleration as people write it in YAML: the client's own names differ."""
    names = {written: ours for ours, written in k8s.V1Toleration.attribute_map.items()}
    if unknown := told.keys() - names.keys():
        raise FixConfig(f"a toleration takes {', '.join(names)}; {', '.join(sorted(unknown))} is none of them")
    return k8s.V1Toleration(**{names[written]: value for written, value in told.items()})


def _environment(assignment: Assignment, configuration: Configuration) -> list[k8s.V1EnvVar]:
    plain = {
        **configuration.pod_env,
        **configuration.pipeline_env.get(assignment.pipeline, {}),
        PLAN_ENV: assignment.to_json(),
        "TIDEGATE_STAGING_DIR": STAGING,
        "TIDEGATE_METRICS_PORT": str(METRICS_PORT),
        "TIDEGATE_WEIGHTS_DIR": WEIGHTS if _keeps_weights(configuration) else f"{STAGING}/weights",
    }
    fields = {"TIDEGATE_METRICS_HOST": "status.podIP", "TIDEGATE_NODE_NAME": "spec.nodeName",
              "TIDEGATE_POD_NAME": "metadata.name"}  # fmt: skip
    return [
        *(k8s.V1EnvVar(name=name, value=value) for name, value in plain.items()),
        *(
            k8s.V1EnvVar(name=name, value_from=k8s.V1EnvVarSource(field_ref=k8s.V1ObjectFieldSelector(field_path=path)))
            for name, path in fields.items()
        ),
        *(_from_secret(name, reference) for name, reference in configuration.pod_secrets.items()),
    ]


def _from_secret(name: str, reference: str) -> k8s.V1EnvVar:
    secret, separator, key = reference.partition("/")
    if not separator or not secret or not key:
        raise FixConfig(f"TIDEGATE_POD_SECRETS: {name} is {reference!r}; write SECRET/KEY")
    source = k8s.V1SecretKeySelector(name=secret, key=key)
    return k8s.V1EnvVar(name=name, value_from=k8s.V1EnvVarSource(secret_key_ref=source))


def _keeps_weights(configuration: Configuration) -> bool:
    """Whether weights outlive the pod: on a volume of their own, or beside the staged files on theirs."""
    return bool(configuration.weights_claim or configuration.staging_claim)


def _volumes(
    assignment: Assignment, configuration: Configuration, name: str
) -> tuple[list[k8s.V1VolumeMount], list[k8s.V1Volume]]:
    mounts = [
        # Pods that share a volume must not share a folder of it: each clears its own when it starts.
        k8s.V1VolumeMount(name="staging", mount_path=STAGING, sub_path=name if configuration.staging_claim else None),
        k8s.V1VolumeMount(name="tmp", mount_path="/tmp"),  # noqa: S108
    ]
    room = 2 * assignment.ingest.staging_bytes + (0 if _keeps_weights(configuration) else WEIGHTS_BYTES)
    scratch = k8s.V1EmptyDirVolumeSource(size_limit=str(room))
    volumes = [
        _claimed("staging", configuration.staging_claim)
        if configuration.staging_claim
        else k8s.V1Volume(name="staging", empty_dir=scratch),
        # The root file system is read-only; libraries want a place for small files.
        k8s.V1Volume(name="tmp", empty_dir=k8s.V1EmptyDirVolumeSource(size_limit="256Mi")),
    ]
    for volume, path, claim in (
        ("results", RESULTS, configuration.results_claim),
        ("weights", WEIGHTS, configuration.weights_claim),
    ):
        if claim:
            mounts.append(k8s.V1VolumeMount(name=volume, mount_path=path))
            volumes.append(_claimed(volume, claim))
    if configuration.staging_claim and not configuration.weights_claim:
        # One copy for all pods of the volume, not one in the folder of each.
        mounts.append(k8s.V1VolumeMount(name="staging", mount_path=WEIGHTS, sub_path="weights"))
    return mounts, volumes


def _claimed(name: str, claim: str) -> k8s.V1Volume:
    source = k8s.V1PersistentVolumeClaimVolumeSource(claim_name=claim)
    return k8s.V1Volume(name=name, persistent_volume_claim=source)
