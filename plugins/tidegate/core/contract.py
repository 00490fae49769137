"""Every payload that crosses a process border, the exit codes, the metric names; nothing beyond parsing and printing.

| payload        | from -> to               | carried by                                        |
|----------------|--------------------------|---------------------------------------------------|
| `ProbeReport`  | probe pod -> planner     | termination message (<= 4 KB)                     |
| `Plan`         | planner -> run store, UI | JSON column                                       |
| `Assignment`   | Airflow -> worker pod    | env variable `TIDEGATE_PLAN`                      |
| `WorkerReport` | worker pod -> Airflow    | termination message (<= 4 KB), journal while running |
| `Trip`         | breaker -> run store     | JSON column, alert, report                        |

Readers tolerate unknown fields and refuse an unknown `schema_version`: a newer writer may add, never re-mean.
All times are unix seconds, all sizes bytes; sizes of images are decoded bytes, for the size of a file predicts nothing.
"""

from __future__ import annotations

import json
from enum import IntEnum, StrEnum
from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from tidegate.core.errors import ContractMismatch

SCHEMA_VERSION: Final = 1
#: Versions that this code reads. A version leaves only with the golden files that prove it in tests/contract.
READABLE_VERSIONS: Final = frozenset({1})

PLAN_ENV: Final = "TIDEGATE_PLAN"
#: The kubelet keeps this much of /dev/termination-log.
TERMINATION_MESSAGE_BYTES: Final = 4096
METRICS_PORT: Final = 9464
EXPORTER_PORT: Final = 9465
#: An Antenna server delivers a task twice, and then never again. Manifests are delivered until they are answered.
LAST_DELIVERY: Final = 2
#: How operators mark worker pods and how scrapers, the chart and people find them.
WORKER_LABELS: Final = {"app.kubernetes.io/name": "tidegate", "app.kubernetes.io/component": "worker"}

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB


class ExitCode(IntEnum):
    """What a worker's exit says; 137 is observed by others, never emitted."""

    DONE = 0
    FAILURE_BUDGET_SPENT = 65
    UPSTREAM_UNAVAILABLE = 69
    DRAINED = 75
    CONFIGURATION = 78
    KILLED = 137


class SourceKind(StrEnum):
    ANTENNA = "antenna"
    MANIFEST = "manifest"


class TripCause(StrEnum):
    VELOCITY = "velocity"
    STARVED = "starved"
    OOM = "oom"


class Character(StrEnum):
    """Why memory grows: a leak is answered by recycling, load by more memory."""

    LEAK = "leak"
    LOAD = "load"
    UNKNOWN = "unknown"


class Metric:
    """Names of the series that the worker exports and the breaker, the rules and the dashboards query."""

    #: The only series of a worker with facts of its run: run_id, slot, generation, job_id, pipeline, model_version,
    #: node. `job_id` and not `job`, which is the scrape's own label.
    RUN_INFO: Final = "tidegate_run_info"
    MEMORY_NONRECLAIMABLE: Final = "tidegate_memory_nonreclaimable_bytes"
    MEMORY_LIMIT: Final = "tidegate_memory_limit_bytes"
    MEMORY_WANTED: Final = "tidegate_memory_wanted_bytes"
    MEMORY_BUDGET: Final = "tidegate_memory_budget_bytes"
    MEMORY_IN_FLIGHT: Final = "tidegate_memory_in_flight_bytes"
    MEMORY_PLAN_UPPER: Final = "tidegate_memory_plan_upper_bytes"
    GATE_CLOSED_SECONDS: Final = "tidegate_gate_closed_seconds_total"
    GATE_CLOSED: Final = "tidegate_gate_closed"
    IMAGES_ACKED: Final = "tidegate_images_acked_total"
    IMAGES_QUARANTINED: Final = "tidegate_images_quarantined_total"
    IMAGES_FAILED: Final = "tidegate_images_failed_total"
    IMAGES_REDELIVERED: Final = "tidegate_images_redelivered_total"
    IMAGES_LEASED: Final = "tidegate_images_leased"
    LEASE_OLDEST_SECONDS: Final = "tidegate_lease_oldest_seconds"
    #: Absent where no lease is held that runs out.
    LEASE_REMAINING_SECONDS: Final = "tidegate_lease_remaining_seconds"
    STAGE_SECONDS: Final = "tidegate_stage_seconds"
    STAGE_OCCUPANCY: Final = "tidegate_stage_occupancy"
    STAGING_BYTES: Final = "tidegate_staging_bytes"
    #: What is answered stays on disk while there is room, so a budget that is used up is no trouble; a full disk is.
    STAGING_BUDGET: Final = "tidegate_staging_budget_bytes"
    STAGING_DISK_FREE: Final = "tidegate_staging_disk_free_bytes"
    STAGING_DISK: Final = "tidegate_staging_disk_bytes"
    OPEN_FDS: Final = "tidegate_open_fds"
    MAX_FDS: Final = "tidegate_max_fds"
    GPU_MEMORY: Final = "tidegate_gpu_memory_bytes"
    OOM_KILLS: Final = "tidegate_oom_kills_total"


