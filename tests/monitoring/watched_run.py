"""A worker at work and a run store with a past, as exporters that a real Prometheus scrapes.

The worker is the real one, in its own environment; what a cluster's discovery would add is put on its series.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import requests
from PIL import Image
from prometheus_client import CollectorRegistry, start_http_server
from tests.adapters.examples import attempt, moved, plan, trip
from tests.adapters.metrics_bed import Prometheus, eventually, free_port
from tests.monitoring.panels_bed import Viewer

from tidegate.adapters.configuration import Configuration
from tidegate.adapters.kube_pods import WORKER_CONTAINER
from tidegate.adapters.run_store import Run, RunState, RunStore, StoredTrip
from tidegate.control import closing
from tidegate.control.opening import baseline_key
from tidegate.core.baseline import DAY_SECONDS, BaselineKey, FinishedRun
from tidegate.core.contract import GIB, MIB, Assignment, Metric, Source, SourceKind, StoreMetric, WorkerReport
from tidegate.core.slot import Phase, SlotState
from tidegate.exporter.reading import Reader
from tidegate.exporter.series import StoreCollector

WORKER = Path(__file__).parents[2] / ".venv" / "worker" / "bin" / "python"
#: As Airflow makes them, with what a pattern would read otherwise.
RUN_ID = "tidegate_batch_inference/manual__2026-11-26T01:00:00+00:00"
POD, NAMESPACE, PIPELINE, VERSION = "tidegate-abc-run-0", "jobs", "tidegate_demo", "1"
IMAGES = 2000


def night(folder: Path) -> Source:
    """A manifest of more small images than anybody waits for."""
    folder.mkdir(parents=True)
    Image.new("RGB", (160, 120), (200, 200, 200)).save(folder / "moth.jpg")
    rows = [json.dumps({"image_id": str(number), "uri": f"file://{folder}/moth.jpg"}) for number in range(IMAGES)]
    manifest = folder / "night.jsonl"
    manifest.write_text("\n".join(rows) + "\n")
    return Source(kind=SourceKind.MANIFEST, uri=f"file://{manifest}", job="night.jsonl")


@contextmanager
def working(folder: Path, source: Source) -> Iterator[str]:
    """A worker on its way through `source`; the address of its series."""
    made = plan(RUN_ID)
    assignment = Assignment(
        run_id=RUN_ID,
        slot=0,
        generation=0,
        source=source,
        pipeline=PIPELINE,
        model_version=VERSION,
        cap_bytes=4 * GIB,
        upper_bytes=2 * GIB,
        ingest=made.ingest.model_copy(update={"budget_bytes": 64 * MIB, "staging_bytes": 64 * MIB}),
        grace_seconds=30.0,
    )
    port = free_port()
    told = {
        "TIDEGATE_PLAN": assignment.to_json(),
        "TIDEGATE_METRICS_PORT": str(port),
        "TIDEGATE_OUTPUT_URI": str(folder / "results"),
        # An image counts as answered once its part is written.
        "TIDEGATE_CHUNK_ROWS": "4",
        "TIDEGATE_IMAGE_ROOTS": str(folder),
        "TIDEGATE_STAGING_DIR": str(folder / "staging"),
        "TIDEGATE_TERMINATION_LOG": str(folder / "termination-log"),
        "TIDEGATE_DEMO_INFER_SECONDS_PER_IMAGE": "0.05",
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("TIDEGATE_", "AMI_"))}
    with (folder / "worker.log").open("w") as log:
        process = subprocess.Popen(
            [str(WORKER), "-m", "tidegate_worker", "run"],
            cwd=folder, env=inherited | told, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        eventually(lambda: _has_answered(process, port, folder / "worker.log"), bool, patience_seconds=240)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def _has_answered(process: subprocess.Popen[bytes], port: int, log: Path) -> bool:
    assert process.poll() is None, log.read_text()[-3000:]
    try:
        text = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=2).text
    except requests.ConnectionError:
        return False
    return any(
        line.startswith("tidegate_images_acked_total") and float(line.split()[1]) > 0 for line in text.splitlines()
    )


# -- what the run store knows ------------------------------------------------------------------------------------------


def launched(store: RunStore, source: Source) -> None:
    """Four weeks of nights, then tonight's run: planned, launched, tripped once."""
    now = time.time()
    made = plan(RUN_ID, pipeline=PIPELINE, model_version=VERSION)
    tonight = Run(RUN_ID, RUN_ID.rpartition("/")[2], source, PIPELINE, VERSION, 1, "{}", now, images_offered=IMAGES)
    for night in range(28):
        at = now - (28 - night) * DAY_SECONDS
        past = Run(
            f"past/{night}", str(night), source.model_copy(update={"job": str(night)}), PIPELINE, VERSION, 1, "{}", at
        )
        lesson = FinishedRun(at=at, images=IMAGES + night % 3, peak_bytes=GIB + night * MIB)
        store.enter_run(past)
        _end(store, past, at, (baseline_key(past), lesson))
    store.enter_run(tonight)
    store.save_plan(RUN_ID, made, [SlotState.first(made, 0)])
    state = _state(store)
    tripped = trip(state, at=now, pod_uid="uid-1", limit_in_seconds=42.0)
    _step(
        store,
        moved(state, phase=Phase.CLOSED, pod_uid="uid-1"),
        StoredTrip(tripped, "resize", "it grows"),
        created_at=now,
    )


