"""Plans from probes, baselines, both or nothing: what must hold for any evidence, and what a person may rely on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.baseline import Baseline, BaselineKey, FinishedRun
from tidegate.core.contract import GIB, MIB, Plan, ProbeReport, Quantiles, Source, SourceKind
from tidegate.core.errors import ContractMismatch, FixConfig
from tidegate.core.remedy import LIMIT_STEP_BYTES
from tidegate.core.sizing import Caps, ImageTooLarge, InsufficientEvidence, Job, Overrides, plan_run

NOW = 1_700_000_000.0
DAY = 86_400.0
JOB = Job("run", "moths", "2024", NOW, images_total=914)
CAPS = Caps(16 * GIB)


def spread(middle: float, largest: float | None = None) -> Quantiles:
    return Quantiles(p50=middle, p90=middle * 1.1, p99=middle * 1.2, max=largest or middle * 1.3)


def probe(**changes: Any) -> ProbeReport:
    """Camera images of 12 megapixels on two cores: what the public worker dies of."""
    facts: dict[str, Any] = {
        "run_id": "run",
        "source": Source(kind=SourceKind.ANTENNA, job="7"),
        "pipeline": "moths",
        "model_version": "2024",
        "images_measured": 16,
        "images_sized": 16,
        "credit_bytes": spread(100 * MIB),
        "file_bytes": spread(22.5e6),
        "floor_bytes": 800 * MIB,
        "peak_bytes": 1000 * MIB,
        "download_seconds": 0.5,
        "decode_seconds": 0.2,
        "infer_seconds": 0.5,
        "post_seconds": 0.1,
        "model_load_seconds": 12.0,
        "cores": 2.0,
    }
    return ProbeReport(**(facts | changes))


def history(runs: int, last: float = NOW - DAY, **changes: Any) -> Baseline:
    facts: dict[str, Any] = {
        "images": 900,
        "runtime_seconds": 1800.0,
        "peak_bytes": 1300 * MIB,
        "floor_bytes": 800 * MIB,
        "image_bytes": 100 * MIB,
        "largest_image_bytes": 130 * MIB,
        "download_seconds": 0.5,
        "decode_seconds": 0.2,
        "infer_seconds": 0.5,
        "cores": 2.0,
    }
    baseline = Baseline(key=BaselineKey(pipeline="moths", model_version="2024", job_kind="antenna"))
    for night in range(runs):
        baseline = baseline.observe(FinishedRun(at=last - (runs - 1 - night) * DAY, **(facts | changes)))
    return baseline


def planned(*arguments: Any, **named: Any) -> Plan:
    plan = plan_run(*arguments, **named)
    assert isinstance(plan, Plan), plan
    return plan


byte_sizes = st.integers(MIB, 64 * GIB)
seconds = st.floats(0, 100)


@st.composite
def reports(draw: st.DrawFn) -> ProbeReport:
    sizes = sorted(draw(st.lists(st.integers(1, 8 * GIB), min_size=4, max_size=4)))
    p50, p90, p99, largest = map(float, sizes)
    floor = draw(st.integers(0, 20 * GIB))
    return probe(
        credit_bytes=Quantiles(p50=p50, p90=p90, p99=p99, max=largest),
        floor_bytes=floor,
        peak_bytes=draw(st.integers(0, 20 * GIB)),
        growth_bytes_per_image=draw(st.integers(0, 10 * MIB)),
        download_seconds=draw(seconds),
        decode_seconds=draw(seconds),
        infer_seconds=draw(seconds),
        host_to_device_seconds=draw(seconds),
        cores=draw(st.floats(0.1, 64)),
        has_cuda=draw(st.booleans()),
    )


@given(report=reports(), cap=st.integers(256 * MIB, 64 * GIB), total=st.none() | st.integers(0, 10**7))
def test_any_probe_gives_a_valid_plan_within_the_cap_or_says_why_not(
    report: ProbeReport, cap: int, total: int | None
) -> None:
    answer = plan_run(replace(JOB, images_total=total), Caps(cap), report)
    assert not isinstance(answer, InsufficientEvidence)
    assert report.credit_bytes is not None
    one_image = report.floor_bytes + report.credit_bytes.max
    plan = answer if isinstance(answer, Plan) else answer.plan
    if isinstance(answer, ImageTooLarge):
        assert answer.wanted_bytes > one_image
        assert one_image / 0.80 > cap
    if plan is None:
        assert report.floor_bytes + report.credit_bytes.p50 >= cap - 1
        return
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.limit_bytes <= cap
    assert plan.limit_bytes == cap or plan.limit_bytes % LIMIT_STEP_BYTES == 0
    assert plan.limit_bytes >= one_image or isinstance(answer, ImageTooLarge)
    rates = [point.images_per_second for point in plan.curve]
    assert rates == sorted(rates)
    assert plan.ingest.staged_images <= plan.ingest.lease_images


@given(report=reports(), factor=st.floats(1, 20))
def test_larger_images_never_get_a_smaller_limit(report: ProbeReport, factor: float) -> None:
    assert report.credit_bytes is not None
    sizes = report.credit_bytes
    larger = Quantiles(p50=sizes.p50 * factor, p90=sizes.p90 * factor, p99=sizes.p99 * factor, max=sizes.max * factor)
    caps = Caps(10**15)
    small = planned(JOB, caps, report)
    large = planned(JOB, caps, report.model_copy(update={"credit_bytes": larger}))
    assert large.limit_bytes >= small.limit_bytes


@given(report=reports())
def test_the_gate_stays_open_in_steady_state_unless_the_cap_forbids_it(report: ProbeReport) -> None:
    plan = planned(JOB, Caps(10**15), report)
    assert plan.floor_bytes + plan.ingest.budget_bytes <= 0.70 * plan.limit_bytes


def test_large_camera_images_run_in_a_fraction_of_the_memory_that_kills_the_public_worker() -> None:
    plan = planned(JOB, CAPS, probe())
    assert plan.limit_bytes <= 2 * GIB
    assert plan.images_per_second == pytest.approx(1 / (0.5 + 0.2 / 2))
    assert plan.evidence == "probe"


def test_file_size_moves_the_disk_but_not_the_memory() -> None:
    small, large = planned(JOB, CAPS, probe(file_bytes=spread(1e5))), planned(JOB, CAPS, probe(file_bytes=spread(2e8)))
    assert small.limit_bytes == large.limit_bytes
    assert small.ingest.budget_bytes == large.ingest.budget_bytes
    assert small.ingest.staging_bytes < large.ingest.staging_bytes


def test_a_slow_source_is_hidden_by_staging_and_a_fast_one_keeps_the_disk_empty() -> None:
    slow = planned(JOB, CAPS, probe(download_seconds=8.0, infer_seconds=0.1))
    fast = planned(JOB, CAPS, probe(download_seconds=0.01, infer_seconds=0.1))
    assert slow.ingest.downloads_in_flight > 8 * fast.ingest.downloads_in_flight
    assert slow.ingest.staged_images > fast.ingest.staged_images
    assert slow.ingest.budget_bytes <= fast.ingest.budget_bytes


def test_batches_are_large_for_small_images_and_single_for_huge_ones() -> None:
    gpu = {"has_cuda": True, "infer_seconds": 0.02, "cores": 8.0}
    assert planned(JOB, CAPS, probe(credit_bytes=spread(5 * MIB), **gpu)).ingest.micro_batch_images == 24
    assert planned(JOB, CAPS, probe(credit_bytes=spread(500 * MIB), **gpu)).ingest.micro_batch_images == 1


@pytest.mark.parametrize(
    ("has_cuda", "copy_seconds", "infer_seconds", "pinned"),
    [
        (True, 0.02, 0.05, True),
        (True, 0.02, 1.0, False),
        (False, 0.02, 0.05, False),
        (True, 0.0, 0.0, False),
    ],
)
def test_memory_is_pinned_only_where_copies_to_the_device_matter(
    has_cuda: bool, copy_seconds: float, infer_seconds: float, pinned: bool
) -> None:
    report = probe(has_cuda=has_cuda, host_to_device_seconds=copy_seconds, infer_seconds=infer_seconds)
    assert planned(JOB, CAPS, report).ingest.pin_memory is pinned


def test_under_the_cap_the_worker_is_slower_and_the_curve_says_what_memory_would_buy() -> None:
    report = probe(credit_bytes=spread(400 * MIB))
    tight, roomy = planned(JOB, Caps(2 * GIB), report), planned(JOB, CAPS, report)
    assert tight.limit_bytes == 2 * GIB
    assert tight.images_per_second < roomy.images_per_second
    assert [point.limit_bytes for point in roomy.curve] == [1 * GIB, 2 * GIB, 4 * GIB, 8 * GIB, 16 * GIB]
    assert roomy.curve[0].images_per_second == 0
    assert roomy.curve[-1].images_per_second == pytest.approx(roomy.images_per_second)
    assert any("would saturate" in reason for reason in tight.reasons)
    assert not any("would saturate" in reason for reason in roomy.reasons)


def test_an_image_that_cannot_run_under_the_cap_is_named_with_the_limit_it_wants() -> None:
    answer = plan_run(JOB, Caps(4 * GIB), probe(credit_bytes=spread(100 * MIB, 6 * GIB)))
    assert isinstance(answer, ImageTooLarge)
    assert answer.wanted_bytes == 8.5 * GIB
    assert answer.plan is not None
    assert answer.plan.limit_bytes == 4 * GIB
    assert "6.00 GiB" in answer.reason


def test_models_that_leave_no_room_for_any_image_get_no_plan() -> None:
    answer = plan_run(JOB, Caps(1 * GIB), probe(floor_bytes=1 * GIB))
    assert isinstance(answer, ImageTooLarge)
    assert answer.plan is None
    assert "raise the cap" in answer.reason


@given(
    lease=st.floats(10, 3600),
    grace=st.floats(30, 600),
    infer=st.floats(0.01, 120),
    download=st.floats(0, 60),
)
def test_leases_are_never_more_than_lease_and_grace_let_the_worker_answer(
    lease: float, grace: float, infer: float, download: float
) -> None:
    plan = planned(
        JOB,
        Caps(16 * GIB, lease_seconds=lease, grace_seconds=grace),
        probe(infer_seconds=infer, download_seconds=download),
    )
    assert 30 <= plan.grace_seconds <= max(grace, 30)
    work_seconds = plan.ingest.lease_images / plan.images_per_second
    assert plan.ingest.lease_images == 1 or work_seconds <= min(lease / 3, plan.grace_seconds - 15) + 1e-6


def test_an_image_slower_than_lease_and_grace_is_warned_of() -> None:
    slow, quick = planned(JOB, CAPS, probe(infer_seconds=200.0)), planned(JOB, CAPS, probe())
    assert slow.ingest.lease_images == 1
    assert any("delivered twice" in reason for reason in slow.reasons)
    assert not any("delivered twice" in reason for reason in quick.reasons)


def test_a_leak_is_named_as_velocity_and_buys_at_most_a_tenth_more_memory() -> None:
    tight, leaking = planned(JOB, CAPS, probe()), planned(JOB, CAPS, probe(growth_bytes_per_image=5 * MIB))
    assert tight.baseline_velocity_bytes_per_second == 0
    assert leaking.baseline_velocity_bytes_per_second == pytest.approx(5 * MIB * leaking.images_per_second)
    assert tight.limit_bytes < leaking.limit_bytes <= 1.1 * tight.limit_bytes + LIMIT_STEP_BYTES


def test_without_any_evidence_the_answer_is_its_own_type_with_a_safe_plan() -> None:
    answer = plan_run(JOB, CAPS)
    assert isinstance(answer, InsufficientEvidence)
    assert answer.plan.evidence == "default"
    assert answer.plan.ingest.one_at_a_time
    assert answer.plan.ingest.lease_images == 1
    assert answer.plan.limit_bytes == 4 * GIB


@pytest.mark.parametrize("blind", [{"credit_bytes": None}, {"images_measured": 0}])
def test_a_probe_that_measured_nothing_is_no_evidence_but_its_floor_counts(blind: dict[str, Any]) -> None:
    answer = plan_run(JOB, CAPS, probe(floor_bytes=6 * GIB, **blind))
    assert isinstance(answer, InsufficientEvidence)
    assert answer.plan.limit_bytes >= (6 * GIB + GIB) / 0.70
    assert "0 images" in answer.reason or "16 images" in answer.reason


def test_five_fresh_healthy_runs_stand_in_for_a_probe_and_four_do_not() -> None:
    assert planned(JOB, CAPS, baseline=history(5)).evidence == "baseline"
    assert isinstance(plan_run(JOB, CAPS, baseline=history(4)), InsufficientEvidence)


def test_stale_runs_do_not_stand_in_for_a_probe() -> None:
    answer = plan_run(JOB, CAPS, baseline=history(8, last=NOW - 40 * DAY))
    assert isinstance(answer, InsufficientEvidence)
    assert "too old" in answer.reason


def test_a_plan_from_baselines_is_like_the_plan_from_a_probe_of_the_same_job() -> None:
    by_probe, by_baseline = planned(JOB, CAPS, probe()), planned(JOB, CAPS, baseline=history(8))
    assert by_baseline.images_per_second == pytest.approx(by_probe.images_per_second, rel=0.06)
    assert abs(by_baseline.limit_bytes - by_probe.limit_bytes) <= 2 * LIMIT_STEP_BYTES


def test_peaks_above_what_images_explain_raise_the_plan_from_baselines() -> None:
    calm, hungry = (planned(JOB, CAPS, baseline=history(8, peak_bytes=size)) for size in (1200 * MIB, 5 * GIB))
    assert calm.limit_bytes <= 2 * GIB
    assert 5 * GIB / 0.80 <= hungry.limit_bytes <= 1.5 * 5 * GIB / 0.80


def test_the_usual_peak_of_healthy_runs_goes_with_every_plan_that_has_seen_enough_of_them() -> None:
    for answer in (planned(JOB, CAPS, probe(), history(8)), planned(JOB, CAPS, baseline=history(8))):
        assert answer.usual_peak_bytes == pytest.approx(1300 * MIB, rel=0.001)
        assert 0 < answer.usual_peak_spread_bytes < 100 * MIB
    assert planned(JOB, CAPS, probe()).usual_peak_bytes == planned(JOB, CAPS, probe(), history(2)).usual_peak_bytes == 0
    unknown = plan_run(JOB, CAPS, baseline=history(8, last=NOW - 40 * DAY))
    assert isinstance(unknown, InsufficientEvidence)
    assert unknown.plan.usual_peak_bytes == pytest.approx(1300 * MIB, rel=0.001)


def test_a_probe_beside_baselines_takes_its_own_images_and_the_larger_floor() -> None:
    plan = planned(JOB, CAPS, probe(floor_bytes=700 * MIB), history(5, floor_bytes=1400 * MIB, image_bytes=GIB))
    assert plan.evidence == "probe+baseline"
    assert plan.floor_bytes >= 1400 * MIB
    assert plan.ingest.budget_bytes < GIB


def test_a_limit_given_by_a_person_stands_even_if_it_is_tight() -> None:
    plan = planned(JOB, CAPS, probe(), overrides=Overrides(limit_bytes=900 * MIB))
    assert plan.limit_bytes == 900 * MIB
    assert plan.ingest.one_at_a_time
    assert any("given by a person" in reason for reason in plan.reasons)
    assert any("parked until the limit is raised" in reason for reason in plan.reasons)


def test_a_limit_given_above_the_cap_is_cut_to_the_cap_and_says_so() -> None:
    plan = planned(JOB, CAPS, probe(), overrides=Overrides(limit_bytes=64 * GIB))
    assert plan.limit_bytes == 16 * GIB
    assert any("64.00 GiB were asked for" in reason for reason in plan.reasons)


def test_ingest_settings_fixed_by_a_person_stand_and_are_named() -> None:
    fixed = Overrides(
        budget_bytes=3 * GIB,
        micro_batch_images=2,
        downloads_in_flight=3,
        staged_images=5,
        lease_images=50,
        pin_memory=True,
    )
    plan = planned(JOB, CAPS, probe(), overrides=fixed)
    assert plan.ingest.model_dump() | fixed.ingest() == plan.ingest.model_dump()
    assert plan.limit_bytes >= (3 * GIB + 800 * MIB) / 0.70
    assert any("lease_images = 50" in reason for reason in plan.reasons)


def test_a_fixed_budget_beyond_a_fixed_limit_is_kept_with_a_warning() -> None:
    plan = planned(JOB, CAPS, probe(), overrides=Overrides(limit_bytes=2 * GIB, budget_bytes=4 * GIB))
    assert plan.ingest.budget_bytes == 4 * GIB
    assert any("gate will close" in reason for reason in plan.reasons)


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: Caps(0), "cap_bytes"),
        (lambda: Caps(GIB, staging_bytes=0), "staging_bytes"),
        (lambda: Caps(GIB, lease_seconds=float("nan")), "lease_seconds"),
        (lambda: Caps(GIB, grace_seconds=5), "grace_seconds"),
        (lambda: Overrides(limit_bytes=0), "limit_bytes"),
        (lambda: Overrides(micro_batch_images=-1), "micro_batch_images"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(build: Any, name: str) -> None:
    with pytest.raises(FixConfig, match=name):
        build()


@pytest.mark.parametrize(
    ("job", "report", "baseline", "field"),
    [
        (replace(JOB, run_id="other"), probe(), None, "run_id"),
        (replace(JOB, pipeline="orders"), probe(), None, "pipeline"),
        (JOB, probe(model_version="2023"), None, "model_version"),
        (replace(JOB, pipeline="orders"), None, history(5), "key.pipeline"),
    ],
)
def test_evidence_of_another_job_is_refused_by_field(
    job: Job, report: ProbeReport | None, baseline: Baseline | None, field: str
) -> None:
    with pytest.raises(ContractMismatch) as refused:
        plan_run(job, CAPS, report, baseline)
    assert refused.value.field == field
