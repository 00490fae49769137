"""What clients rely on beside pods that run: selectors, watches, conflicts, patches, pages, logs, the proxy, events."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from kubernetes import client, watch

if TYPE_CHECKING:
    from tests.conformance.conftest import Cluster

SERVES = """
    import http.server, os
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            said = self.path + " " + str("Authorization" in self.headers)
            self.wfile.write(said.encode())
    server = http.server.HTTPServer((os.environ["IP"], 9464), Handler)
    print("serving")
    server.serve_forever()
"""
COUNTS = """
    import sys, time
    print("x" * 40000)
    for number in range(1, 11):
        print("line", number)
    print("to stderr", file=sys.stderr)
    time.sleep(4)
    print("late line")
"""


@pytest.fixture(scope="module", autouse=True)
def pods(cluster: Cluster) -> Iterator[None]:
    for name, labels in (
        ("plain", {"tier": "a", "size": "3"}),
        ("checked", {"tier": "b", "size": "7", "already_checked": "True"}),
        ("airflow", {"tier": "c", "airflow-worker": "yes"}),
    ):
        cluster.create(name, "pass", labels={"suite": "selectors", **labels}, memory="32Mi")
    ip = {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    cluster.create("server", SERVES, container={"env": [ip]})
    cluster.create("counter", COUNTS)
    for name in ("left", "right"):
        cluster.create(f"page-{name}", "pass", labels={"suite": "pages"}, memory="32Mi")
    cluster.create("page-top", "pass", labels={"suite": "pages"}, memory="32Mi")
    cluster.create("changed", "import time; time.sleep(300)", labels={"state": "one"})
    yield
    cluster.core.delete_collection_namespaced_pod(cluster.namespace, grace_period_seconds=0)


def names(found: Any) -> set[str]:
    return {pod.metadata.name for pod in found.items}


def raw(cluster: Cluster, method: str, path: str, **options: Any) -> Any:
    """The JSON that the server answers, past the client's models."""
    answer = cluster.core.api_client.call_api(
        f"/api/v1/namespaces/{cluster.namespace}/{path}", method, auth_settings=["BearerToken"],
        _preload_content=False, _return_http_data_only=True, **options,
    )  # fmt: skip
    return json.loads(answer.data)


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("suite=selectors", {"plain", "checked", "airflow"}),
        ("suite=selectors,already_checked!=True,!airflow-worker", {"plain"}),
        ("suite==selectors,tier in (a, b)", {"plain", "checked"}),
        ("suite=selectors,tier notin (a,b)", {"airflow"}),
        ("suite=selectors,already_checked", {"checked"}),
        ("suite=selectors,size>5", {"checked"}),
        ("suite=selectors,size<5", {"plain"}),
        ("suite=selectors,tier=", set()),
    ],
)
def test_labels_select_pods(cluster: Cluster, selector: str, expected: set[str]) -> None:
    assert names(cluster.core.list_namespaced_pod(cluster.namespace, label_selector=selector)) == expected


def test_fields_select_pods(cluster: Cluster) -> None:
    cluster.running("server")

    def found(selector: str) -> set[str]:
        return names(cluster.core.list_namespaced_pod(cluster.namespace, field_selector=selector))

    assert found("metadata.name=plain") == {"plain"}
    assert "server" in found("status.phase=Running,spec.restartPolicy=Never")
    assert "server" not in found("status.phase!=Running")
    assert "server" in found(f"spec.nodeName={cluster.read('server').spec.node_name}")


@pytest.mark.parametrize(
    "options", [{"field_selector": "spec.hostname=x"}, {"label_selector": "a in b"}, {"label_selector": "=x"}]
)
def test_a_selector_that_cannot_be_read_is_a_bad_request(cluster: Cluster, options: dict[str, str]) -> None:
    with pytest.raises(client.ApiException) as refusal:
        cluster.core.list_namespaced_pod(cluster.namespace, **options)
    assert refusal.value.status == 400


def test_a_page_at_a_time_lists_everything_once(cluster: Cluster) -> None:
    first = cluster.core.list_namespaced_pod(cluster.namespace, label_selector="suite=pages", limit=2)
    rest = cluster.core.list_namespaced_pod(
        cluster.namespace, label_selector="suite=pages", limit=2, _continue=first.metadata._continue
    )
    assert [pod.metadata.name for pod in (*first.items, *rest.items)] == ["page-left", "page-right", "page-top"]
    assert not rest.metadata._continue


def test_a_watch_tells_what_enters_and_leaves_its_selector(cluster: Cluster) -> None:
    listed = cluster.core.list_namespaced_pod(cluster.namespace, label_selector="state=two")
    assert listed.items == []
    cluster.patch("changed", {"metadata": {"labels": {"state": "two"}}})
    cluster.patch("changed", {"metadata": {"labels": {"state": "three"}}})
    stream, seen = watch.Watch(), []
    for event in stream.stream(
        cluster.core.list_namespaced_pod, cluster.namespace, label_selector="state=two",
        resource_version=listed.metadata.resource_version, timeout_seconds=int(cluster.patience_seconds),
    ):  # fmt: skip
        seen.append((event["type"], event["object"].metadata.labels["state"]))
        if event["type"] == "DELETED":
            stream.stop()
    assert (seen[0], seen[-1]) == (("ADDED", "two"), ("DELETED", "two"))