def ended(store: RunStore) -> None:
    """Tonight's run is over, and its pod has said what it needed."""
    now = time.time()
    report = WorkerReport(
        run_id=RUN_ID,
        slot=0,
        generation=0,
        phase="finished",
        acked=IMAGES,
        peak_bytes=GIB + 100 * MIB,
        limit_bytes=2 * GIB,
    )
    over = moved(_state(store), phase=Phase.DONE, pod_uid=None)
    _step(store, over, created_at=now - 60, ended_at=now, end="finished", report=report)
    run = store.run(RUN_ID)
    assert run is not None
    _end(store, run, now, None)


def _end(store: RunStore, run: Run, at: float, lesson: tuple[BaselineKey, FinishedRun] | None) -> None:
    summary = closing.summarise(run, store, None, RunState.DONE, at)
    store.end_run(run.run_id, RunState.DONE, at, json.dumps(asdict(summary)), lesson)


def _state(store: RunStore) -> SlotState:
    found = store.slot(RUN_ID, 0)
    assert found is not None
    return found.state


def _step(store: RunStore, after: SlotState, told: StoredTrip | None = None, **pod: object) -> None:
    before = store.slot(RUN_ID, 0)
    assert before is not None
    store.advance(before, after, attempt=attempt(after, pod_name=POD, node="node-1", **pod), trip=told)


@contextmanager
def exported(store: RunStore) -> Iterator[str]:
    """The control plane's exporter on that store; the address of its series."""
    registry = CollectorRegistry()
    registry.register(StoreCollector(Reader(store), Configuration(namespace=NAMESPACE)))
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def watched(folder: Path) -> Iterator[Viewer]:
    """The run from its launch to its end in a Prometheus of its own, and a person who looks back on it."""
    store = RunStore.open(f"sqlite:///{folder}/runs.sqlite")
    source = night(folder / "images")
    since = time.time()
    launched(store, source)
    with working(folder, source) as worker, exported(store) as exporter:
        place = {"namespace": NAMESPACE, "pod": POD, "container": WORKER_CONTAINER}
        # Long enough for a scrape of a busy machine.
        prometheus = Prometheus.start(folder / "prometheus", exporter, labelled={worker: place}, scrape_seconds=2.0)
        try:
            viewer = Viewer(prometheus.url, RUN_ID, since, time.time() + 3600, requests.Session())
            eventually(lambda: viewer.sees(f"rate({Metric.IMAGES_ACKED}[30s]) > 0", instant=False), len, 120)
            eventually(lambda: viewer.sees(StoreMetric.BREAKER_SEEN_AT, instant=False), len, 120)
            ended(store)
            # Twice, so that a step of the graphs surely falls after the first.
            eventually(lambda: viewer.sees(f"count_over_time({StoreMetric.RUN_MAQ}[1m]) > 1", instant=False), len, 120)
            yield replace(viewer, until=time.time())
        finally:
            prometheus.stop()
            store.close()