class StoreMetric:
    """Names of the series that `tidegate exporter` reads from the run store; they outlive pods.

    A run is told of while it runs and for a day after its end. Labels beside the named ones: none, so that they mean
    the same however they are scraped; `worker_pod` is the worker's, `pod` would be the exporter's own.
    """

    # By run_id and slot.
    #: 1; with generation, job_id, pipeline, model_version, node, worker_namespace, worker_pod: for joins.
    SLOT_INFO: Final = "tidegate_slot_info"
    #: 1 for the phase that holds (label `state`), 0 for the others.
    BREAKER_STATE: Final = "tidegate_breaker_state"
    #: When the breaker last had fresh samples of the slot's pod; none where there is no pod.
    BREAKER_SEEN_AT: Final = "tidegate_breaker_seen_timestamp_seconds"
    #: When it last tripped, by label `cause`; with generation and node of the pod that it tripped on.
    BREAKER_TRIP_AT: Final = "tidegate_breaker_trip_timestamp_seconds"
    #: How long the memory limit was still away at that trip.
    BREAKER_LEAD_SECONDS: Final = "tidegate_breaker_lead_seconds"
    #: 1 while a trouble (label `trouble`) that the breaker told of stands.
    SLOT_TROUBLE: Final = "tidegate_slot_trouble"
    SLOT_LIMIT: Final = "tidegate_slot_limit_bytes"
    SLOT_CAP: Final = "tidegate_slot_cap_bytes"
    #: How long the slot has been without a running pod; 0 while one runs.
    SLOT_PAUSED_SECONDS: Final = "tidegate_slot_paused_seconds"
    #: Judged from how the pods ended: restart counters know nothing of pods that never restart.
    SLOT_OOM_KILLS: Final = "tidegate_slot_oom_kills_total"
    #: With generation and node of the pod that was killed.
    SLOT_OOM_KILL_AT: Final = "tidegate_slot_oom_kill_timestamp_seconds"

    # By run_id.
    #: 1; with state, job_id, pipeline, model_version.
    RUN_STATE: Final = "tidegate_run_state"
    RUN_IMAGES: Final = "tidegate_run_images"
    RUN_ACKED: Final = "tidegate_run_images_acked"
    RUN_QUARANTINED: Final = "tidegate_run_images_quarantined"
    RUN_REDONE: Final = "tidegate_run_images_redone"
    RUN_PEAK: Final = "tidegate_run_peak_bytes"
    #: Memory allocation quality: byte-seconds used over byte-seconds allocated.
    RUN_MAQ: Final = "tidegate_run_memory_allocation_quality_ratio"
    RUN_ALLOCATED: Final = "tidegate_run_memory_allocated_byte_seconds"
    #: The input against that of the same weekday; absent without history.
    VOLUME_RATIO: Final = "tidegate_volume_ratio"
    VOLUME_Z: Final = "tidegate_volume_zscore"
    VOLUME_UNUSUAL: Final = "tidegate_volume_unusual"
    #: The peak of healthy runs on the same weekday: median, and robust sigma of its logarithm; absent without history.
    BASELINE_PEAK: Final = "tidegate_baseline_peak_bytes"
    BASELINE_PEAK_SPREAD: Final = "tidegate_baseline_peak_log_spread"
    #: Absent where no healthy run has told.
    BASELINE_VELOCITY: Final = "tidegate_baseline_velocity_bytes_per_second"

    # By pipeline and model_version: sums over the whole store, which only grow.
    #: Also by state; a gauge, for runs change theirs.
    RUNS: Final = "tidegate_runs"
    #: Also by cause.
    TRIPS: Final = "tidegate_breaker_trips_total"
    OOM_KILLS_RECORDED: Final = "tidegate_oom_kills_recorded_total"
    IMAGES_REDONE: Final = "tidegate_images_redone_total"
    PAUSE_SECONDS: Final = "tidegate_pause_seconds_total"
    MEMORY_ALLOCATED: Final = "tidegate_memory_allocated_byte_seconds_total"
    MEMORY_USED: Final = "tidegate_memory_used_byte_seconds_total"
    #: By pipeline, model_version, job_kind and weekday (0 is Monday): the median peak of healthy runs.
    WEEKDAY_PEAK: Final = "tidegate_baseline_weekday_peak_bytes"
    #: By pipeline, model_version and job_kind.
    HEALTHY_RUNS: Final = "tidegate_baseline_healthy_runs"

    #: 1; where people read: labels `dashboards` and `docs`, bases of the links in alerts.
    LINKS_INFO: Final = "tidegate_links_info"


