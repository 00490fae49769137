"""Memory as it is read from a real Prometheus, and the door of a guarded one."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.adapters.metrics_bed import SCRAPE_SECONDS, Exporter, Prometheus, eventually

from tidegate.adapters.configuration import Configuration
from tidegate.adapters.metrics_access import MetricsServer
from tidegate.adapters.prometheus import QUERY_SECONDS, MemoryReader, Origin, Reading, readings
from tidegate.core.contract import Metric
from tidegate.core.errors import RetryLater

PREFIX = "tidegate-abc-"


def series(name: str, value: float, pod: str, container: str = "base", namespace: str = "jobs") -> str:
    return f'{name}{{namespace="{namespace}",pod="{pod}",container="{container}"}} {value}\n'


def worker(pod: str, memory: float, limit: float = 1000.0, acked: float = 0.0, **place: str) -> str:
    return (
        series(Metric.MEMORY_NONRECLAIMABLE, memory, pod, **place)
        + series(Metric.MEMORY_LIMIT, limit, pod, **place)
        + series(Metric.IMAGES_ACKED, acked, pod, **place)
    )


def cadvisor(pod: str, rss: float, limit: float = 1000.0, container: str = "base") -> str:
    return (
        series("container_memory_rss", rss, pod, container)
        + series("container_memory_working_set_bytes", 2 * rss, pod, container)
        + series("container_spec_memory_limit_bytes", limit, pod, container)
    )


@pytest.fixture(scope="module")
def exporter() -> Iterator[Exporter]:
    started = Exporter().start()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def server(exporter: Exporter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    try:
        started = Prometheus.start(tmp_path_factory.mktemp("prometheus"), exporter.target)
    except FileNotFoundError as why:
        pytest.skip(str(why))
    yield started
    started.stop()


@pytest.fixture
def reader(server: Prometheus) -> MemoryReader:
    return MemoryReader.at(server.url)


def pod_names() -> Iterator[str]:
    number = 0
    while True:
        yield f"{PREFIX}run-{number}"
        number += 1


NAMES = pod_names()


@pytest.fixture
def pod() -> str:
    return next(NAMES)


def read(reader: MemoryReader, pod: str, window_seconds: float = 60.0) -> Reading | None:
    return reader.read("jobs", PREFIX, window_seconds).get(pod)


def samples(reading: Reading | None) -> int:
    return len(reading.samples) if reading is not None else 0


def test_the_workers_own_word_wins_over_cadvisors(exporter: Exporter, reader: MemoryReader, pod: str) -> None:
    exporter.text = worker(pod, 300, acked=7) + cadvisor(pod, 500)
    reading = eventually(lambda: read(reader, pod), samples)
    assert reading is not None
    assert reading.origin is Origin.WORKER
    newest = reading.samples[-1]
    assert (newest.nonreclaimable_bytes, newest.limit_bytes, newest.acked) == (300, 1000, 7)
    assert newest.in_flight_bytes is None


def test_without_the_worker_resident_memory_is_taken_and_page_cache_is_not(
    exporter: Exporter, reader: MemoryReader, pod: str
) -> None:
    exporter.text = cadvisor(pod, 500)
    reading = eventually(lambda: read(reader, pod), samples)
    assert reading is not None
    assert (reading.origin, reading.samples[-1].nonreclaimable_bytes) == (Origin.RSS, 500)


def test_sidecars_and_the_pod_as_a_whole_are_not_mixed_in(exporter: Exporter, reader: MemoryReader, pod: str) -> None:
    exporter.text = cadvisor(pod, 500) + cadvisor(pod, 9, container="proxy") + cadvisor(pod, 999, container="")
    reading = eventually(lambda: read(reader, pod), lambda found: samples(found) >= 2)
    assert reading is not None
    assert {sample.nonreclaimable_bytes for sample in reading.samples} == {500}


def test_other_runs_and_other_namespaces_are_not_read(exporter: Exporter, reader: MemoryReader, pod: str) -> None:
    elsewhere = pod.replace("run", "away")
    exporter.text = worker(pod, 1) + worker("tidegate-xyz-run-0", 1) + worker(elsewhere, 1, namespace="other")
    eventually(lambda: read(reader, pod), samples)
    found = reader.read("jobs", PREFIX, 60)
    assert pod in found
    assert not {"tidegate-xyz-run-0", elsewhere} & found.keys()


def test_a_failed_scrape_is_a_gap_with_true_times_and_not_a_flat_line(
    exporter: Exporter, reader: MemoryReader, pod: str
) -> None:
    exporter.text = worker(pod, 100)
    eventually(lambda: read(reader, pod), samples)
    exporter.text = None
    away_at = time.time()
    time.sleep(4 * SCRAPE_SECONDS)
    exporter.text = worker(pod, 200)
    reading = eventually(lambda: read(reader, pod), lambda it: it and it.samples[-1].nonreclaimable_bytes == 200)
    assert reading is not None
    times = [sample.t_seconds for sample in reading.samples]
    assert times == sorted(times)
    gap = max(later - earlier for earlier, later in pairwise(times))
    assert gap >= 3 * SCRAPE_SECONDS
    assert not [at for at in times if away_at + SCRAPE_SECONDS < at < away_at + 3 * SCRAPE_SECONDS]


def test_what_is_no_number_is_left_out_and_does_not_hide_the_rest(
    exporter: Exporter, reader: MemoryReader, pod: str
) -> None:
    exporter.text = worker(pod, 100, acked=5)
    eventually(lambda: read(reader, pod), samples)
    seen = exporter.scrapes
    exporter.text = worker(pod, math.nan, acked=5)
    eventually(lambda: exporter.scrapes, lambda now: now >= seen + 3)
    exporter.text = worker(pod, 200, acked=math.nan)
    reading = eventually(lambda: read(reader, pod), lambda it: it and it.samples[-1].nonreclaimable_bytes == 200)
    assert reading is not None
    assert {sample.nonreclaimable_bytes for sample in reading.samples} == {100, 200}
    # A counter that is not told for a moment stays where it was: zero would look like a restart.
    assert {sample.acked for sample in reading.samples} == {5}


def test_a_limit_raised_in_place_shows_from_then_on(exporter: Exporter, reader: MemoryReader, pod: str) -> None:
    exporter.text = worker(pod, 100, limit=1000)
    eventually(lambda: read(reader, pod), samples)
    exporter.text = worker(pod, 100, limit=2000)
    reading = eventually(lambda: read(reader, pod), lambda it: it and it.samples[-1].limit_bytes == 2000)
    assert reading is not None
    limits = [sample.limit_bytes for sample in reading.samples]
    assert limits == sorted(limits)


def test_a_limit_that_cadvisor_stamps_otherwise_than_the_usage_still_counts(
    exporter: Exporter, reader: MemoryReader, pod: str
) -> None:
    stamped = f"{(time.time() - 3) * 1000:.0f}"
    exporter.text = cadvisor(pod, 400).replace("} 400\n", f"}} 400 {stamped}\n")
    reading = eventually(lambda: read(reader, pod), samples)
    assert reading is not None
    assert (reading.samples[0].limit_bytes, reading.origin) == (1000, Origin.RSS)


def test_a_pod_that_is_scraped_no_more_is_absent_once_the_window_has_passed(
    exporter: Exporter, reader: MemoryReader, pod: str
) -> None:
    exporter.text = worker(pod, 100)
    eventually(lambda: read(reader, pod), samples)
    exporter.text = worker("tidegate-abc-other", 1)
    eventually(lambda: read(reader, pod, window_seconds=1.0), lambda found: found is None)


def test_one_query_a_series_reads_the_same_as_one_for_all(
    exporter: Exporter, server: Prometheus, reader: MemoryReader, pod: str
) -> None:
    exporter.text = worker(pod, 300, acked=7) + cadvisor(pod, 500)
    eventually(lambda: read(reader, pod), samples)
    by_name = read(MemoryReader.at(server.url, exact_names=True), pod)
    assert by_name is not None
    assert by_name.origin is Origin.WORKER
    assert (by_name.samples[0].nonreclaimable_bytes, by_name.samples[0].acked) == (300, 7)


def test_a_name_that_would_change_the_query_is_refused(reader: MemoryReader) -> None:
    for namespace, prefix in (('jobs"} or {', PREFIX), ("jobs", '.*"')):
        with pytest.raises(ValueError, match="no name of Kubernetes"):
            reader.read(namespace, prefix, 10)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [Metric.MEMORY_NONRECLAIMABLE, Metric.MEMORY_LIMIT, Metric.IMAGES_ACKED, "container_memory_rss"]
            ),
            st.lists(st.tuples(st.integers(0, 50), st.sampled_from(["1", "2.5", "NaN", "+Inf"])), max_size=8),
        ),
        max_size=6,
    )
)
def test_whatever_is_told_samples_rise_in_time_and_are_finite(result: list[tuple[str, list[tuple[int, str]]]]) -> None:
    matrix = [{"metric": {"__name__": name, "pod": "p"}, "values": values} for name, values in result]
    for reading in readings(matrix).values():
        times = [sample.t_seconds for sample in reading.samples]
        assert times == sorted(set(times))
        assert all(math.isfinite(sample.nonreclaimable_bytes + sample.acked) for sample in reading.samples)
        assert reading.samples


# -- when it does not answer -------------------------------------------------------------------------------------------


def test_a_server_that_is_away_is_asked_again_later() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        reader = MemoryReader.at(f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(RetryLater, match="did not answer"):
            reader.read("jobs", PREFIX, 10)


def test_a_server_that_never_answers_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        reader = MemoryReader.at(f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(RetryLater):
            reader.read("jobs", PREFIX, 10)
        assert time.monotonic() - began < QUERY_SECONDS + 2.0


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"data": null}', b'{"data": {"result": [{}]}}'])
def test_what_is_no_prometheus_is_told(body: bytes) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as impostor:
        threading.Thread(target=impostor.handle_request, daemon=True).start()
        with pytest.raises(RetryLater):
            MemoryReader.at(f"http://127.0.0.1:{impostor.server_address[1]}").read("jobs", PREFIX, 10)


# -- the door ----------------------------------------------------------------------------------------------------------


def test_a_password_opens_a_guarded_prometheus(exporter: Exporter, tmp_path: Path) -> None:
    bcrypt = pytest.importorskip("bcrypt")
    hashed = bcrypt.hashpw(b"open-sesame", bcrypt.gensalt(4)).decode()
    try:
        guarded = Prometheus.start(tmp_path, exporter.target, web_config=f"basic_auth_users: {{tidegate: '{hashed}'}}")
    except FileNotFoundError as why:
        pytest.skip(str(why))
    try:
        secret = tmp_path / "password"
        secret.write_text("open-sesame\n")
        configured = Configuration.model_validate(
            {"prometheus_url": guarded.url, "prometheus_user": "tidegate", "prometheus_password_file": secret}
        )
        opened = MetricsServer.of_settings(configured).session()
        assert MemoryReader.at(guarded.url, opened).read("jobs", PREFIX, 10) is not None
        with pytest.raises(RetryLater, match="401") as refused:
            MemoryReader.at(guarded.url).read("jobs", PREFIX, 10)
        assert "open-sesame" not in str(refused.value)
    finally:
        guarded.stop()
