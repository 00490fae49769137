"""What the worker tells: metrics over real HTTP, log lines, the journal."""

from __future__ import annotations

import io
import json
import logging
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.worker.engine.bed import BedJob, BedPredictor, assignment, fetcher_of, jpeg, settings, tasks_of

from tidegate.core.contract import JournalEntry, Metric, WorkerReport
from tidegate.core.errors import FixConfig
from tidegate_worker import logs
from tidegate_worker.cgroup import find_memory
from tidegate_worker.engine import Engine
from tidegate_worker.journal import Journal
from tidegate_worker.metrics import MetricsServer
from tidegate_worker.pipeline.drain import Drain
from tidegate_worker.pipeline.lease import Ledger
from tidegate_worker.ports import Task


def scraped(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        text = response.read().decode()
    return {
        sample.name + "".join(f"[{key}={value}]" for key, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_series_of_the_contract_is_served_under_its_exact_name(tmp_path: Path) -> None:
    images = {f"image-{number}": jpeg(seed=number) for number in range(8)}
    images["bad"] = b"no image"
    engine = Engine(
        assignment(),
        BedJob(tasks_of([*images])),
        fetcher_of(images),
        BedPredictor(),
        settings(tmp_path),
        Drain(),
        find_memory(),
        Journal(None),
    )
    server = MetricsServer(engine, "node-7", "127.0.0.1", 0)
    try:
        engine.run()
        values = scraped(server.port)
    finally:
        server.close()
    plain = {name.split("[")[0].removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in values}
    # At the end no lease is held that could run out.
    absent = {Metric.GPU_MEMORY, Metric.LEASE_REMAINING_SECONDS}
    promised = {value for name, value in vars(Metric).items() if name.isupper()} - absent
    assert promised <= plain
    assert not plain & absent
    assert values[Metric.IMAGES_ACKED] == 9
    assert values[Metric.IMAGES_FAILED] == 1
    assert values[Metric.IMAGES_LEASED] == 0
    assert values[f"{Metric.STAGE_SECONDS}_count[stage=decode]"] == 8
    assert values[f"{Metric.STAGE_SECONDS}_bucket[le=+Inf][stage=decode]"] == 8
    facts = "[generation=1][job_id=job-1][model_version=1][node=node-7][pipeline=stub][run_id=run-1][slot=0]"
    assert values[Metric.RUN_INFO + facts] == 1
    assert not any("run_id" in name for name in values if not name.startswith(Metric.RUN_INFO)), "run facts on a series"


def test_the_lease_that_runs_out_first_is_known_while_it_is_held() -> None:
    ledger = Ledger()
    assert ledger.next_expires_at() is None
    ledger.add(Task(image_id="of a manifest", url="http://a"), alone=False)
    assert ledger.next_expires_at() is None
    soon = ledger.add(Task(image_id="soon", url="http://b", expires_at=100.0), alone=False)
    ledger.add(Task(image_id="late", url="http://c", expires_at=300.0), alone=False)
    assert ledger.next_expires_at() == 100.0
    assert soon is not None
    ledger.forget(soon)
    assert ledger.next_expires_at() == 300.0


def test_a_metrics_port_that_is_taken_is_a_setting_to_change(tmp_path: Path) -> None:
    engine = Engine(
        assignment(),
        BedJob([]),
        fetcher_of({}),
        BedPredictor(),
        settings(tmp_path),
        Drain(),
        find_memory(),
        Journal(None),
    )
    server = MetricsServer(engine, "", "127.0.0.1", 0)
    try:
        with pytest.raises(FixConfig, match="metrics cannot be served"):
            MetricsServer(engine, "", "127.0.0.1", server.port)
    finally:
        server.close()


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    logs.set_up(stream)
    yield stream
    root.handlers[:], root.level = handlers, level


def test_log_lines_are_json_and_addresses_lose_their_queries(lines: io.StringIO) -> None:
    log = logging.getLogger("tidegate_worker.test")
    log.warning("could not fetch %s", "https://u:p@host/a.jpg?X-Signature=secret", extra={"url": "http://h/?t=secret"})
    log.error("failed", exc_info=RuntimeError("https://host/b.jpg?token=secret"))
    first, second = map(json.loads, lines.getvalue().splitlines())
    assert first["message"] == "could not fetch https://host/a.jpg?..."
    assert first["level"] == "warning"
    assert "https://host/b.jpg?..." in second["exception"]
    assert "secret" not in lines.getvalue()


def report(images: int, reason: str = "") -> WorkerReport:
    entries = tuple(JournalEntry(image_id=f"image-{number}", reply_subject="x" * 90) for number in range(images))
    return WorkerReport(run_id="run", slot=0, generation=1, phase="running", reason=reason, in_flight=entries)


def test_the_journal_is_always_whole_json_of_constant_length(tmp_path: Path) -> None:
    path = tmp_path / "log"
    journal = Journal(path)
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number = (number + 7) % 90
            journal.write(lambda images=number: report(images))  # type: ignore[misc]

    threads = [threading.Thread(target=write) for _ in range(2)]
    journal.write(lambda: report(1))
    for thread in threads:
        thread.start()
    for _ in range(300):
        text = path.read_bytes()
        assert len(text) == 4096
        WorkerReport.from_json(text)
    stop.set()
    for thread in threads:
        thread.join()


def test_what_does_not_fit_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "log"
    Journal(path).write(lambda: report(500))
    read = WorkerReport.from_json(path.read_bytes())
    assert len(read.in_flight) + read.in_flight_omitted == 500
    assert read.in_flight


def test_a_termination_log_that_cannot_be_opened_is_a_setting_to_change(tmp_path: Path) -> None:
    with pytest.raises(FixConfig, match="termination log"):
        Journal(tmp_path / "missing" / "log")
