"""The one Role against every call that the control plane and the provider's operator make."""

from __future__ import annotations

import re
from pathlib import Path

import airflow.providers.cncf.kubernetes.operators.pod as pod_operator
import airflow.providers.cncf.kubernetes.triggers.pod as pod_trigger
import airflow.providers.cncf.kubernetes.utils.pod_manager as pod_manager
from helm import chart
from tests.chart.rendered import EVERYTHING, one

CONTROL_PLANE = chart.REPOSITORY / "plugins" / "tidegate"
#: The whole of it; what is not here is not granted.
GRANTED = {
    ("pods", "create"), ("pods", "get"), ("pods", "list"), ("pods", "watch"), ("pods", "patch"), ("pods", "delete"),
    ("pods/log", "get"), ("pods/resize", "patch"), ("events", "list"),
}  # fmt: skip
_VERBS = {"read": "get", "list": "list", "create": "create", "patch": "patch", "delete": "delete"}
_RESOURCES = {"pod": "pods", "pod_log": "pods/log", "pod_resize": "pods/resize", "event": "events"}


def _calls(source: str) -> set[tuple[str, str]]:
    """Resource and verb of each call of the Kubernetes clients in a source; others as they are."""
    found = re.findall(r"\b(read|list|create|patch|delete|replace|connect_\w+?)_namespaced_(\w+)", source)
    return {(_RESOURCES.get(what, what), _VERBS.get(verb, verb)) for verb, what in found}


def test_airflow_is_granted_this_and_nothing_more() -> None:
    made = chart.objects(EVERYTHING)
    assert not [each for each in made if each["kind"].startswith("Cluster")]
    rules = one(made, "Role")["rules"]
    assert {(each, verb) for rule in rules for each in rule["resources"] for verb in rule["verbs"]} == GRANTED
    assert all(rule["apiGroups"] == [""] and set(rule) == {"apiGroups", "resources", "verbs"} for rule in rules)


def test_every_call_of_the_control_plane_is_granted() -> None:
    called = set().union(*(_calls(path.read_text()) for path in CONTROL_PLANE.rglob("*.py")))
    assert called >= {("pods", "list"), ("pods/resize", "patch"), ("pods", "create")}
    assert called <= GRANTED


def test_the_provider_lacks_nothing_but_what_side_cars_need() -> None:
    modules = (pod_operator, pod_manager, pod_trigger)
    called = set().union(*(_calls(Path(module.__file__ or "").read_text()) for module in modules))
    # It executes in the side-cars of XCom and of Istio, which worker pods do not have.
    assert called - GRANTED == {("pod_exec", "connect_get")}


def test_the_role_is_bound_to_airflows_accounts_alone() -> None:
    values = {"airflow": {"namespace": "orchestration", "serviceAccounts": ["one", "two"]}}
    binding = one(chart.objects(values), "RoleBinding")
    assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "tidegate-pods"}
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": name, "namespace": "orchestration"} for name in ("one", "two")
    ]
    assert binding["metadata"]["namespace"] == "tidegate-jobs"


def test_the_workers_account_has_no_rights_and_no_token() -> None:
    made = chart.objects(EVERYTHING)
    account = one(made, "ServiceAccount", "tidegate-worker")
    assert account["automountServiceAccountToken"] is False
    bound = {subject["name"] for each in made if each["kind"] == "RoleBinding" for subject in each["subjects"]}
    assert "tidegate-worker" not in bound
