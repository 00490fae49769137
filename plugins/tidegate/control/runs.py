"""What one run needs put together from its stored record: policy, watch, assignments; nothing is decided here."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, Literal, Self

from tidegate.adapters.configuration import Configuration
from tidegate.adapters.pod_spec import Placement
from tidegate.adapters.run_store import Run, RunStore
from tidegate.core import detector
from tidegate.core.answers import Policy
from tidegate.core.contract import Assignment, Plan, SourceKind, Suspect
from tidegate.core.errors import FixConfig
from tidegate.core.remedy import Means, Measure
from tidegate.core.slot import TERMINAL, SlotState

#: From the order to drain to the pod's end: the kubelet passes the signal on within 2 s; the rest is margin.
DRAIN_MARGIN_SECONDS: Final = 20.0
#: From an order to relaunch to the first image: Airflow's retry, scheduling, start of Python; loading comes on top.
RELAUNCH_SECONDS: Final = 30.0


#: Linux takes 128 KiB in one environment variable; half of it leaves room for whatever else an assignment says.
SUSPECTS_BYTES: Final = 64 * 1024
#: A name each; more than a few are lost only where pods die again and again, and the source gives up the rest itself.
MOST_STRANDED: Final = 1000


@dataclass(frozen=True, slots=True)
class Request:
    """What a person or a schedule asked for, as it is kept with the run."""

    remedies: tuple[str, ...] = ("resize", "relaunch")
    sensitivity: Literal["low", "normal", "high"] = "normal"
    limit_bytes: int | None = None
    cap_bytes: int | None = None
    on_volume_anomaly: Literal["hold", "alert", "fail"] | None = None
    dry_run: bool = False
    node_selector: dict[str, str] | None = None
    tolerations: tuple[dict[str, Any], ...] = ()
    gpu_type: str | None = None

    @classmethod
    def from_json(cls, text: str) -> Self:
        # What a newer release asked for beyond these is not known here.
        values = {name: value for name, value in json.loads(text).items() if name in cls.__dataclass_fields__}
        for name in ("remedies", "tolerations"):
            if name in values:
                values[name] = tuple(values[name])
        return cls(**values)

    def to_json(self) -> str:
        return json.dumps({name: getattr(self, name) for name in self.__dataclass_fields__})

    def placement(self) -> Placement:
        return Placement(self.node_selector or {}, self.tolerations, self.gpu_type)


def open_store(configuration: Configuration, *, migrate: bool = True) -> RunStore:
    """This process's store: a triggerer watches many runs over one pool of connections."""
    home = os.environ.get("AIRFLOW_HOME", str(Path.home() / "airflow"))
    return _opened(configuration.store_url(home), os.getpid(), migrate)


@cache
def _opened(url: str, _process: int, migrate: bool) -> RunStore:
    # A forked process must not share its parent's connections, so the process is part of the key.
    return RunStore.open(url, migrate=migrate)


def planned(run: Run | None, run_id: str) -> tuple[Run, Plan]:
    if run is None:
        raise FixConfig(f"there is no run {run_id} in the run store; is TIDEGATE_RUN_STORE_URL the same everywhere?")
    if run.plan is None:
        raise FixConfig(f"run {run_id} has no plan yet: its task `plan` must end first")
    return run, run.plan


def policy(run: Run, plan: Plan, configuration: Configuration) -> Policy:
    request = Request.from_json(run.request)
    allowed = frozenset() if request.dry_run else frozenset(Measure(name) for name in request.remedies)
    sensitivity = detector.Policy.preset(request.sensitivity)
    # While it cools down the detector holds back; then it needs a whole window to see whether the remedy held.
    probation_seconds = sensitivity.cool_down_seconds + sensitivity.steady_samples * configuration.scrape_seconds
    return Policy(
        means=Means(
            can_resize=configuration.resize,
            restart_seconds=RELAUNCH_SECONDS,
            floor_bytes=plan.floor_bytes,
            allowed=allowed,
        ),
        drain_seconds=plan.grace_seconds + DRAIN_MARGIN_SECONDS,
        probation_seconds=probation_seconds,
    )


def foreseen(plan: Plan) -> detector.Foreseen:
    return detector.Foreseen(
        upper_bytes=plan.upper_bytes,
        baseline_velocity_bytes_per_second=plan.baseline_velocity_bytes_per_second,
        images_per_second=plan.images_per_second,
        budget_bytes=plan.ingest.budget_bytes,
        peak_centre_bytes=plan.usual_peak_bytes,
        peak_scale_bytes=plan.usual_peak_spread_bytes,
    )


def assignment(run: Run, plan: Plan, state: SlotState, store: RunStore) -> Assignment:
    """What the next pod of a slot is told."""
    ingest = plan.ingest
    if state.one_at_a_time:
        ingest = ingest.model_copy(update={"one_at_a_time": True, "micro_batch_images": 1, "decode_threads": 1})
    return Assignment(
        run_id=run.run_id,
        slot=state.slot,
        slots=run.slots,
        generation=state.generation,
        source=run.source,
        pipeline=run.pipeline,
        model_version=run.model_version,
        cap_bytes=state.cap_bytes,
        upper_bytes=plan.upper_bytes,
        ingest=ingest,
        grace_seconds=plan.grace_seconds,
        images_per_second=plan.images_per_second,
        suspects=most_suspect(store.suspects(run.source)),
        stranded=_stranded(run, state.slot, store),
    )


def _stranded(run: Run, slot: int, store: RunStore) -> tuple[str, ...]:
    """What ended pods held at its last delivery and no other slot can still answer from its own disk.

    Of this slot, and of those that are over; the pod that is told of it leases again what it finds on its disk.
    """
    if run.source.kind is not SourceKind.ANTENNA:
        return ()
    over = {each.state.slot for each in store.slots(run.run_id) if each.state.phase in TERMINAL} | {slot}
    ended = [each for each in store.attempts(run.run_id) if each.slot in over and each.ended_at is not None]
    reports = [each.report for each in ended if each.report is not None]
    return tuple(dict.fromkeys(image for report in reports for image in report.stranded))[:MOST_STRANDED]


def most_suspect(suspects: list[Suspect]) -> tuple[Suspect, ...]:
    """As many as an environment variable holds beside the rest of the assignment; those nearest to quarantine first."""
    ranked = sorted(suspects, key=lambda each: (each.strikes_alone, each.strikes), reverse=True)
    sizes = accumulate(len(each.model_dump_json().encode()) for each in ranked)
    return tuple(each for each, size in zip(ranked, sizes, strict=True) if size <= SUSPECTS_BYTES)