def test_a_watch_without_a_version_begins_with_what_exists(cluster: Cluster) -> None:
    stream = watch.Watch()
    for event in stream.stream(
        cluster.core.list_namespaced_pod, cluster.namespace, field_selector="metadata.name=plain", timeout_seconds=10
    ):
        assert (event["type"], event["object"].metadata.name) == ("ADDED", "plain")
        stream.stop()


def test_a_watch_from_too_far_back_is_gone(cluster: Cluster) -> None:
    with pytest.raises(client.ApiException) as gone:
        for _ in watch.Watch().stream(
            cluster.core.list_namespaced_pod, cluster.namespace, resource_version="1", timeout_seconds=5
        ):
            pass
    assert gone.value.status == 410


def test_a_watch_that_asks_for_bookmarks_ends_with_one(cluster: Cluster) -> None:
    version = cluster.core.list_namespaced_pod(cluster.namespace, limit=1).metadata.resource_version
    answer = cluster.core.list_namespaced_pod(
        cluster.namespace, watch=True, allow_watch_bookmarks=True, resource_version=version, timeout_seconds=5,
        label_selector="suite=nobody", _preload_content=False,
    )  # fmt: skip
    events = [json.loads(line) for line in answer.data.decode().splitlines()]
    assert [event["type"] for event in events] == ["BOOKMARK"] * len(events)
    assert events
    assert int(events[-1]["object"]["metadata"]["resourceVersion"]) >= int(version)


def test_an_update_of_an_outdated_object_is_a_conflict(cluster: Cluster) -> None:
    old = cluster.core.create_namespaced_config_map(cluster.namespace, {"metadata": {"name": "cm"}, "data": {"a": "1"}})
    new = cluster.core.patch_namespaced_config_map("cm", cluster.namespace, {"data": {"a": "2"}})
    assert new.metadata.resource_version != old.metadata.resource_version
    old.data = {"a": "3"}
    with pytest.raises(client.ApiException) as refusal:
        cluster.core.replace_namespaced_config_map("cm", cluster.namespace, old)
    assert refusal.value.status == 409
    assert json.loads(refusal.value.body)["reason"] == "Conflict"


def test_a_patch_that_changes_nothing_keeps_the_version(cluster: Cluster) -> None:
    cluster.core.create_namespaced_config_map(cluster.namespace, {"metadata": {"name": "same"}, "data": {"a": "1"}})
    before = cluster.core.read_namespaced_config_map("same", cluster.namespace).metadata.resource_version
    after = cluster.core.patch_namespaced_config_map("same", cluster.namespace, {"data": {"a": "1"}})
    assert after.metadata.resource_version == before


def test_a_name_that_is_taken_is_a_conflict(cluster: Cluster) -> None:
    with pytest.raises(client.ApiException) as refusal:
        cluster.create("plain", "pass")
    assert refusal.value.status == 409
    assert json.loads(refusal.value.body)["reason"] == "AlreadyExists"


def test_what_does_not_exist_is_not_found_by_name(cluster: Cluster) -> None:
    with pytest.raises(client.ApiException) as missing:
        cluster.read("nothing")
    body = json.loads(missing.value.body)
    assert (body["code"], body["reason"], body["message"]) == (404, "NotFound", 'pods "nothing" not found')


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"metadata": {"name": "Not_A_Name"}}, "metadata.name"),
        ({"metadata": {"name": "x", "labels": {"a": "not a label!"}}}, "metadata.labels"),
        ({"spec": {"containers": []}}, "spec.containers"),
        ({"spec": {"containers": [{"name": "x"}]}}, "image"),
    ],
)
def test_an_invalid_pod_is_refused_with_the_field_named(cluster: Cluster, change: dict[str, Any], field: str) -> None:
    body = cluster.manifest("invalid", "pass")
    body |= {key: {**body[key], **value} for key, value in change.items()}
    with pytest.raises(client.ApiException) as refusal:
        cluster.core.create_namespaced_pod(cluster.namespace, body)
    answer = json.loads(refusal.value.body)
    assert (refusal.value.status, answer["reason"]) == (422, "Invalid")
    assert any(field in cause["field"] for cause in answer["details"]["causes"])


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/merge-patch+json", {"metadata": {"annotations": {"merge": "1"}}}),
        ("application/strategic-merge-patch+json", {"metadata": {"annotations": {"strategic": "1"}}}),
        ("application/json-patch+json", [{"op": "add", "path": "/metadata/annotations", "value": {"json": "1"}}]),
    ],
)
def test_every_dialect_of_patch_changes_an_annotation(cluster: Cluster, content_type: str, body: Any) -> None:
    answer = raw(cluster, "PATCH", "pods/changed", body=body, header_params={"Content-Type": content_type})
    assert "1" in answer["metadata"]["annotations"].values()


