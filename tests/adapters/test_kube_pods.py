"""The breaker's hands on real pods: every order names its pod by UID, may be repeated, and says how it was refused."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes_asyncio import client as async_client
from tests.adapters.metrics_bed import eventually
from tests.adapters.pod_bed import DRAINS, LINGERS, MIB, NAMESPACE, Cluster

from tidegate.adapters.kube_pods import Gone, KubePods, LivePod, Stage, quantity_bytes
from tidegate.core.errors import RetryLater
from tidegate.core.slot import Refusal

OTHER_UID = "00000000-0000-0000-0000-000000000000"


def ask(cluster: Cluster, question: Callable[[KubePods], Awaitable[Any]]) -> Any:
    async def asked() -> Any:
        async with cluster.pods() as pods:
            return await question(pods)

    return asyncio.run(asyncio.wait_for(asked(), 30))


def live(cluster: Cluster, name: str) -> LivePod | None:
    found: dict[str, LivePod] = ask(cluster, lambda pods: pods.live({"test": name}))
    return next(iter(found.values()), None)


@pytest.fixture
def name(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[str]:
    made = "t-" + "".join(letter if letter.isalnum() else "-" for letter in request.node.originalname)[5:50].strip("-")
    yield made
    for pod in cluster.core.list_namespaced_pod(NAMESPACE, label_selector=f"test={made}").items:
        cluster.core.delete_namespaced_pod(pod.metadata.name, NAMESPACE, grace_period_seconds=0)


def test_a_running_pod_is_seen_with_the_limit_in_force(cluster: Cluster, name: str) -> None:
    made = cluster.create(name)
    cluster.running(name)
    seen = live(cluster, name)
    assert seen is not None
    assert (seen.name, seen.uid, seen.stage) == (name, made.metadata.uid, Stage.RUNNING)
    assert (seen.actuated_limit_bytes, seen.refusal, seen.is_leaving, seen.is_placed) == (64 * MIB, None, False, True)
    assert seen.created_at == made.metadata.creation_timestamp.timestamp()


def test_pods_with_other_labels_are_not_seen(cluster: Cluster, name: str) -> None:
    cluster.create(name, labels={"slot": "0"})
    assert ask(cluster, lambda pods: pods.live({"test": name, "slot": "1"})) == {}


def test_a_pod_that_fits_nowhere_is_pending_and_not_placed(cluster: Cluster, name: str) -> None:
    cluster.create(name, memory="64Gi")
    seen = live(cluster, name)
    assert seen is not None
    assert (seen.stage, seen.is_placed, seen.actuated_limit_bytes) == (Stage.PENDING, False, None)


def test_a_resize_is_taken_and_its_effect_seen_later_and_twice_is_once(cluster: Cluster, name: str) -> None:
    uid = cluster.create(name).metadata.uid
    cluster.running(name)
    for _ in range(2):
        assert ask(cluster, lambda pods: pods.resize(name, uid, 128 * MIB)) is None

    seen = eventually(lambda: live(cluster, name), lambda pod: pod and pod.actuated_limit_bytes == 128 * MIB)
    assert seen is not None
    assert seen.refusal is None
    pod = cluster.read(name)
    assert pod.spec.containers[0].resources.requests["memory"] == pod.spec.containers[0].resources.limits["memory"]
    assert pod.spec.containers[0].image == "python:3"
    assert pod.status.container_statuses[0].restart_count == 0


def test_a_resize_that_does_not_fit_now_is_deferred_and_one_that_never_fits_infeasible(
    cluster: Cluster, name: str
) -> None:
    uid = cluster.create(name).metadata.uid
    other = cluster.create(f"{name}-b", memory="1536Mi", labels={"test": name})
    cluster.running(name)
    cluster.running(other.metadata.name)

    def refused(limit_bytes: int) -> Refusal | None:
        """The refusal, at once or seen later; to ask again for the same changes nothing."""
        at_once: Refusal | None = ask(cluster, lambda pods: pods.resize(name, uid, limit_bytes))
        found: dict[str, LivePod] = ask(cluster, lambda pods: pods.live({"test": name}))
        return at_once or found[uid].refusal

    eventually(lambda: refused(1024 * MIB), lambda answer: answer is Refusal.DEFERRED)
    eventually(lambda: refused(64 * 1024 * MIB), lambda answer: answer is Refusal.INFEASIBLE)


def test_a_resize_of_the_successor_is_refused_as_gone(cluster: Cluster, name: str) -> None:
    cluster.create(name)
    cluster.running(name)
    with pytest.raises(Gone):
        ask(cluster, lambda pods: pods.resize(name, OTHER_UID, 128 * MIB))
    assert cluster.read(name).spec.containers[0].resources.limits["memory"] == "64Mi"


def test_a_drain_keeps_exit_code_and_last_words(cluster: Cluster, name: str) -> None:
    uid = cluster.create(name, DRAINS).metadata.uid
    cluster.ready(name)
    for _ in range(2):
        ask(cluster, lambda pods: pods.drain(name, uid))
    terminated = cluster.ended(name).status.container_statuses[0].state.terminated
    assert (terminated.exit_code, terminated.message) == (75, "answered all")
    seen = live(cluster, name)
    assert seen is not None
    assert seen.stage is Stage.ENDED


def test_a_drain_of_the_successor_leaves_it_running(cluster: Cluster, name: str) -> None:
    cluster.create(name)
    cluster.running(name)
    with pytest.raises(Gone):
        ask(cluster, lambda pods: pods.drain(name, OTHER_UID))
    assert cluster.read(name).spec.active_deadline_seconds is None
    assert cluster.read(name).status.phase == "Running"


def test_a_deletion_finds_its_own_pod_and_only_that(cluster: Cluster, name: str) -> None:
    uid = cluster.create(name).metadata.uid
    cluster.running(name)
    ask(cluster, lambda pods: pods.delete(name, OTHER_UID))
    assert cluster.read(name).metadata.deletion_timestamp is None
    ask(cluster, lambda pods: pods.delete(name, uid))
    cluster.gone(name)
    # A pod that is gone is a success.
    ask(cluster, lambda pods: pods.delete(name, uid))


def test_orders_for_a_pod_that_is_gone_say_so(cluster: Cluster, name: str) -> None:
    for order in (lambda pods: pods.resize(name, OTHER_UID, MIB), lambda pods: pods.drain(name, OTHER_UID)):
        with pytest.raises(Gone):
            ask(cluster, order)


def test_a_leaving_pod_is_seen_as_leaving(cluster: Cluster, name: str) -> None:
    uid = cluster.create(name, LINGERS).metadata.uid
    cluster.ready(name)
    ask(cluster, lambda pods: pods.delete(name, uid))
    seen = live(cluster, name)
    assert seen is not None
    assert seen.is_leaving


def test_a_pod_that_does_not_end_is_struck_off_the_books_at_once_and_only_that_one(cluster: Cluster, name: str) -> None:
    uid = cluster.create(name, LINGERS).metadata.uid
    cluster.ready(name)
    ask(cluster, lambda pods: pods.delete(name, uid))
    ask(cluster, lambda pods: pods.forget(name, OTHER_UID))
    assert cluster.read(name).metadata.uid == uid
    ask(cluster, lambda pods: pods.forget(name, uid))
    cluster.gone(name)


def test_an_api_server_that_is_away_is_asked_again_later() -> None:
    async def asked() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            settings = async_client.Configuration(host=f"http://127.0.0.1:{taken.getsockname()[1]}")
            async with async_client.ApiClient(settings) as connection:
                await KubePods(async_client.CoreV1Api(connection), NAMESPACE).live({})

    with pytest.raises(RetryLater, match="did not answer"):
        asyncio.run(asked())


@pytest.mark.parametrize(
    ("status", "words"), [(401, "401"), (403, "allow `list` on pods"), (503, "503"), (200, "did not answer")]
)
def test_an_api_server_that_refuses_or_hangs_up_is_asked_again_later(status: int, words: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if status != 200:
            writer.write(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        writer.close()

    async def asked() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            settings = async_client.Configuration(host=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            async with async_client.ApiClient(settings) as connection:
                await KubePods(async_client.CoreV1Api(connection), NAMESPACE).live({})

    with pytest.raises(RetryLater, match=words):
        asyncio.run(asked())


@pytest.mark.parametrize(
    ("quantity", "size"),
    [("64Mi", 64 * MIB), ("1Gi", 1024 * MIB), ("1.5Ki", 1536), ("129e6", 129_000_000), ("128M", 128_000_000),
     ("128974848000m", 128974848), ("0", 0)],
)  # fmt: skip
def test_a_quantity_is_read_as_kubernetes_writes_it(quantity: str, size: int) -> None:
    assert quantity_bytes(quantity) == size


@given(st.integers(0, 2**50))
def test_a_plain_number_of_bytes_comes_back(size: int) -> None:
    assert quantity_bytes(str(size)) == size
