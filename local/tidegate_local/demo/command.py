"""`tidegate-local demo`: run a scenario through Airflow on a stack of its own or on compose's, live, to its numbers.

The last line on standard output is one JSON object; all else goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from rich.console import Console
from rich.live import Live

from tidegate.adapters.pod_spec import pod_prefix
from tidegate.adapters.run_store import RunStore
from tidegate.core.errors import NeedsHuman, RetryLater
from tidegate_local.demo.airflow import DAG, OVER, Airflow
from tidegate_local.demo.registration import register
from tidegate_local.demo.scenarios import SCENARIOS, Scenario
from tidegate_local.demo.view import Memory, Moment, line, picture, slots_of
from tidegate_local.jobserver.control import JobTruth
from tidegate_local.stack import compose
from tidegate_local.stack.doors import Doors
from tidegate_local.stack.layout import Layout
from tidegate_local.stack.session import Session, add_home_argument, say
from tidegate_local.stack.supervisor import exclusive

REFRESH_SECONDS: Final = 1.0
LINE_SECONDS: Final = 5.0
LONGEST_SECONDS: Final = 1800.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_home_argument(parser)
    shown = "; ".join(f"{name}: {scenario.shows}" for name, scenario in SCENARIOS.items())
    parser.add_argument("--scenario", choices=SCENARIOS, default="leak", help=f"{shown} (default: %(default)s)")
    parser.add_argument(
        "--stack", choices=_STACKS, default="local", help="one of its own, or docker compose's (default: %(default)s)"
    )
    parser.add_argument("--keep", action="store_true", help="leave the stack running and print where it is")


def run(arguments: argparse.Namespace) -> int:
    began = time.monotonic()
    scenario = SCENARIOS[arguments.scenario]
    with _STACKS[arguments.stack](arguments) as doors:
        say(f"scenario {scenario.name}: {scenario.shows}")
        numbers = Demo(doors, scenario).run(began)
    print(json.dumps(numbers), flush=True)
    is_whole = numbers["state"] == "success" and not numbers["lost"] and not numbers["duplicates"]
    return 0 if is_whole else 1


@contextmanager
def _local(arguments: argparse.Namespace) -> Iterator[Doors]:
    layout = Layout(arguments.home.resolve())
    layout.demand_room()
    layout.make()
    with exclusive(layout), ExitStack() as cleaning:
        session = Session.started(arguments.home)
        if not arguments.keep:
            cleaning.callback(session.supervisor.down)
        yield session.doors()
        if arguments.keep:
            for name, where in session.addresses():
                say(f"{name:15} {where}")


@contextmanager
def _compose(_: argparse.Namespace) -> Iterator[Doors]:
    # Who started it ends it.
    yield compose.doors()


_STACKS: Final = {"local": _local, "compose": _compose}


class Demo:
    """One scenario on a stack that serves."""

    def __init__(self, doors: Doors, scenario: Scenario) -> None:
        self._doors = doors
        self._scenario = scenario
        self._airflow = Airflow(doors)
        self._store = RunStore.open(doors.store_url)
        self._memory = Memory(doors)

    def run(self, began: float) -> dict[str, Any]:
        """Trigger the DAG, watch it to its end, and count what became of every image."""
        source, truth = self._job()
        params = {"source": source, "pipeline": self._scenario.pipeline, **self._scenario.params}
        dag_run = self._airflow.trigger(params)
        say(f"triggered {self._airflow.url(dag_run)}")
        state = self._watch(dag_run, truth)
        return self._numbers(dag_run, state, truth(), time.monotonic() - began)

    def _job(self) -> tuple[str, Callable[[], JobTruth | None]]:
        scenario, jobs = self._scenario, self._doors.jobs
        register(jobs, scenario.pipeline)
        if scenario.is_manifest:
            made = jobs.create_manifest(f"demo-{int(time.time())}", scenario.kind, scenario.images)
            return self._doors.as_pods_see(made["csv"]), lambda: None
        job = jobs.create_job(scenario.kind, scenario.images, scenario.pipeline)
        return str(job), lambda: jobs.truth(job)

    def _watch(self, dag_run: str, truth: Callable[[], JobTruth | None]) -> str:
        began = time.monotonic()
        console = Console(stderr=True)
        said_at = float("-inf")
        with ExitStack() as screen:
            live = screen.enter_context(Live(console=console, auto_refresh=False)) if console.is_terminal else None
            while True:
                self._doors.demand_alive()
                seconds = time.monotonic() - began
                if seconds > LONGEST_SECONDS:
                    raise NeedsHuman(
                        f"the run has not ended after {LONGEST_SECONDS:.0f} s; look at {self._airflow.url(dag_run)}"
                    )
                try:
                    state = self._airflow.state(dag_run)
                    moment = self._moment(dag_run, truth(), seconds)
                except RetryLater as trouble:
                    say(f"{trouble}; asking again")
                    time.sleep(LINE_SECONDS)
                    continue
                if live is not None:
                    live.update(picture(moment), refresh=True)
                elif moment.seconds - said_at >= LINE_SECONDS or state in OVER:
                    said_at = moment.seconds
                    say(line(moment))
                if state in OVER:
                    return state
                time.sleep(REFRESH_SECONDS)

    def _moment(self, dag_run: str, truth: JobTruth | None, seconds: float) -> Moment:
        run_id = f"{DAG}/{dag_run}"
        slots = slots_of(self._store, run_id)
        prefix = pod_prefix(run_id)
        used = self._memory.by_pod(prefix)
        active = [task["task_id"] for task in self._airflow.tasks(dag_run) if task["state"] in _ACTIVE]
        return Moment(
            seconds=seconds,
            stage=active[0].rpartition(".")[2] if active else "",
            done=truth.totals["answered"] if truth else sum(slot.acked for slot in slots),
            total=truth.totals["images"] if truth else self._scenario.images,
            slots=slots,
            used_bytes={slot.slot: used[name] for slot in slots if (name := f"{prefix}run-{slot.slot}") in used},
            trips=tuple(self._store.trips(run_id)),
        )

    def _numbers(self, dag_run: str, state: str, truth: JobTruth | None, wall_seconds: float) -> dict[str, Any]:
        run = self._store.run(f"{DAG}/{dag_run}")
        if run is None or run.summary is None:
            raise NeedsHuman(f"the run left no summary: look at {self._airflow.url(dag_run)}")
        summary = json.loads(run.summary)
        totals = truth.totals if truth else None
        numbers = {
            "images": totals["images"] if totals else self._scenario.images,
            "acked": totals["saved"] if totals else summary["acked"],
            "lost": totals["images"] - totals["answered"] if totals else self._scenario.images - summary["acked"],
            "duplicates": totals["answered_more_than_once"] if totals else 0,
            **{name: summary[name] for name in _FROM_SUMMARY},
            "wall_seconds": round(wall_seconds, 1),
            "state": state,
            "scenario": self._scenario.name,
        }
        Console(file=sys.stderr).print_json(json.dumps(numbers))
        return numbers


_ACTIVE: Final = frozenset({"running", "deferred", "queued", "scheduled", "up_for_retry"})
_FROM_SUMMARY: Final = (
    "attempts",
    "trips",
    "resizes",
    "relaunches",
    "oom_kills",
    "limit_steps",
    "pause_seconds",
    "images_redone",
)
