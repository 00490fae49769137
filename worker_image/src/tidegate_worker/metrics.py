"""The series of this worker, read from the engine at each scrape: nothing counted twice, no cost an image.

Names are the contract's where others query them; hot series carry no run facts, those sit on `tidegate_run_info`.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from tidegate.core.contract import Metric as Name
from tidegate.core.errors import FixConfig
from tidegate_worker.engine import Engine
from tidegate_worker.pipeline.lease import Place
from tidegate_worker.pipeline.timing import BUCKET_SECONDS, Seconds

_FDS: Final = Path("/proc/self/fd")


class MetricsServer:
    """Serves /metrics while it is open."""

    def __init__(self, engine: Engine, node: str, address: str, port: int) -> None:
        registry = CollectorRegistry()
        registry.register(EngineCollector(engine, node))
        try:
            self._server, self._thread = start_http_server(port, address, registry)
        except OSError as error:
            raise FixConfig(f"metrics cannot be served on {address}:{port} ({error.strerror}): set another") from None
        self.port: int = self._server.server_port

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class EngineCollector(Collector):
    def __init__(self, engine: Engine, node: str) -> None:
        self._engine = engine
        self._node = node

    def collect(self) -> Iterator[Metric]:
        yield self._run_info()
        yield from self._memory()
        yield from self._images()
        yield from self._stages()
        yield from self._process()

    def _run_info(self) -> Metric:
        assignment = self._engine.assignment
        facts = {
            "run_id": assignment.run_id,
            "slot": str(assignment.slot),
            "generation": str(assignment.generation),
            "job_id": assignment.source.job,
            "pipeline": assignment.pipeline,
            "model_version": assignment.model_version,
            "node": self._node,
        }
        family = GaugeMetricFamily(Name.RUN_INFO, "Facts of the run, for joins.", labels=list(facts))
        family.add_metric(list(facts.values()), 1)
        return family

    def _memory(self) -> Iterator[Metric]:
        memory = self._engine.inlet.memory()
        reading = memory.reading
        yield _gauge(Name.MEMORY_NONRECLAIMABLE, "Anonymous, shared and kernel memory.", reading.nonreclaimable_bytes)
        yield _gauge(Name.MEMORY_LIMIT, "The smallest memory limit over all cgroup ancestors.", reading.limit_bytes)
        yield _gauge(
            Name.MEMORY_WANTED, "The limit under which the largest parked image would fit.", memory.wanted_bytes
        )
        yield _gauge(Name.MEMORY_BUDGET, "Byte credits that may be in flight.", memory.gate.budget_bytes)
        yield _gauge(Name.MEMORY_IN_FLIGHT, "Byte credits in flight.", memory.in_flight_bytes)
        yield _gauge(
            Name.MEMORY_PLAN_UPPER, "What the plan calls the upper bound.", self._engine.assignment.upper_bytes
        )
        yield _gauge(Name.GATE_CLOSED, "1 while the inlet gate is closed.", int(memory.gate.closed))
        yield _counter(Name.GATE_CLOSED_SECONDS, "How long the gate was closed.", memory.gate.closed_seconds)
        yield _counter(Name.OOM_KILLS, "Kills by the memory limit of this cgroup.", self._engine.memory.oom_kills())

    def _images(self) -> Iterator[Metric]:
        ledger = self._engine.ledger
        tally = ledger.tally()
        yield _counter(Name.IMAGES_ACKED, "Answers accepted for good, failures among them.", tally.acked)
        yield _counter(Name.IMAGES_FAILED, "Images answered as failed.", tally.failed)
        yield _counter(Name.IMAGES_QUARANTINED, "Failed images that were not tried again.", tally.quarantined)
        yield _counter(Name.IMAGES_REDELIVERED, "Leases that were not the first of their image.", tally.redelivered)
        yield _gauge(Name.IMAGES_LEASED, "Images leased and not acked.", ledger.count())
        yield _gauge("tidegate_images_parked", "Images that need a larger limit.", ledger.count(Place.PARKED))
        oldest = ledger.oldest_leased_at()
        age = max(0.0, time.monotonic() - oldest) if oldest is not None else 0.0
        yield _gauge(Name.LEASE_OLDEST_SECONDS, "Age of the oldest lease that is not acked.", age)
        if (expires := ledger.next_expires_at()) is not None:
            left = max(0.0, expires - time.monotonic())
            yield _gauge(Name.LEASE_REMAINING_SECONDS, "Until the first lease that is not acked runs out.", left)
        yield _gauge(Name.STAGING_BYTES, "Image files on disk.", self._engine.staging.used_bytes)
        yield _gauge(Name.STAGING_BUDGET, "What image files may take on disk.", self._engine.staging.budget_bytes)
        free, total = self._engine.staging.disk()
        yield _gauge(Name.STAGING_DISK_FREE, "Free bytes of the disk that image files lie on.", free)
        yield _gauge(Name.STAGING_DISK, "Size of that disk.", total)

    def _stages(self) -> Iterator[Metric]:
        seconds = HistogramMetricFamily(Name.STAGE_SECONDS, "Seconds an image takes in a stage.", labels=["stage"])
        for name, entry in self._engine.timing.read().items():
            seconds.add_metric([name], buckets=_cumulative(entry), sum_value=entry.total)
        yield seconds
        crew = self._engine.crew
        waiting = GaugeMetricFamily(Name.STAGE_OCCUPANCY, "Images that wait before a stage.", labels=["stage"])
        busy = GaugeMetricFamily("tidegate_stage_busy", "Threads of a stage that are at work.", labels=["stage"])
        threads = GaugeMetricFamily("tidegate_stage_threads", "Threads of a stage.", labels=["stage"])
        for stage in crew.stages:
            waiting.add_metric([stage.name], stage.waiting())
            busy.add_metric([stage.name], crew.busy(stage))
            threads.add_metric([stage.name], stage.threads)
        yield from (waiting, busy, threads)

    def _process(self) -> Iterator[Metric]:
        yield _gauge(Name.OPEN_FDS, "Open file handles.", sum(1 for _ in os.scandir(_FDS)))
        yield _gauge(Name.MAX_FDS, "The limit of open file handles.", resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        device = self._engine.predictor.device
        if device.type == "cuda":
            free, total = torch.cuda.mem_get_info(device)
            yield _gauge(Name.GPU_MEMORY, "Memory of the device in use, by whomever.", total - free)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _cumulative(entry: Seconds) -> list[tuple[str, float]]:
    bounds = [*map(str, BUCKET_SECONDS), "+Inf"]
    total = 0
    cumulative: list[tuple[str, float]] = []
    for bound, images in zip(bounds, entry.buckets, strict=True):
        total += images
        cumulative.append((bound, total))
    return cumulative
