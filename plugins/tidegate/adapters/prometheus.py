"""Memory samples of a run's pods from whatever speaks the Prometheus query API: one query for all of them.

A range selector is asked for and not an instant value: it brings the raw samples with their own times, so that a scrape
that failed is seen as a gap and never as a flat line. Credentials come from `metrics_access`.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import requests
from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from urllib3.util.retry import Retry

from tidegate.core.contract import Metric
from tidegate.core.detector import Sample
from tidegate.core.errors import RetryLater

QUERY_SECONDS: Final = 4.0


class Origin(StrEnum):
    """Who measured, best first: only the worker knows what it could give back, working_set counts page cache."""

    WORKER = "worker"
    RSS = "container_memory_rss"
    WORKING_SET = "container_memory_working_set_bytes"


_CADVISOR_LIMIT: Final = "container_spec_memory_limit_bytes"
#: Field of Sample -> series.
_WORKER_SERIES: Final[Mapping[str, str]] = {
    "nonreclaimable_bytes": Metric.MEMORY_NONRECLAIMABLE,
    "limit_bytes": Metric.MEMORY_LIMIT,
    "gate_closed_seconds": Metric.GATE_CLOSED_SECONDS,
    "wanted_bytes": Metric.MEMORY_WANTED,
    "acked": Metric.IMAGES_ACKED,
    "in_flight_bytes": Metric.MEMORY_IN_FLIGHT,
}
_REQUIRED: Final = frozenset({"nonreclaimable_bytes", "limit_bytes"})
_SERIES: Final[Mapping[Origin, Mapping[str, str]]] = {
    Origin.WORKER: _WORKER_SERIES,
    Origin.RSS: {"nonreclaimable_bytes": Origin.RSS.value, "limit_bytes": _CADVISOR_LIMIT},
    Origin.WORKING_SET: {"nonreclaimable_bytes": Origin.WORKING_SET.value, "limit_bytes": _CADVISOR_LIMIT},
}
_NAMES: Final = "|".join(sorted({name for series in _SERIES.values() for name in series.values()}))


_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]*)")


@dataclass(frozen=True, slots=True)
class Reading:
    """One pod's samples in order of time, all from one origin."""

    origin: Origin
    samples: tuple[Sample, ...]


class MemoryReader:
    """Blocking: callers on an event loop use a thread."""

    def __init__(self, connection: PrometheusConnect) -> None:
        self._connection = connection

    @classmethod
    def at(cls, url: str, session: requests.Session | None = None) -> MemoryReader:
        """A reader of the server at `url`; `session` carries credentials and certificates."""
        # The client's own retries would make a time-out of 1 s last 10; the next interval is the retry.
        connection = PrometheusConnect(url=url, retry=Retry(total=0), session=session, timeout=QUERY_SECONDS)
        return cls(connection)

    def read(self, namespace: str, pod_prefix: str, window_seconds: float) -> dict[str, Reading]:
        """What was measured in the last `window_seconds`, by pod, of those whose names begin with `pod_prefix`."""
        if not _NAME.fullmatch(namespace) or not _NAME.fullmatch(pod_prefix):
            raise ValueError(f"{namespace!r} or {pod_prefix!r} is no name of Kubernetes")
        selector = f'{{__name__=~"{_NAMES}",namespace="{namespace}",pod=~"{pod_prefix}.*",container!=""}}'
        try:
            result = self._connection.custom_query(
                f"{selector}[{max(1, math.ceil(window_seconds))}s]", params={"timeout": f"{QUERY_SECONDS:.0f}s"}
            )
        except (requests.RequestException, PrometheusApiClientException, ValueError) as error:
            raise RetryLater(f"Prometheus did not answer the memory query: {type(error).__name__}: {error}") from None
        return readings(result)


def readings(result: list[dict[str, Any]]) -> dict[str, Reading]:
    """The matrix of a query result as readings by pod, each from the best origin that has samples."""
    points: dict[str, dict[str, dict[float, float]]] = defaultdict(dict)
    for series in result:
        labels = series["metric"]
        # The same series under two scrape jobs, or of an old container beside the new one: times merge, the later wins.
        merged = points[labels["pod"]].setdefault(labels["__name__"], {})
        merged.update((float(at), float(value)) for at, value in series["values"])
    found = {pod: _best(by_name) for pod, by_name in points.items()}
    return {pod: reading for pod, reading in found.items() if reading is not None}


def _best(by_name: Mapping[str, Mapping[float, float]]) -> Reading | None:
    for origin, series in _SERIES.items():
        columns = {column: by_name[name] for column, name in series.items() if name in by_name}
        if not columns.keys() >= _REQUIRED:
            continue
        times = sorted(columns["nonreclaimable_bytes"].keys() & columns["limit_bytes"].keys())
        samples = tuple(
            Sample(t_seconds=at, **{column: values[at] for column, values in columns.items() if at in values})
            for at in times
        )
        if samples:
            return Reading(origin, samples)
    return None