def _version(value: int) -> int:
    if value not in READABLE_VERSIONS:
        raise ValueError(f"version {value} is not known here (readable: {sorted(READABLE_VERSIONS)})")
    return value


#: What a BIGINT column holds; it also bounds what an integer takes of a termination message.
_MAX_INTEGER: Final = 2**63 - 1
Bytes = Annotated[int, Field(ge=0, le=_MAX_INTEGER)]
PositiveBytes = Annotated[int, Field(gt=0, le=_MAX_INTEGER)]
Seconds = Annotated[float, Field(ge=0)]
Ratio = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0, le=_MAX_INTEGER)]
PositiveCount = Annotated[int, Field(ge=1, le=_MAX_INTEGER)]
UnixSeconds = Annotated[float, Field(ge=0)]
Name = Annotated[str, Field(min_length=1, max_length=253)]


class Part(BaseModel):
    """A value inside a payload."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)


class Payload(Part):
    """A value that travels alone: it says its version, and refuses what it does not know."""

    #: Writers need not name it; a text that lacks it is refused by `from_json`.
    schema_version: Annotated[int, AfterValidator(_version)] = SCHEMA_VERSION

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The payload in `text`, or a ContractMismatch that names the first wrong field."""
        try:
            payload = cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise ContractMismatch(cls.__name__, ".".join(map(str, first["loc"])), first["msg"]) from None
        if "schema_version" not in payload.model_fields_set:
            raise ContractMismatch(cls.__name__, "schema_version", "Field required")
        return payload

    def to_json(self) -> str:
        """Compact JSON with absent options left out: small enough for env variables and termination messages."""
        return json.dumps(self.model_dump(mode="json", exclude_none=True), separators=(",", ":"), ensure_ascii=False)


class Quantiles(Part):
    """A distribution in four numbers, in the unit of the field that holds it."""

    p50: Annotated[float, Field(ge=0)]
    p90: Annotated[float, Field(ge=0)]
    p99: Annotated[float, Field(ge=0)]
    max: Annotated[float, Field(ge=0)]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.p50 <= self.p90 <= self.p99 <= self.max:
            raise ValueError("quantiles must not decrease from p50 to max")
        return self


class Source(Part):
    """Where the images come from. `uri` is the manifest's or the Antenna API's, never with a query or a token."""

    kind: SourceKind
    uri: Name | None = None
    job: Name


