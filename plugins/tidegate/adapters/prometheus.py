"""Memory samples of a run's pods from whatever speaks the Prometheus query API: one query for all pods.

A range selector is asked for and not an instant value: it brings the raw samples with their own times, so that a scrape
that failed is seen as a gap and never as a flat line. Credentials come from `metrics_access`.
"""

from __future__ import annotations

import gc
import math
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import requests
from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from urllib3.util.retry import Retry

from tidegate.adapters.kube_pods import WORKER_CONTAINER
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
_NAMES: Final = tuple(sorted({name for series in _SERIES.values() for name in series.values()}))
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]*")


@dataclass(frozen=True, slots=True)
class Reading:
    """One pod's samples in order of time, all from one origin."""

    origin: Origin
    samples: tuple[Sample, ...]


class MemoryReader:
    """Blocking: callers on an event loop use a thread."""

    def __init__(self, connection: PrometheusConnect, *, exact_names: bool = False) -> None:
        self._connection = connection
        self._names = [f'="{name}"' for name in _NAMES] if exact_names else [f'=~"{"|".join(_NAMES)}"']

    @classmethod
    def at(cls, url: str, session: requests.Session | None = None, *, exact_names: bool = False) -> MemoryReader:
        """A reader of the server at `url`; `session` carries credentials and certificates.

        With `exact_names` each series is asked for by itself: some servers take no pattern for a name.
        """
        # The client's own retries would make a time-out of 1 s last 10; the next interval is the retry.
        connection = PrometheusConnect(
            url=url.rstrip("/"), retry=Retry(total=0), session=session, timeout=QUERY_SECONDS
        )
        return cls(connection, exact_names=exact_names)

    def read(self, namespace: str, pod_prefix: str, window_seconds: float) -> dict[str, Reading]:
        """What was measured in the last `window_seconds`, by pod, of those whose names begin with `pod_prefix`."""
        if not _NAME.fullmatch(namespace) or not _NAME.fullmatch(pod_prefix):
            raise ValueError(f"{namespace!r} or {pod_prefix!r} is no name of Kubernetes")
        # The container is named, for cAdvisor measures sidecars and the pod as a whole under the same names.
        rest = (
            f'namespace="{namespace}",pod=~"{pod_prefix}.*",container="{WORKER_CONTAINER}"}}'
            f"[{max(1, math.ceil(window_seconds))}s]"
        )
        try:
            with _uncollected():
                return readings([series for name in self._names for series in self._asked(f"{{__name__{name},{rest}")])
        except PrometheusApiClientException as error:
            raise RetryLater(f"Prometheus refused the memory query: {error}"[:500]) from None
        except requests.TooManyRedirects:
            raise RetryLater("the address of Prometheus redirects elsewhere: name the one that answers") from None
        except requests.RequestException as error:
            raise RetryLater(f"Prometheus did not answer the memory query: {type(error).__name__}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise RetryLater(f"what answers for Prometheus is none: {type(error).__name__} in its answer") from None

    def _asked(self, query: str) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = self._connection.custom_query(query, params={"timeout": f"{QUERY_SECONDS:.0f}s"})
        return answer


@contextmanager
def _uncollected() -> Iterator[None]:
    """Tens of thousands of small lists, none in a cycle: for each few hundred the collector would walk the process."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def readings(result: list[dict[str, Any]]) -> dict[str, Reading]:
    """The matrix of a query result as readings by pod, each from the best origin that has samples."""
    points: dict[str, dict[str, dict[float, float]]] = defaultdict(dict)
    for series in result:
        labels = series["metric"]
        # The same series under two scrape jobs: times merge.
        merged = points[labels["pod"]].setdefault(labels["__name__"], {})
        merged.update({at: number for at, value in series["values"] if math.isfinite(number := float(value))})
    found = {pod: _best(by_name) for pod, by_name in points.items()}
    return {pod: reading for pod, reading in found.items() if reading is not None}


def _best(by_name: Mapping[str, Mapping[float, float]]) -> Reading | None:
    for origin, series in _SERIES.items():
        columns = {column: by_name[name] for column, name in series.items() if by_name.get(name)}
        if not columns.keys() >= _REQUIRED:
            continue
        memory, limit = columns.pop("nonreclaimable_bytes"), columns.pop("limit_bytes")
        times = sorted(memory)
        beside = [
            # A limit was in force before it was first told; of the others nothing is known then.
            _as_of(times, limit, before=limit[min(limit)]),
            *(_as_of(times, points) for points in columns.values()),
        ]
        names = ("limit_bytes", *columns)
        samples = tuple(
            Sample(
                t_seconds=at,
                nonreclaimable_bytes=memory[at],
                **{name: value for name, value in zip(names, values, strict=True) if value is not None},
            )
            for at, *values in zip(times, *beside, strict=True)
        )
        return Reading(origin, samples)
    return None


def _as_of(times: list[float], points: Mapping[float, float], before: float | None = None) -> list[float | None]:
    """The value last told at each of `times`: cAdvisor stamps usage itself, but not the limit, so times differ."""
    if len(points) == len(times) and all(at in points for at in times):
        # One scrape told both: what nearly always is.
        return [points[at] for at in times]
    told = sorted(points)
    places = (bisect_right(told, at) for at in times)
    return [points[told[place - 1]] if place else before for place in places]
