"""The composed pod as the API server gets it: bounded, resizable, without rights, and without a secret in it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.client import ApiClient
from tests.adapters.examples import SOURCE, plan
from tests.adapters.pod_bed import NAMESPACE, Cluster

from tidegate.adapters.configuration import Configuration
from tidegate.adapters.pod_spec import Placement, pod_prefix, run_selector, worker_pod
from tidegate.core.contract import GIB, PLAN_ENV, Assignment, Suspect
from tidegate.core.errors import FixConfig

LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
LABEL_NAME = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
POD_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
RUN_ID = "tidegate_nightly/scheduled__2026-11-20T00:00:00+00:00"


def assignment(**changes: Any) -> Assignment:
    made = plan()
    return Assignment(
        **{
            "run_id": RUN_ID,
            "slot": 3,
            "slots": 4,
            "generation": 2,
            "source": SOURCE,
            "pipeline": "moths",
            "model_version": "v1",
            "cap_bytes": made.cap_bytes,
            "upper_bytes": made.upper_bytes,
            "ingest": made.ingest,
            "grace_seconds": 90.0,
            **changes,
        }
    )


def composed(
    given: Assignment | None = None, placement: Placement | None = None, command: str = "run", **settings: Any
) -> Any:
    pod = worker_pod(
        given or assignment(),
        command=command,
        limit_bytes=4 * GIB,
        configuration=Configuration.model_validate(settings),
        placement=placement or Placement(),
    )
    return ApiClient().sanitize_for_serialization(pod)


def container(pod: Any) -> Any:
    (only,) = pod["spec"]["containers"]
    return only


def environment(pod: Any) -> dict[str, Any]:
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container(pod)["env"]}


def mounts(pod: Any) -> dict[str, Any]:
    """The volumes' own mounts; weights may lie on that of the staged files besides."""
    return {each["name"]: each for each in reversed(container(pod)["volumeMounts"])}


def test_request_and_limit_of_memory_are_equal_and_resize_without_a_restart() -> None:
    only = container(composed())
    assert only["resources"]["requests"]["memory"] == only["resources"]["limits"]["memory"] == str(4 * GIB)
    assert only["resizePolicy"] == [{"resourceName": "memory", "restartPolicy": "NotRequired"}]
    assert composed()["spec"]["restartPolicy"] == "Never"


def test_cpu_is_requested_but_never_throttled() -> None:
    resources = container(composed(cpu_request="2"))["resources"]
    assert resources["requests"]["cpu"] == "2"
    assert "cpu" not in resources["limits"]


def test_the_pod_has_no_rights() -> None:
    pod = composed()
    spec, only = pod["spec"], container(pod)
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    assert not [volume for volume in spec["volumes"] if "hostPath" in volume]