class ProbeReport(Payload):
    """What a probe measured on the job's own images."""

    run_id: Name
    source: Source
    pipeline: Name
    model_version: Name
    images_measured: Count
    images_sized: Count
    images_total: Count | None = None
    #: Full-resolution decoded size of one image (width x height x channels x sample bytes).
    decoded_bytes: Quantiles | None = None
    #: Byte credits of one image by the worker's cost model: decoding, the decoded image, crops and float workspace.
    credit_bytes: Quantiles | None = None
    file_bytes: Quantiles | None = None
    #: Non-reclaimable memory with the models loaded and no image in flight.
    floor_bytes: Bytes
    #: Highest non-reclaimable memory seen during the probe.
    peak_bytes: Bytes
    #: Memory that stays after an image is done, as a robust slope per image.
    growth_bytes_per_image: Bytes = 0
    download_seconds: Seconds = 0.0
    decode_seconds: Seconds = 0.0
    #: Per image, at the micro-batch the probe used.
    infer_seconds: Seconds = 0.0
    post_seconds: Seconds = 0.0
    #: Per image; zero where there is no device.
    host_to_device_seconds: Seconds = 0.0
    model_load_seconds: Seconds = 0.0
    cores: Annotated[float, Field(gt=0)] = 1.0
    has_cuda: bool = False
    acked: Count = 0
    failed: Count = 0
    duration_seconds: Seconds = 0.0


class IngestSettings(Part):
    """How much a worker takes in at a time; each is a bound, none is a target."""

    #: Byte credits admitted to decoding at once (beyond one image, which may always run alone).
    budget_bytes: PositiveBytes
    micro_batch_images: PositiveCount
    downloads_in_flight: PositiveCount
    #: Images kept on disk ahead of decoding.
    staged_images: PositiveCount
    staging_bytes: PositiveBytes
    decode_threads: PositiveCount
    lease_images: PositiveCount
    pin_memory: bool = False
    one_at_a_time: bool = False


class CurvePoint(Part):
    """Throughput that a limit would buy."""

    limit_bytes: PositiveBytes
    images_per_second: Annotated[float, Field(ge=0)]


class Plan(Payload):
    """Memory and ingest settings for one run, with the reasons a person can check."""

    run_id: Name
    pipeline: Name
    model_version: Name
    #: Request and limit of the pod: equal, so that the node's promise is the pod's ceiling.
    limit_bytes: PositiveBytes
    cap_bytes: PositiveBytes
    floor_bytes: Bytes
    #: Non-reclaimable memory expected: seldom below lower, usually at target, above upper only if something is wrong.
    lower_bytes: Bytes
    target_bytes: Bytes
    upper_bytes: Bytes
    ingest: IngestSettings
    grace_seconds: Annotated[float, Field(ge=30)]
    startup_seconds: Annotated[float, Field(ge=60)]
    images_per_second: Annotated[float, Field(ge=0)]
    images_total: Count | None = None
    #: What the breaker calls normal growth; zero where no healthy run has told.
    baseline_velocity_bytes_per_second: Annotated[float, Field(ge=0)] = 0.0
    #: The usual peak of comparable healthy runs and how far peaks scatter; zero where too few have told.
    usual_peak_bytes: Bytes = 0
    usual_peak_spread_bytes: Bytes = 0
    curve: tuple[CurvePoint, ...] = ()
    evidence: Literal["probe", "baseline", "probe+baseline", "default"]
    reasons: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.limit_bytes > self.cap_bytes:
            raise ValueError(f"limit_bytes {self.limit_bytes} is above cap_bytes {self.cap_bytes}")
        if not self.lower_bytes <= self.target_bytes <= self.upper_bytes:
            raise ValueError("lower_bytes <= target_bytes <= upper_bytes does not hold")
        return self


class JournalEntry(Part):
    """An image that a worker held when it last wrote: enough to answer it from outside."""

    image_id: Annotated[str, Field(min_length=1, max_length=512)]
    reply_subject: Annotated[str, Field(max_length=512)] | None = None
    delivery: PositiveCount = 1
    alone: bool = False


class Suspect(Part):
    """An image that was in flight when a pod was killed by its own memory or a crash; `strikes` counts those kills."""

    image_id: Annotated[str, Field(min_length=1, max_length=512)]
    reply_subject: Annotated[str, Field(max_length=512)] | None = None
    strikes: PositiveCount = 1
    #: How many of the strikes fell while it was the only image in flight.
    strikes_alone: Count = 0

    @model_validator(mode="after")
    def _alone_are_strikes(self) -> Self:
        if self.strikes_alone > self.strikes:
            raise ValueError("strikes_alone cannot exceed strikes")
        return self