def test_a_patch_by_name_leaves_the_other_containers_alone(cluster: Cluster) -> None:
    image = cluster.read("changed").spec.containers[0].image
    patched = cluster.patch("changed", {"spec": {"containers": [{"name": "main", "image": image}]}})
    assert len(patched.spec.containers) == 1
    assert patched.spec.containers[0].command


def test_a_namespace_that_is_not_there_takes_no_pods(cluster: Cluster) -> None:
    with pytest.raises(client.ApiException) as missing:
        cluster.core.create_namespaced_pod("no-such-namespace", cluster.manifest("lost", "pass"))
    assert missing.value.status == 404


def test_events_are_found_by_exactly_what_they_are_about(cluster: Cluster) -> None:
    pod = cluster.ended("plain")
    selector = f"involvedObject.name=plain,involvedObject.namespace={cluster.namespace},involvedObject.uid={{}}"

    def found(uid: str) -> list[Any]:
        events: list[Any] = cluster.core.list_namespaced_event(
            cluster.namespace, field_selector=selector.format(uid)
        ).items
        return events

    reasons = {
        event.reason for event in cluster.eventually(lambda: found(pod.metadata.uid), lambda each: len(each) >= 4)
    }
    assert {"Scheduled", "Started"} <= reasons
    assert found("another-uid") == []


def test_a_log_is_cut_as_asked(cluster: Cluster) -> None:
    cluster.ended("counter")
    whole = cluster.log("counter")
    assert whole.splitlines()[:3] == ["x" * 40000, "line 1", "line 2"]
    assert "to stderr" in whole
    assert cluster.log("counter", tail_lines=1) == "late line\n"
    assert cluster.log("counter", limit_bytes=8) == "x" * 8
    ended = cluster.terminated("counter").finished_at
    age = int((datetime.now(UTC) - ended).total_seconds())
    assert cluster.log("counter", since_seconds=age + 2) == "late line\n"


def test_a_log_with_times_has_one_a_line(cluster: Cluster) -> None:
    cluster.ended("counter")
    times = []
    for line in cluster.log("counter", timestamps=True).splitlines():
        match = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.\d{1,9}Z .", line)
        assert match
        times.append(datetime.fromisoformat(match[1]))
    assert times == sorted(times)
    assert (times[-1] - times[0]).total_seconds() >= 3


def test_a_followed_log_ends_with_the_container(cluster: Cluster) -> None:
    cluster.create("followed", "import time; print('first'); time.sleep(1); print('last')")
    cluster.until("followed", lambda pod: pod.status.phase != "Pending")
    answer = cluster.core.read_namespaced_pod_log("followed", cluster.namespace, follow=True, _preload_content=False)
    assert answer.read().decode() == "first\nlast\n"


def test_a_log_of_several_containers_wants_one_named(cluster: Cluster) -> None:
    body = cluster.manifest("pair", "pass")
    body["spec"]["containers"] = [{**body["spec"]["containers"][0], "name": name} for name in ("a", "b")]
    cluster.core.create_namespaced_pod(cluster.namespace, body)
    cluster.ended("pair")
    with pytest.raises(client.ApiException) as refusal:
        cluster.log("pair")
    assert refusal.value.status == 400
    with pytest.raises(client.ApiException) as refusal:
        cluster.log("pair", container="c")
    assert refusal.value.status == 400


def test_the_proxy_reaches_a_port_of_the_pod_and_keeps_the_callers_token(cluster: Cluster) -> None:
    cluster.says("server", "serving")
    answer = cluster.core.connect_get_namespaced_pod_proxy_with_path(
        "server:9464", cluster.namespace, "metrics", _preload_content=False
    )
    assert answer.data.decode().endswith("/metrics False")


def test_tables_are_made_by_the_server(cluster: Cluster) -> None:
    cluster.ended("plain")
    accept = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}
    answer = raw(cluster, "GET", "pods", header_params=accept, query_params=[("labelSelector", "test=plain")])
    assert answer["kind"] == "Table"
    columns = [column["name"] for column in answer["columnDefinitions"]]
    assert columns[:5] == ["Name", "Ready", "Status", "Restarts", "Age"]
    assert answer["rows"][0]["cells"][:3] == ["plain", "0/1", "Completed"]
    assert answer["rows"][0]["object"]["metadata"]["name"] == "plain"


def test_a_request_without_the_token_learns_nothing(cluster: Cluster) -> None:
    anonymous = client.Configuration()
    known = cluster.core.api_client.configuration
    anonymous.host, anonymous.ssl_ca_cert = known.host, known.ssl_ca_cert
    with pytest.raises(client.ApiException) as refusal:
        client.CoreV1Api(client.ApiClient(anonymous)).list_namespaced_pod(cluster.namespace)
    assert refusal.value.status in (401, 403)
