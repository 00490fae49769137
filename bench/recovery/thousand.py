"""What one interval of the breaker costs in CPU with 1,000 pods, against a real Prometheus.

The exporter, the Prometheus, the run store and the watch are real; only the cluster's list of pods is made up: the cost
of a list is the API server's and the client's, and no cluster of 1,000 pods is at hand.
"""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import psutil
import requests

from tidegate.adapters.kube_pods import LivePod, Stage
from tidegate.adapters.prometheus import MemoryReader
from tidegate.adapters.run_store import Run, RunStore
from tidegate.control.steps import Control
from tidegate.control.watch import Watch, Watched
from tidegate.core import detector
from tidegate.core.answers import Policy
from tidegate.core.contract import GIB, MIB, IngestSettings, Metric, Plan, Source, SourceKind
from tidegate.core.remedy import Means
from tidegate.core.slot import Phase, SlotState

INTERVAL_SECONDS: Final = 5.0
ROUNDS: Final = 10
RUN_ID: Final = "bench/thousand"
PREFIX: Final = "tidegate-thousand-"


def measure(pods: int) -> dict[str, float]:
    """CPU seconds of this process an interval, median and worst, how long its one query took, and Prometheus' share.

    That share is of scraping one exporter: 1,000 connections cost it more than 1,000 pods' samples in one.
    """
    with tempfile.TemporaryDirectory() as folder, _Exporter(pods) as exporter:
        prometheus, url = _prometheus(Path(folder), exporter.port)
        try:
            _wait_for_samples(url, pods)
            server = psutil.Process(prometheus.pid)
            began, used = time.monotonic(), sum(server.cpu_times()[:2])
            figures = asyncio.run(_rounds(Path(folder), url, pods))
            return figures | {
                "prometheus_cores": (sum(server.cpu_times()[:2]) - used) / (time.monotonic() - began),
                "prometheus_resident_mib": server.memory_info().rss / MIB,
            }
        finally:
            prometheus.terminate()
            prometheus.wait(15)