class Assignment(Payload):
    """All that one worker pod is told: which share of which run, how much it may take in, whom it must distrust."""

    run_id: Name
    slot: Count
    slots: PositiveCount = 1
    #: Rises with every pod and every remedy of a slot; a late command or report of an older one is ignored.
    generation: Count
    source: Source
    pipeline: Name
    model_version: Name
    cap_bytes: PositiveBytes
    upper_bytes: Bytes = 0
    ingest: IngestSettings
    grace_seconds: Annotated[float, Field(ge=30)]
    images_per_second: Annotated[float, Field(ge=0)] = 0.0
    suspects: tuple[Suspect, ...] = ()
    #: Images that earlier pods held at their last delivery when they ended: no lease may bring them any more.
    stranded: tuple[Annotated[str, Field(min_length=1, max_length=512)], ...] = ()


class WorkerReport(Payload):
    """The worker's last words: rewritten before each decode, final when it ends; read also after a kill."""

    run_id: Name
    slot: Count
    generation: Count
    phase: Literal["running", "finished"]
    exit_code: ExitCode | None = None
    #: In words, for people; the facts are in the other fields.
    reason: Annotated[str, Field(max_length=600)] = ""
    acked: Count = 0
    failed: Count = 0
    quarantined: Count = 0
    redelivered: Count = 0
    #: Leased and not answered: in flight while running, left behind when finished.
    in_flight: tuple[JournalEntry, ...] = ()
    in_flight_omitted: Count = 0
    #: Held at its last delivery and not in flight: with the pod it is lost to a source that does not deliver it again.
    held_last: tuple[Annotated[str, Field(min_length=1, max_length=512)], ...] = ()
    limit_bytes: Bytes = 0
    floor_bytes: Bytes = 0
    peak_bytes: Bytes = 0
    growth_bytes_per_image: Bytes = 0
    #: The smallest limit under which the largest parked image would be admitted; zero when none is parked.
    wanted_bytes: Bytes = 0
    gate_closed_seconds: Seconds = 0.0
    job_complete: bool = False

    @property
    def stranded(self) -> tuple[str, ...]:
        """Images that end with the pod, where its disk does: the source delivers them no more."""
        last = (entry.image_id for entry in self.in_flight if entry.delivery >= LAST_DELIVERY)
        return (*last, *self.held_last)

    def to_message(self, max_bytes: int = TERMINATION_MESSAGE_BYTES) -> bytes:
        """The report cut to a termination message: entries that do not fit are counted in `in_flight_omitted`."""
        kept = self
        while len(message := kept.to_json().encode()) > max_bytes:
            if kept.held_last:
                # What is left out here the source gives up by itself, later; suspects nobody else can name.
                kept = kept.model_copy(update={"held_last": kept.held_last[: len(kept.held_last) // 2]})
                continue
            entries = len(kept.in_flight)
            if entries > 1 or (entries and not kept.reason):
                drop = max(1, entries * (len(message) - max_bytes) // len(message))
                kept = kept.model_copy(
                    update={
                        "in_flight": kept.in_flight[:-drop],
                        "in_flight_omitted": kept.in_flight_omitted + drop,
                    }
                )
            elif kept.reason:
                # Words give way to the last fact.
                kept = kept.model_copy(update={"reason": kept.reason[: len(kept.reason) // 2]})
            else:
                raise ValueError(f"a report of {len(message)} bytes without entries and reason exceeds {max_bytes}")
        return message


class Trip(Payload):
    """One trip of the breaker with the evidence on which it fell."""

    run_id: Name
    slot: Count
    generation: Count
    pod_uid: Name
    at: UnixSeconds
    cause: TripCause
    character: Character
    limit_bytes: PositiveBytes
    nonreclaimable_bytes: Bytes
    peak_bytes: Bytes
    wanted_bytes: Bytes = 0
    ratio: Ratio
    velocity_bytes_per_second: float
    #: Seconds to the limit at this velocity; absent where memory does not grow.
    limit_in_seconds: Seconds | None = None
    projected_bytes: Bytes = 0
    evidence: tuple[str, ...] = ()