def test_secrets_are_named_and_never_held(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("a-token-that-must-not-leak")
    pod = composed(
        pod_secrets={"TIDEGATE_ANTENNA_TOKEN": "antenna/token"},
        antenna_token_file=token,
        prometheus_token_file=token,
        run_store_url="postgresql://USER:hidden@host/runs",
    )
    assert environment(pod)["TIDEGATE_ANTENNA_TOKEN"] == {"secretKeyRef": {"name": "antenna", "key": "token"}}
    text = json.dumps(pod)
    assert "must-not-leak" not in text
    assert "hidden" not in text


@pytest.mark.parametrize("reference", ["antenna", "/token", "antenna/"])
def test_a_reference_to_a_secret_that_is_none_is_refused(reference: str) -> None:
    with pytest.raises(FixConfig, match="TIDEGATE_POD_SECRETS"):
        composed(pod_secrets={"TOKEN": reference})


def test_the_plan_reads_back_as_it_was_given() -> None:
    given = assignment(suspects=(Suspect(image_id="an image with 'quotes' and ünicode", strikes=2, strikes_alone=1),))
    assert Assignment.from_json(environment(composed(given))[PLAN_ENV]) == given


def test_a_plain_setting_of_the_administrator_does_not_replace_the_plan() -> None:
    pod = composed(pod_env={PLAN_ENV: "{}", "TZ": "UTC"}, pipeline_env={"moths": {"TZ": "CET"}, "flies": {"TZ": "EST"}})
    assert Assignment.from_json(environment(pod)[PLAN_ENV]) == assignment()
    assert environment(pod)["TZ"] == "CET"


@given(st.text(min_size=1, max_size=250), st.integers(0, 10_000), st.sampled_from(["run", "probe"]))
def test_names_and_labels_are_valid_whatever_the_run_is_called(run_id: str, slot: int, command: str) -> None:
    metadata = composed(assignment(run_id=run_id, slot=slot, slots=10_001), command=command)["metadata"]
    assert POD_NAME.fullmatch(metadata["name"])
    assert len(metadata["name"]) <= 63
    assert metadata["name"].startswith(pod_prefix(run_id))
    for name, value in metadata["labels"].items():
        assert LABEL_NAME.fullmatch(name)
        assert LABEL.fullmatch(value)
    assert run_selector(run_id).items() <= metadata["labels"].items()


def test_what_changes_with_each_pod_of_a_slot_is_no_label() -> None:
    first, second = composed(assignment(generation=1)), composed(assignment(generation=2))
    assert first["metadata"]["labels"] == second["metadata"]["labels"]
    assert first["metadata"]["name"] == second["metadata"]["name"]
    assert first["metadata"]["annotations"] != second["metadata"]["annotations"]


def test_two_runs_share_neither_names_nor_selectors() -> None:
    one, other = composed(assignment(run_id="a"))["metadata"], composed(assignment(run_id="b"))["metadata"]
    assert one["name"] != other["name"]
    assert run_selector("a") != run_selector("b")


def test_a_gpu_can_be_asked_for_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_GPUS", "1")
    assert Configuration().gpus == 1
    monkeypatch.setenv("TIDEGATE_GPUS", "2")
    with pytest.raises(ValueError, match="gpus"):
        Configuration()


def test_a_gpu_is_asked_for_only_where_configured() -> None:
    assert "nvidia.com/gpu" not in container(composed())["resources"]["limits"]
    resources = container(composed(gpus=1))["resources"]
    assert resources["requests"]["nvidia.com/gpu"] == resources["limits"]["nvidia.com/gpu"] == "1"


def test_the_pod_goes_where_the_run_asks() -> None:
    placement = Placement({"zone": "a"}, ({"key": "gpu", "operator": "Exists", "tolerationSeconds": 60},), "L4")
    spec = composed(placement=placement)["spec"]
    assert spec["nodeSelector"] == {"zone": "a", "nvidia.com/gpu.product": "L4"}
    assert spec["tolerations"] == [{"key": "gpu", "operator": "Exists", "tolerationSeconds": 60}]


def test_a_toleration_that_is_none_is_refused_with_what_it_takes() -> None:
    with pytest.raises(FixConfig, match=r"tolerationSeconds.*seconds is none"):
        composed(placement=Placement(tolerations=({"key": "gpu", "seconds": 60},)))


def test_pods_that_share_a_staging_volume_have_folders_of_their_own() -> None:
    one, other = (composed(assignment(slot=slot), staging_claim="fast") for slot in (0, 1))
    assert mounts(one)["staging"]["subPath"] != mounts(other)["staging"]["subPath"]
    assert "subPath" not in mounts(composed())["staging"]


@pytest.mark.parametrize(
    ("claims", "volume", "folder"),
    [
        ({"staging_claim": "fast"}, "staging", "weights"),
        ({"staging_claim": "fast", "weights_claim": "kept"}, "weights", None),
    ],
)
def test_weights_that_a_volume_can_keep_are_fetched_once_for_all_pods(
    claims: dict[str, str], volume: str, folder: str | None
) -> None:
    pod = composed(**claims)
    kept = environment(pod)["TIDEGATE_WEIGHTS_DIR"]
    (mount,) = [each for each in container(pod)["volumeMounts"] if each["mountPath"] == kept]
    assert (mount["name"], mount.get("subPath")) == (volume, folder)


def test_volumes_are_bounded_or_claimed() -> None:
    pod = composed(results_claim="results", weights_claim="weights")
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert volumes.keys() == mounts(pod).keys() == {"staging", "tmp", "results", "weights"}
    assert all("sizeLimit" in volume.get("emptyDir", {"sizeLimit": ""}) for volume in volumes.values())
    assert volumes["results"]["persistentVolumeClaim"] == {"claimName": "results"}


def test_a_volume_that_has_the_group_already_is_not_gone_through_again() -> None:
    security = composed(weights_claim="weights")["spec"]["securityContext"]
    assert security["fsGroup"] == security["runAsGroup"] == security["runAsUser"]
    assert security["fsGroupChangePolicy"] == "OnRootMismatch"


def test_the_grace_is_the_plans() -> None:
    assert composed()["spec"]["terminationGracePeriodSeconds"] == 90


def test_an_api_server_takes_the_pod(cluster: Cluster) -> None:
    pod = composed(worker_image="python:3", namespace=NAMESPACE)
    made = cluster.core.create_namespaced_pod(NAMESPACE, pod, dry_run="All")
    assert made.metadata.name == pod["metadata"]["name"]