async def _rounds(folder: Path, url: str, pods: int) -> dict[str, float]:
    store = RunStore.open(f"sqlite:///{folder / 'runs.sqlite'}")
    _fill(store, pods)
    watch = Watch(
        watched=Watched(
            run_id=RUN_ID,
            namespace="default",
            pod_prefix=PREFIX,
            selector={},
            sensitivity=detector.Policy(),
            foreseen=detector.Foreseen(upper_bytes=2 * GIB, images_per_second=1.0, budget_bytes=GIB),
            images_total=None,
            interval_seconds=INTERVAL_SECONDS,
        ),
        store=store,
        control=Control(store, _policy()),
        pods=_ListedPods(pods),  # type: ignore[arg-type]
        reader=MemoryReader.at(url),
        clock=time.time,
        tell=lambda alert: print(alert, file=sys.stderr),
    )
    # The first round rebuilds every detector from history and is not what an interval costs.
    await watch.round()
    cpu, wall = [], []
    for number in range(ROUNDS):
        await asyncio.sleep(INTERVAL_SECONDS)
        cpu_began, wall_began = time.process_time(), time.monotonic()
        states = await watch.round()
        cpu.append(time.process_time() - cpu_began)
        wall.append(time.monotonic() - wall_began)
        assert len(states) == pods
        print(f"round {number + 1} of {ROUNDS}: {cpu[-1]:.3f} CPU s, {wall[-1]:.3f} s", file=sys.stderr)
    store.close()
    return {
        "breaker_cpu_seconds_1000_pods": sorted(cpu)[len(cpu) // 2],
        "breaker_cpu_seconds_worst": max(cpu),
        "breaker_round_seconds": sorted(wall)[len(wall) // 2],
    }


def _fill(store: RunStore, pods: int) -> None:
    source = Source(kind=SourceKind.MANIFEST, uri="file:///none", job="thousand")
    ingest = IngestSettings(
        budget_bytes=GIB, micro_batch_images=1, downloads_in_flight=1, staged_images=1, staging_bytes=GIB,
        decode_threads=1, lease_images=1,
    )  # fmt: skip
    plan = Plan(
        run_id=RUN_ID, pipeline="bench", model_version="1", limit_bytes=4 * GIB, cap_bytes=16 * GIB, floor_bytes=GIB,
        lower_bytes=GIB, target_bytes=GIB, upper_bytes=2 * GIB, ingest=ingest, grace_seconds=60.0,
        startup_seconds=300.0, images_per_second=1.0, evidence="default",
    )  # fmt: skip
    store.enter_run(Run(RUN_ID, "thousand", source, "bench", "1", pods, "{}", time.time()))
    slots = [
        SlotState(
            **(dict(SlotState.first(plan, slot)) | {"phase": Phase.CLOSED, "generation": 1, "pod_uid": str(slot)})
        )
        for slot in range(pods)
    ]
    store.save_plan(RUN_ID, plan, slots)


def _policy() -> Policy:
    return Policy(means=Means(can_resize=True, restart_seconds=30.0, floor_bytes=GIB), drain_seconds=60.0)


class _ListedPods:
    def __init__(self, pods: int) -> None:
        begun = time.time() - 3600.0
        self._pods = {
            str(number): LivePod(f"{PREFIX}{number}", str(number), Stage.RUNNING, begun, True, None, 4 * GIB, None)
            for number in range(pods)
        }

    async def live(self, _selector: Any) -> dict[str, LivePod]:
        return self._pods


class _Exporter:
    """Serves the worker's series for every pod; memory breathes, acks rise."""

    def __init__(self, pods: int) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = outer._text().encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._pods = pods
        self._began = time.time()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]

    def _text(self) -> str:
        seconds = time.time() - self._began
        lines = []
        for pod in range(self._pods):
            labels = f'{{namespace="default",pod="{PREFIX}{pod}",container="base"}}'
            used = 1200 * MIB + 80 * MIB * math.sin(seconds / 30 + pod)
            lines += [
                f"{Metric.MEMORY_NONRECLAIMABLE}{labels} {used:.0f}",
                f"{Metric.MEMORY_LIMIT}{labels} {4 * GIB}",
                f"{Metric.GATE_CLOSED_SECONDS}{labels} 0",
                f"{Metric.MEMORY_WANTED}{labels} 0",
                f"{Metric.IMAGES_ACKED}{labels} {seconds:.0f}",
                f"{Metric.MEMORY_IN_FLIGHT}{labels} {80 * MIB}",
            ]
        return "\n".join(lines) + "\n"

    def __enter__(self) -> _Exporter:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()


def _prometheus(folder: Path, exporter_port: int) -> tuple[subprocess.Popen[bytes], str]:
    from tidegate_local.stack.layout import free_ports

    (port,) = free_ports(1)
    (folder / "prometheus.yaml").write_text(
        f"global: {{scrape_interval: {INTERVAL_SECONDS:.0f}s}}\n"
        "scrape_configs:\n"
        "- job_name: workers\n"
        "  honor_labels: true\n"
        f"  static_configs: [{{targets: ['127.0.0.1:{exporter_port}']}}]\n"
    )
    process = subprocess.Popen(
        (
            "prometheus",
            f"--config.file={folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return process, f"http://127.0.0.1:{port}"


def _wait_for_samples(url: str, pods: int) -> None:
    give_up = time.monotonic() + 90
    query = {"query": f"count(count_over_time({Metric.MEMORY_NONRECLAIMABLE}[1m]) >= 4)"}
    while time.monotonic() < give_up:
        try:
            result = requests.get(f"{url}/api/v1/query", params=query, timeout=5).json()["data"]["result"]
            if result and int(result[0]["value"][1]) == pods:
                return
        except (requests.RequestException, ValueError, KeyError):
            pass
        time.sleep(1)
    raise SystemExit("Prometheus has not scraped the exporter after 90 s")
