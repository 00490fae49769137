"""The watch with nothing of the test's own between it and the kernel: real pods, real Prometheus, real limits.

Two slots leak on a node that has room for one resize: whichever trips first is resized in place, the other is drained.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from tests.adapters.examples import RUN_ID, planned
from tests.adapters.metrics_bed import SCRAPE_SECONDS, Prometheus
from tests.adapters.pod_bed import MIB, NAMESPACE, Cluster

from tidegate.adapters.prometheus import MemoryReader
from tidegate.adapters.run_store import RunStore
from tidegate.control.steps import Control
from tidegate.control.watch import Watch, Watched
from tidegate.core.answers import Policy
from tidegate.core.contract import METRICS_PORT, Metric
from tidegate.core.detection import Foreseen
from tidegate.core.detection import Policy as Sensitivity
from tidegate.core.remedy import Means
from tidegate.core.slot import Phase, PodCreated, RaiseAlert, SlotState

LIMIT_BYTES = 256 * MIB
#: Beside the neighbour the node has room for one pod of this size, not for two.
CAP_BYTES = 512 * MIB
PATIENCE_SECONDS = 60.0

#: Allocates 6 MiB/s, serves what its own cgroup says under the worker's metric names, and answers SIGTERM with 75.
WORKER = f"""
    import http.server, os, signal, sys, threading, time
    def read(*names):
        for name in names:
            path = "/sys/fs/cgroup/" + name
            if os.path.exists(path):
                return open(path).read()
    def limit():
        return int(read("memory.max", "memory/memory.limit_in_bytes"))
    def used():
        fields = dict(line.split() for line in read("memory.stat", "memory/memory.stat").splitlines())
        return int(fields.get("anon") or fields["rss"])
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            place = '{{namespace="{NAMESPACE}",pod="' + sys.argv[1] + '",container="base"}}'
            values = {{"{Metric.MEMORY_NONRECLAIMABLE}": used(), "{Metric.MEMORY_LIMIT}": limit()}}
            body = "".join(f"{{name}}{{place}} {{value}}\\n" for name, value in values.items())
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body.encode())
        def log_message(self, *_):
            pass
    server = http.server.ThreadingHTTPServer((os.environ["POD_IP"], {METRICS_PORT}), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    held = []
    while True:
        held.append(b"x" * {MIB})
        time.sleep(1 / 6)
"""


def launch(cluster: Cluster, control: Control, slot: int) -> str:
    name = f"tidegate-real-run-{slot}"
    env = [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]
    pod = cluster.create(name, WORKER, "256Mi", arguments=[name], env=env, labels={"run": "real"})
    cluster.running(name)
    control.happened(RUN_ID, slot, PodCreated(generation=0, at=time.time(), pod_uid=pod.metadata.uid))
    return name


def test_of_two_leaking_slots_one_is_resized_in_place_and_the_other_drained(
    cluster: Cluster, store: RunStore, tmp_path: Path
) -> None:
    expected: dict[str, Any] = {"floor_bytes": MIB, "lower_bytes": MIB, "target_bytes": MIB, "upper_bytes": 32 * MIB}
    made = planned(store, slots=2, limit_bytes=LIMIT_BYTES, cap_bytes=CAP_BYTES, **expected)
    told: list[RaiseAlert] = []
    policy = Policy(Means(can_resize=True, restart_seconds=30, floor_bytes=MIB), drain_seconds=30)
    control = Control(store, policy)
    cluster.create("neighbour", memory="1100Mi")
    names = [launch(cluster, control, slot) for slot in (0, 1)]
    addresses = [f"{cluster.read(name).status.pod_ip}:{METRICS_PORT}" for name in names]
    try:
        prometheus = Prometheus.start(tmp_path / "prometheus", *addresses)
    except FileNotFoundError as why:
        pytest.skip(str(why))

    async def watched() -> list[SlotState]:
        async with cluster.pods() as pods:
            watch = Watch(
                watched=Watched(
                    run_id=RUN_ID,
                    namespace=NAMESPACE,
                    pod_prefix="tidegate-real-",
                    selector={"run": "real"},
                    sensitivity=Sensitivity.preset(),
                    foreseen=Foreseen(upper_bytes=made.upper_bytes),
                    images_total=None,
                    interval_seconds=SCRAPE_SECONDS,
                ),
                store=store,
                control=control,
                pods=pods,
                reader=MemoryReader.at(prometheus.url),
                clock=time.time,
                tell=told.append,
            )
            give_up = time.monotonic() + PATIENCE_SECONDS
            while True:
                states = await watch.round()
                if {state.phase for state in states} == {Phase.HALF_OPEN, Phase.OPEN_DRAINING}:
                    return states
                assert time.monotonic() < give_up, [(state.phase, state.reason) for state in states]
                await asyncio.sleep(SCRAPE_SECONDS / 2)

    try:
        states = asyncio.run(watched())
    finally:
        prometheus.stop()

    resized, drained = sorted(states, key=lambda state: state.phase)
    assert resized.phase is Phase.HALF_OPEN
    live = cluster.read(names[resized.slot]).status.container_statuses[0]
    assert int(live.resources.limits["memory"]) == resized.limit_bytes == CAP_BYTES
    assert live.restart_count == 0
    assert drained.target_bytes == CAP_BYTES
    ended = cluster.ended(names[drained.slot]).status.container_statuses[0].state.terminated
    assert (ended.exit_code, ended.reason) == (75, "Error")
    trips = store.trips(RUN_ID)
    # Both were seen before the kernel acted.
    assert all(stored.trip.ratio < 0.95 for stored in trips)
    assert {(stored.trip.slot, stored.remedy) for stored in trips} == {
        (resized.slot, "resize"),
        (drained.slot, "relaunch_larger"),
    }
    assert told == []
