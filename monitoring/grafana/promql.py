"""The selections that panels share, as text in PromQL over the dashboards' variables; no panels.

Hot series carry namespace, pod and container alone: a run's are found through the facts on `tidegate_run_info`. The
slot is taken from there and nothing else, for two pods of one slot may be told of for a moment.
"""

from __future__ import annotations

from typing import Final

from tidegate.core.contract import Metric, StoreMetric

#: A leak is told from noise over this long; it spans four scrapes of 30 s.
WINDOW: Final = "2m"
PLACE: Final = '{namespace=~"$namespace"}'
#: `=` and not `=~`: a run's id holds characters that a pattern reads otherwise.
RUN: Final = '{run_id="$run"}'
PIPELINE: Final = '{pipeline=~"$pipeline"}'

_FACTS: Final = (
    "max by (namespace, pod, container, slot) "
    f'({Metric.RUN_INFO}{{run_id="$run", job_id=~"$job", namespace=~"$namespace"}})'
)
_RUNS: Final = f'max by (run_id) ({StoreMetric.SLOT_INFO}{{job_id=~"$job", worker_namespace=~"$namespace"}})'


def of_run(of_pods: str) -> str:
    """The part of `of_pods` that belongs to the chosen run, with its slots."""
    return f"({of_pods}) * on (namespace, pod, container) group_left (slot) {_FACTS}"


def worker(name: str) -> str:
    """A worker's series, for the chosen run."""
    return of_run(name + PLACE)


def of_jobs(of_runs: str) -> str:
    """The part of `of_runs`, a series by run, that belongs to the chosen jobs."""
    return f"({of_runs}) * on (run_id) group_left () {_RUNS}"


def velocity() -> str:
    """Growth of memory in bytes a second, by pod."""
    return f"deriv({Metric.MEMORY_NONRECLAIMABLE}{PLACE}[{WINDOW}])"


def grown(name: str, *labels: str) -> str:
    """How much a sum over the whole store has grown in the time shown.

    No `increase`: a new combination of labels begins at its first count, which that would miss.
    """
    by = f" by ({', '.join(labels)})" if labels else ""
    now, before = (f"sum{by} ({name}{PIPELINE}{at})" for at in ("", " offset $__range"))
    return f"{now} - ({before} or 0 * {now})"
