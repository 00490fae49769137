"""The reading of a scrape as metric families, by the contract's names; judges nothing."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tidegate.adapters.configuration import Configuration
from tidegate.adapters.run_store import RunState, StoredSlot, Totals
from tidegate.adapters.run_store.totals import OOM
from tidegate.core.baseline import Baseline
from tidegate.core.contract import GIB, TripCause
from tidegate.core.contract import StoreMetric as Name
from tidegate.core.slot import Phase
from tidegate.core.volume import Verdict, weekday
from tidegate.exporter.reading import Reader, Told

_KIND: Final = ("pipeline", "model_version")
_SLOT: Final = ("run_id", "slot")
#: Of the pod that an event befell: an alert about it must not change when the next pod runs elsewhere.
_WHERE: Final = ("generation", "node")
_GIB_HOUR: Final = GIB * 3600.0


class StoreCollector(Collector):
    def __init__(self, reader: Reader, configuration: Configuration, clock: Callable[[], float] = time.time) -> None:
        self._reader = reader
        self._configuration = configuration
        self._clock = clock

    def describe(self) -> Iterable[Metric]:
        # Nothing is read of the store before the first scrape.
        return ()

    def collect(self) -> Iterator[Metric]:
        reading = self._reader.read(self._clock())
        yield from self._slots(reading.runs, reading.at)
        yield from _trips(reading.runs)
        yield from _runs(reading.runs)
        yield from _comparisons(reading.runs)
        yield from _totals(reading.totals)
        yield from _baselines(reading.baselines)
        yield self._links()

    def _slots(self, runs: Sequence[Told], now: float) -> Iterator[Metric]:
        info = _gauge(
            Name.SLOT_INFO,
            "Facts of a slot of a run, for joins.",
            *_SLOT,
            "generation",
            "job_id",
            *_KIND,
            "node",
            "worker_namespace",
            "worker_pod",
        )
        state = _gauge(Name.BREAKER_STATE, "1 for the state of the breaker that holds.", *_SLOT, "state")
        seen = _gauge(Name.BREAKER_SEEN_AT, "When the breaker last saw the slot.", *_SLOT)
        trouble = _gauge(Name.SLOT_TROUBLE, "1 while a trouble stands that the breaker told of.", *_SLOT, "trouble")
        limit = _gauge(Name.SLOT_LIMIT, "Memory limit of the pod, or of the next where there is none.", *_SLOT)
        cap = _gauge(Name.SLOT_CAP, "The limit that the slot may not pass.", *_SLOT)
        paused = _gauge(Name.SLOT_PAUSED_SECONDS, "How long nothing of the slot has run.", *_SLOT)
        for told, slot in _each_slot(runs):
            key = _key(told, slot)
            info.add_metric([*key, *self._facts(told, slot)], 1)
            for phase in Phase:
                state.add_metric([*key, phase.value], phase is slot.state.phase)
            if (at := told.seen_at(slot, now)) is not None:
                seen.add_metric(key, at)
            if slot.state.alert is not None and told.run.state is RunState.RUNNING:
                trouble.add_metric([*key, slot.state.alert.name], 1)
            limit.add_metric(key, slot.state.limit_bytes)
            cap.add_metric(key, slot.state.cap_bytes)
            paused.add_metric(key, told.paused_seconds(slot, now))
        yield from (info, state, seen, trouble, limit, cap, paused)

    def _facts(self, told: Told, slot: StoredSlot) -> list[str]:
        run, attempt = told.run, told.attempt(slot.state.slot)
        return [
            str(slot.state.generation),
            run.source.job,
            run.pipeline,
            run.model_version,
            (attempt.node or "") if attempt else "",
            self._configuration.namespace,
            attempt.pod_name if attempt else "",
        ]

    def _links(self) -> Metric:
        family = _gauge(Name.LINKS_INFO, "Where people read: bases of the links in alerts.", "dashboards", "docs")
        bases = (self._configuration.dashboards_url, self._configuration.docs_url)
        family.add_metric([base.rstrip("/") for base in bases], 1)
        return family


def _trips(runs: Sequence[Told]) -> Iterator[Metric]:
    tripped = _gauge(Name.BREAKER_TRIP_AT, "When the breaker of a slot last tripped.", *_SLOT, "cause", *_WHERE)
    lead = _gauge(Name.BREAKER_LEAD_SECONDS, "How long the limit was still away at the last trip.", *_SLOT)
    kills = CounterMetricFamily(Name.SLOT_OOM_KILLS, "Pods killed for their memory limit, by verdict.", labels=_SLOT)
    killed = _gauge(Name.SLOT_OOM_KILL_AT, "When a pod of the slot was last killed for its limit.", *_SLOT, *_WHERE)
    for told, slot in _each_slot(runs):
        key = _key(told, slot)
        # In the store's order, by time: the last of a cause replaces those before it.
        newest = {each.trip.cause: each.trip for each in told.trips if each.trip.slot == slot.state.slot}
        for trip in newest.values():
            tripped.add_metric([*key, trip.cause.value, str(trip.generation), told.node(trip.pod_uid)], trip.at)
        if leads := [(trip.at, trip.limit_in_seconds) for trip in newest.values() if trip.limit_in_seconds is not None]:
            lead.add_metric(key, max(leads)[1])
        ends = [each for each in told.attempts if each.slot == slot.state.slot and each.end == OOM]
        kills.add_metric(key, len(ends))
        if ends:
            last = max(ends, key=lambda each: each.ended_at or 0.0)
            killed.add_metric([*key, str(last.generation), last.node or ""], last.ended_at or last.created_at)
    yield from (tripped, lead, kills, killed)


def _runs(runs: Sequence[Told]) -> Iterator[Metric]:
    state = _gauge(Name.RUN_STATE, "1, with the state of a run.", "run_id", "state", "job_id", *_KIND)
    images = _gauge(Name.RUN_IMAGES, "Images of the job, where its source tells.", "run_id")
    acked = _gauge(Name.RUN_ACKED, "Images answered for good, as far as the store knows.", "run_id")
    quarantined = _gauge(Name.RUN_QUARANTINED, "Images not tried again, by pods that have ended.", "run_id")
    redone = _gauge(Name.RUN_REDONE, "Images in flight when a pod ended without answering.", "run_id")
    peak = _gauge(Name.RUN_PEAK, "Highest memory of a pod that has ended.", "run_id")
    maq = _gauge(Name.RUN_MAQ, "Byte-seconds used over byte-seconds allocated.", "run_id")
    allocated = _gauge(Name.RUN_ALLOCATED, "Byte-seconds of memory that pods were given.", "run_id")
    for told in runs:
        run, measured, key = told.run, told.measured, [told.run.run_id]
        state.add_metric([*key, run.state.value, run.source.job, run.pipeline, run.model_version], 1)
        if run.images_offered is not None:
            images.add_metric(key, run.images_offered)
        acked.add_metric(key, told.acked)
        quarantined.add_metric(key, measured.quarantined)
        redone.add_metric(key, measured.images_redone)
        if measured.peak_bytes:
            peak.add_metric(key, measured.peak_bytes)
        if run.state is not RunState.RUNNING:
            # What a living pod uses is not known before its end.
            maq.add_metric(key, measured.maq)
        allocated.add_metric(key, measured.allocated_gib_hours * _GIB_HOUR)
    yield from (state, images, acked, quarantined, redone, peak, maq, allocated)


def _comparisons(runs: Sequence[Told]) -> Iterator[Metric]:
    ratio = _gauge(Name.VOLUME_RATIO, "Images over the usual number of the same weekday.", "run_id")
    z = _gauge(Name.VOLUME_Z, "Robust z-score of the number of images.", "run_id")
    unusual = _gauge(Name.VOLUME_UNUSUAL, "1 where the number of images is far from usual.", "run_id")
    peak = _gauge(Name.BASELINE_PEAK, "Median peak of healthy runs of the same weekday.", "run_id")
    spread = _gauge(Name.BASELINE_PEAK_SPREAD, "Robust sigma of the logarithm of those peaks.", "run_id")
    velocity = _gauge(Name.BASELINE_VELOCITY, "Growth of memory that healthy runs have shown.", "run_id")
    for told in runs:
        key = [told.run.run_id]
        if told.volume is not None and told.volume.ratio is not None and told.volume.z is not None:
            ratio.add_metric(key, told.volume.ratio)
            z.add_metric(key, told.volume.z)
            unusual.add_metric(key, told.volume.verdict is Verdict.UNUSUAL)
        if told.usual_peak is not None:
            peak.add_metric(key, told.usual_peak.median_bytes)
            spread.add_metric(key, told.usual_peak.log_spread)
        if told.run.plan is not None and told.run.plan.baseline_velocity_bytes_per_second > 0:
            velocity.add_metric(key, told.run.plan.baseline_velocity_bytes_per_second)
    yield from (ratio, z, unusual, peak, spread, velocity)


def _totals(totals: Totals) -> Iterator[Metric]:
    runs = _gauge(Name.RUNS, "Runs in the store, by state.", *_KIND, "state")
    trips = CounterMetricFamily(Name.TRIPS, "Trips of breakers, by cause.", labels=[*_KIND, "cause"])
    for kind in totals.kinds:
        # Zeros too: the first of its kind must be an increase.
        for state in RunState:
            runs.add_metric([*kind, state.value], totals.runs[(*kind, state.value)])
        for cause in TripCause:
            trips.add_metric([*kind, cause.value], totals.trips[(*kind, cause.value)])
    yield from (runs, trips)
    for name, text, sums in (
        (Name.OOM_KILLS_RECORDED, "Pods killed for their memory limit, by verdict.", totals.oom_kills),
        (Name.IMAGES_REDONE, "Images in flight when a pod ended without answering.", totals.images_redone),
        (Name.PAUSE_SECONDS, "Time between the end of a pod and the next of its slot.", totals.pause_seconds),
        (Name.MEMORY_ALLOCATED, "Memory that pods were given, over time.", totals.allocated_byte_seconds),
        (Name.MEMORY_USED, "Memory that pods used at their peak, over time.", totals.used_byte_seconds),
    ):
        family = CounterMetricFamily(name, text, labels=_KIND)
        for kind in totals.kinds:
            family.add_metric(kind, sums.get(kind, 0))
        yield family


def _baselines(baselines: Sequence[Baseline]) -> Iterator[Metric]:
    peaks = _gauge(Name.WEEKDAY_PEAK, "Median peak of healthy runs, by weekday.", *_KIND, "job_kind", "weekday")
    healthy = _gauge(Name.HEALTHY_RUNS, "Healthy runs that the baseline has learnt from.", *_KIND, "job_kind")
    for baseline in baselines:
        key = [baseline.key.pipeline, baseline.key.model_version, baseline.key.job_kind]
        healthy.add_metric(key, baseline.healthy_runs)
        by_day: dict[int, list[int]] = defaultdict(list)
        for sample in baseline.recent:
            if sample.peak_bytes is not None:
                by_day[weekday(sample.at)].append(sample.peak_bytes)
        for day, found in sorted(by_day.items()):
            peaks.add_metric([*key, str(day)], statistics.median(found))
    yield from (peaks, healthy)


def _each_slot(runs: Sequence[Told]) -> Iterator[tuple[Told, StoredSlot]]:
    return ((told, slot) for told in runs for slot in told.slots)


def _key(told: Told, slot: StoredSlot) -> list[str]:
    return [told.run.run_id, str(slot.state.slot)]


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=labels)
