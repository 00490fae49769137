"""A run from what was asked for to its plan, and from its last pod to what the baseline learns of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.adapters.examples import RUN_ID, SOURCE, attempt, moved, plan, planned, run, the_slot, trip

from tidegate.adapters.configuration import Configuration
from tidegate.adapters.run_store import JobTaken, Run, RunState, RunStore, StoredTrip
from tidegate.adapters.sources import JobCount, JobStanding
from tidegate.control import closing, planning
from tidegate.control.opening import UNKNOWN_VERSION, baseline_key, judge_input, open_run, source_of
from tidegate.control.runs import SUSPECTS_BYTES, Request, assignment, policy
from tidegate.control.runs import planned as planned_run
from tidegate.core.baseline import BaselineKey, FinishedRun
from tidegate.core.contract import GIB, MIB, ProbeReport, Quantiles, SourceKind, Suspect, TripCause, WorkerReport
from tidegate.core.errors import FixConfig, NeedsHuman, RetryLater
from tidegate.core.remedy import Measure
from tidegate.core.slot import Phase
from tidegate.core.volume import Verdict

SETTINGS = Configuration.model_validate({"antenna_url": SOURCE.uri, "cap_bytes": 16 * GIB})
NOW = 1_700_000_000.0
DAY_SECONDS = 86_400.0


def opened(store: RunStore, run_id: str = RUN_ID, request: Request | None = None, **changes: Any) -> Run:
    return open_run(
        store,
        **{
            "run_id": run_id,
            "dag_run_id": run_id.rpartition("/")[2],
            "source": SOURCE,
            "pipeline": "moths",
            "slots": 2,
            "request": request or Request(),
            "resume_of": None,
            "now": NOW,
            "configuration": SETTINGS,
            **changes,
        },
    )


def counted(standing: JobStanding = JobStanding.OPEN, total: int | None = 100, done: int = 0) -> JobCount:
    return JobCount(standing, done, total, 1, f"the source says {standing}")


def probed(**changes: Any) -> ProbeReport:
    size = Quantiles(p50=20e6, p90=30e6, p99=40e6, max=40e6)
    return ProbeReport(
        **{
            "run_id": RUN_ID,
            "source": SOURCE,
            "pipeline": "moths",
            "model_version": "v7",
            "images_measured": 16,
            "images_sized": 16,
            "decoded_bytes": size,
            "credit_bytes": size,
            "file_bytes": size,
            "floor_bytes": 700 * MIB,
            "peak_bytes": 900 * MIB,
            "download_seconds": 0.2,
            "decode_seconds": 0.1,
            "infer_seconds": 0.5,
            "model_load_seconds": 4.0,
            **changes,
        }
    )


# -- sources -----------------------------------------------------------------------------------------------------------


def test_a_number_is_an_antenna_job_and_a_uri_a_manifest() -> None:
    assert source_of(" 12 ", SETTINGS) == SOURCE.model_copy(update={"job": "12"})
    manifest = source_of("s3://bucket/lists/2026-11-20/night.csv", SETTINGS)
    assert (manifest.kind, manifest.uri) == (SourceKind.MANIFEST, "s3://bucket/lists/2026-11-20/night.csv")
    assert manifest.job.startswith("night.csv-")


def test_lists_of_one_name_in_two_folders_are_two_jobs() -> None:
    one, other = (source_of(f"file:///lists/{night}/night.csv", SETTINGS).job for night in (20, 21))
    assert one != other
    assert one == source_of("file:///lists/20/night.csv", SETTINGS).job


@pytest.mark.parametrize(
    "text",
    ["", "²", "night.csv", "ftp://host/x", "simplecache::s3://b/x", "http://u:hidden@host/x", "https://h/x?sig=hidden",
     "file:///" + 300 * "x"],
)  # fmt: skip
def test_what_is_no_source_is_refused_and_secrets_are_not_repeated(text: str) -> None:
    with pytest.raises(FixConfig) as refused:
        source_of(text, SETTINGS)
    assert "hidden" not in str(refused.value)


@given(st.text(max_size=300))
def test_any_text_is_a_source_or_a_refusal(text: str) -> None:
    try:
        source_of(text, SETTINGS)
        source_of(f"file:///{text}", SETTINGS)
    except FixConfig:
        pass


# -- opening -----------------------------------------------------------------------------------------------------------


def test_a_run_begins_with_the_version_that_its_pipeline_had_last(store: RunStore) -> None:
    assert opened(store, "a/1").model_version == UNKNOWN_VERSION
    store.save_plan("a/1", plan("a/1", model_version="v7"))
    other = SOURCE.model_copy(update={"job": "8"})
    # A run that never got to know its version is no answer.
    opened(store, "a/2", source=other)
    assert opened(store, "a/3", source=other.model_copy(update={"job": "9"})).model_version == "v7"


def test_a_clear_finds_its_run_and_another_run_does_not_take_the_job(store: RunStore) -> None:
    first = opened(store)
    assert opened(store, now=NOW + 60) == first
    with pytest.raises(JobTaken):
        opened(store, "a/other")


def test_an_ended_run_is_opened_again_by_a_clear(store: RunStore) -> None:
    opened(store)
    store.end_run(RUN_ID, RunState.LOCKED_OUT, NOW, "{}", None)
    assert opened(store).state is RunState.RUNNING


@pytest.mark.parametrize(
    "request_",
    [Request(cap_bytes=64 * GIB), Request(limit_bytes=20 * GIB), Request(cap_bytes=GIB, limit_bytes=2 * GIB)],
)
def test_nobody_asks_for_more_than_the_cap(store: RunStore, request_: Request) -> None:
    with pytest.raises(FixConfig, match="cap"):
        opened(store, request=request_)
    assert store.runs() == []


def test_a_run_resumes_one_of_its_own_job_by_the_id_that_airflow_shows(store: RunStore) -> None:
    opened(store, "tidegate/manual__1")
    resumed = opened(store, "tidegate/manual__2", resume_of="manual__1")
    assert resumed.resume_of == "tidegate/manual__1"
    for wrong in ("nobody", "manual__1"):
        with pytest.raises(FixConfig, match="resume_of"):
            opened(store, "tidegate/3", resume_of=wrong, source=SOURCE.model_copy(update={"job": "8"}))


# -- the volume --------------------------------------------------------------------------------------------------------


def with_history(store: RunStore, images: int = 100, *, key: BaselineKey | None = None, **lesson: Any) -> None:
    """Four weeks of nights of `images` images under the key that the next run will have."""
    key = key or baseline_key(run(model_version="v1"))
    for night in range(28):
        name = f"past/{night}"
        store.enter_run(run(name, source=SOURCE.model_copy(update={"job": f"old-{night}"})))
        at = NOW - (28 - night) * DAY_SECONDS
        store.end_run(name, RunState.DONE, at, "{}", (key, FinishedRun(at=at, images=images + night % 3, **lesson)))


def judged(store: RunStore, total: int | None, request: Request | None = None, **changes: Any) -> Any:
    made = run(model_version="v1", request=(request or Request()).to_json(), **changes)
    return judge_input(made, counted(total=total), store, NOW)


def test_a_job_of_the_usual_size_begins(store: RunStore) -> None:
    with_history(store)
    assert judged(store, 104).verdict is Verdict.USUAL


def test_a_job_without_history_or_without_a_size_begins(store: RunStore) -> None:
    assert judged(store, 100).verdict is Verdict.UNKNOWN
    with_history(store)
    assert judged(store, None).verdict is Verdict.UNKNOWN


def test_an_antenna_job_of_unusual_size_begins_with_a_word_and_a_manifest_is_held(store: RunStore) -> None:
    with_history(store)
    assert judged(store, 10_000).verdict is Verdict.UNUSUAL
    with pytest.raises(NeedsHuman, match="on_volume_anomaly"):
        judged(store, 10_000, Request(on_volume_anomaly="hold"))
    assert judged(store, 10_000, Request(on_volume_anomaly="alert")).verdict is Verdict.UNUSUAL


def test_a_job_that_is_closed_upstream_is_not_begun(store: RunStore) -> None:
    with pytest.raises(NeedsHuman, match="retry it there"):
        judge_input(run(), counted(JobStanding.CLOSED), store, NOW)


# -- planning ----------------------------------------------------------------------------------------------------------


def test_a_plan_is_stored_with_every_slot_and_the_probes_version(store: RunStore) -> None:
    made = planning.plan(store, opened(store), probed(), 100, NOW, SETTINGS)
    found = store.run(RUN_ID)
    assert found is not None
    assert (found.plan, found.model_version, made.model_version) == (made, "v7", "v7")
    assert [slot.state.phase for slot in store.slots(RUN_ID)] == [Phase.CLOSED_WAITING] * 2


def test_a_plan_made_again_is_the_plan_made_before(store: RunStore) -> None:
    first = planning.plan(store, opened(store), probed(), 100, NOW, SETTINGS)
    before = the_slot(store)
    store.advance(before, moved(before.state, limit_bytes=2 * first.limit_bytes))
    again = planning.plan(store, opened(store), probed(floor_bytes=GIB, peak_bytes=2 * GIB), 9, NOW, SETTINGS)
    assert again == first
    assert the_slot(store).state.limit_bytes == 2 * first.limit_bytes


def test_without_evidence_the_plan_says_so_first(store: RunStore) -> None:
    made = planning.plan(store, opened(store), None, 100, NOW, SETTINGS)
    assert made.evidence == "default"
    assert made.reasons[0] in planning.in_words(made)


def test_a_dry_run_plans_and_launches_nothing(store: RunStore) -> None:
    opened(store, request=Request(dry_run=True))
    found = store.run(RUN_ID)
    assert found is not None
    assert planning.plan(store, found, probed(), 100, NOW, SETTINGS).limit_bytes > 0
    assert store.slots(RUN_ID) == []


def test_an_image_that_cannot_fit_under_the_cap_needs_a_person(store: RunStore) -> None:
    huge = Quantiles(p50=20e9, p90=20e9, p99=20e9, max=20e9)
    with pytest.raises(NeedsHuman, match="raise the cap"):
        planning.plan(store, opened(store), probed(credit_bytes=huge, decoded_bytes=huge), 100, NOW, SETTINGS)


def test_a_resumed_run_begins_with_the_most_that_any_slot_had_learned(store: RunStore) -> None:
    first = planning.plan(store, opened(store, "a/1"), probed(run_id="a/1"), 100, NOW, SETTINGS)
    stored = store.slot("a/1", 1)
    assert stored is not None
    store.advance(stored, moved(stored.state, limit_bytes=3 * first.limit_bytes))
    resumed = opened(store, "a/2", resume_of="a/1", slots=4)
    planning.plan(store, resumed, probed(run_id="a/2"), 100, NOW, SETTINGS)
    assert [slot.state.limit_bytes // first.limit_bytes for slot in store.slots("a/2")] == [3] * 4


def test_a_limit_that_a_person_fixed_stands_above_what_was_learned(store: RunStore) -> None:
    planning.plan(store, opened(store, "a/1"), probed(run_id="a/1"), 100, NOW, SETTINGS)
    stored = store.slot("a/1", 0)
    assert stored is not None
    store.advance(stored, moved(stored.state, limit_bytes=12 * GIB))
    resumed = opened(store, "a/2", Request(limit_bytes=4 * GIB), resume_of="a/1")
    planning.plan(store, resumed, probed(run_id="a/2"), 100, NOW, SETTINGS)
    assert {slot.state.limit_bytes for slot in store.slots("a/2")} == {4 * GIB}


# -- what a run needs --------------------------------------------------------------------------------------------------


def test_a_request_reads_back_and_one_of_a_newer_release_too() -> None:
    asked = Request(remedies=("relaunch",), cap_bytes=GIB, tolerations=({"key": "gpu"},), node_selector={"zone": "a"})
    assert Request.from_json(asked.to_json()) == asked
    newer = json.loads(asked.to_json()) | {"colour": "green"}
    assert Request.from_json(json.dumps(newer)) == asked
    assert Request.from_json("{}") == Request()


def test_the_policy_allows_what_was_asked_for_and_a_dry_run_nothing() -> None:
    def allowed(request: Request) -> frozenset[Measure]:
        return policy(run(request=request.to_json()), plan(), SETTINGS).means.allowed

    assert allowed(Request()) == frozenset(Measure)
    assert allowed(Request(remedies=("relaunch",))) == {Measure.RELAUNCH}
    assert allowed(Request(remedies=())) == allowed(Request(dry_run=True)) == frozenset()


def test_a_probation_outlasts_the_detectors_cool_down() -> None:
    assert policy(run(), plan(), SETTINGS).probation_seconds >= 60 + 5 * SETTINGS.scrape_seconds


def test_a_slot_that_runs_alone_is_told_so(store: RunStore) -> None:
    made = planned(store)
    state = moved(the_slot(store).state, one_at_a_time=True)
    told = assignment(run(model_version="v1"), made, state, store)
    assert (told.ingest.one_at_a_time, told.ingest.micro_batch_images, told.ingest.decode_threads) == (True, 1, 1)
    assert told.ingest.budget_bytes == made.ingest.budget_bytes


def test_more_suspects_than_an_environment_holds_leave_those_nearest_to_quarantine(store: RunStore) -> None:
    made = planned(store)
    state = the_slot(store).state
    harmless = [Suspect(image_id=f"{number:04}" + 400 * "x") for number in range(300)]
    worst = Suspect(image_id="worst", strikes=2, strikes_alone=1)
    store.advance(the_slot(store), state, attempt=attempt(state), struck=[*harmless, worst])
    told = assignment(run(), made, state, store)
    assert told.suspects[0] == worst
    assert 50 < len(told.suspects) < 300
    assert len(told.to_json().encode()) < SUSPECTS_BYTES + 8_000


def ended_with(store: RunStore, slot: int, stranded: tuple[str, ...]) -> None:
    """A pod of that slot was killed while it held these at their last delivery."""
    before = the_slot(store, slot)
    report = WorkerReport(run_id=RUN_ID, slot=slot, generation=0, phase="running", held_last=stranded)
    pod = attempt(before.state, pod_uid=f"uid-{slot}", ended_at=NOW, end="oom", report=report)
    store.advance(before, moved(before.state, phase=Phase.OPEN_WAITING), attempt=pod)


def test_what_a_killed_pod_held_is_given_up_by_its_own_slot_until_that_one_is_over(store: RunStore) -> None:
    planned(store, slots=2)
    ended_with(store, 0, ("lost-0",))
    ended_with(store, 1, ("lost-1",))
    known, made = planned_run(store.run(RUN_ID), RUN_ID)
    # The successor of slot 1 may still answer it from its disk.
    assert assignment(known, made, the_slot(store).state, store).stranded == ("lost-0",)
    before = the_slot(store, 1)
    store.advance(before, moved(before.state, phase=Phase.LOCKED_OUT))
    assert set(assignment(known, made, the_slot(store).state, store).stranded) == {"lost-0", "lost-1"}


def test_a_source_that_delivers_for_ever_strands_nothing(store: RunStore) -> None:
    planned(store)
    ended_with(store, 0, ("lost-0",))
    known, made = planned_run(store.run(RUN_ID), RUN_ID)
    manifest = SOURCE.model_copy(update={"kind": SourceKind.MANIFEST})
    assert assignment(replace(known, source=manifest), made, the_slot(store).state, store).stranded == ()


def test_a_run_that_is_missing_or_not_planned_is_named() -> None:
    with pytest.raises(FixConfig, match="TIDEGATE_RUN_STORE_URL"):
        planned_run(None, "nobody")
    with pytest.raises(FixConfig, match="plan"):
        planned_run(run(), RUN_ID)


# -- closing -----------------------------------------------------------------------------------------------------------


def test_complete_is_what_the_source_says_whatever_became_of_a_slot(store: RunStore) -> None:
    planned(store)
    locked = moved(the_slot(store).state, phase=Phase.LOCKED_OUT, reason="given up")
    words = closing.verify(counted(JobStanding.COMPLETE, done=100), [locked])
    assert "100 of 100" in words
    assert "given up" in words


def test_an_open_job_is_asked_again_unless_a_slot_can_do_nothing_more(store: RunStore) -> None:
    planned(store)
    state = the_slot(store).state
    with pytest.raises(RetryLater):
        closing.verify(counted(), [moved(state, phase=Phase.DONE)])
    with pytest.raises(NeedsHuman, match="given up"):
        closing.verify(counted(), [moved(state, phase=Phase.LOCKED_OUT, reason="given up")])
    # Its task was marked failed by a person: nobody will launch another pod.
    with pytest.raises(NeedsHuman, match="left in the middle"):
        closing.verify(counted(), [state])


def test_a_job_that_was_closed_upstream_is_a_persons() -> None:
    with pytest.raises(NeedsHuman, match="failed upstream"):
        closing.verify(counted(JobStanding.CLOSED), [])


def reported(**changes: Any) -> WorkerReport:
    return WorkerReport(**{"run_id": RUN_ID, "slot": 0, "generation": 0, "phase": "finished", **changes})


def ran(store: RunStore) -> Run:
    """A run of one slot: killed by its memory after 100 s, started again 20 s later with twice as much, done."""
    made = planned(store)
    before = the_slot(store)
    killed = attempt(
        before.state,
        ended_at=1_000_110.0,
        end="oom",
        report=reported(phase="running", acked=10, peak_bytes=2 * GIB, limit_bytes=2 * GIB, in_flight_omitted=3),
    )
    oom = trip(before.state, cause=TripCause.OOM)
    store.advance(before, before.state, attempt=killed, trip=StoredTrip(oom, "relaunch_larger", "2 to 4 GiB"))
    again = replace(
        killed,
        pod_uid="uid-2",
        limit_bytes=4 * GIB,
        created_at=1_000_130.0,
        ended_at=1_000_230.0,
        end="finished",
        report=reported(acked=90, failed=1, peak_bytes=3 * GIB, limit_bytes=4 * GIB),
    )
    store.advance(the_slot(store), before.state, attempt=again)
    found = store.run(made.run_id)
    assert found is not None
    return found


def test_a_run_is_summed_up_from_its_pods(store: RunStore) -> None:
    summary = closing.summarise(ran(store), store, None, RunState.DONE, 1_000_240.0)
    assert (summary.acked, summary.failed, summary.attempts, summary.relaunches) == (100, 1, 2, 1)
    assert (summary.oom_kills, summary.trips, summary.resizes, summary.images_redone) == (1, 1, 0, 3)
    assert summary.limit_steps == (2 * GIB, 4 * GIB)
    assert (summary.pause_seconds, summary.wall_seconds, summary.peak_bytes) == (20.0, 240.0, 3 * GIB)
    # 100 s of 2 of 2 GiB and 100 s of 3 of 4 GiB.
    assert summary.maq == pytest.approx(5 / 6, abs=0.001)
    assert summary.allocated_gib_hours == pytest.approx(6 * 100 / 3600, abs=0.001)
    assert "answered by relaunch_larger" in closing.in_words(summary, store.trips(RUN_ID))


def test_the_sources_count_is_worth_more_than_the_pods(store: RunStore) -> None:
    summary = closing.summarise(ran(store), store, counted(total=120, done=116), RunState.DONE, NOW)
    assert (summary.images, summary.acked) == (120, 115)


def test_a_run_without_pods_is_summed_up_too(store: RunStore) -> None:
    planned(store)
    summary = closing.summarise(run(), store, None, RunState.FAILED, NOW)
    assert (summary.acked, summary.maq, summary.limit_steps) == (0, 0.0, ())
    assert closing.in_words(summary, [])


def test_a_report_without_history_says_so(store: RunStore) -> None:
    done = ran(store)
    summary = closing.summarise(done, store, None, RunState.DONE, 1_000_240.0)
    words = closing.in_words(closing.with_judged_peak(summary, done, store), [])
    assert "peak against the same weekday: unknown: no history: 0 earlier runs" in words


@pytest.mark.parametrize(("usual_gib", "verdict"), [(3, "usual"), (1, "unusual")])
def test_a_peak_is_reported_against_its_weekday_and_against_the_forecast_side_by_side(
    store: RunStore, usual_gib: int, verdict: str
) -> None:
    done = replace(ran(store), created_at=NOW)
    with_history(store, key=baseline_key(done), peak_bytes=usual_gib * GIB)
    summary = closing.with_judged_peak(closing.summarise(done, store, None, RunState.DONE, NOW + 240), done, store)
    weekday, forecast = closing.in_words(summary, []).splitlines()[-2:]
    assert weekday.startswith(f"- peak against the same weekday: {verdict}: 3.00 GiB")
    if summary.peak_by_forecast is None:
        pytest.skip("Prophet is not installed here: scripts/setup control, or pip install 'tidegate[prophet]'")
    assert forecast.startswith(f"- peak against the forecast: {verdict}: 3.00 GiB")


def test_a_run_is_remembered_by_the_day_on_which_it_began(store: RunStore) -> None:
    done = ran(store)
    a_day_later = done.created_at + DAY_SECONDS
    closing.close(done, store, closing.summarise(done, store, counted(), RunState.DONE, a_day_later), None, a_day_later)
    learnt = store.baseline(baseline_key(done))
    assert learnt is not None
    assert [sample.at for sample in learnt.recent] == [done.created_at]


def test_only_a_run_that_is_done_teaches_and_a_repeated_report_teaches_nothing_more(store: RunStore) -> None:
    done = ran(store)
    for state in (RunState.FAILED, RunState.DONE, RunState.DONE):
        closing.close(done, store, closing.summarise(done, store, counted(), state, NOW), probed(), NOW)
        learnt = store.baseline(baseline_key(done))
        assert (learnt is not None) == (state is RunState.DONE)
    assert learnt is not None
    # It was killed once on the way: its volume counts, its need does not.
    assert (learnt.healthy_runs, learnt.unhealthy_runs, [sample.images for sample in learnt.recent]) == (0, 1, [100])
    found = store.run(RUN_ID)
    assert found is not None
    assert found.summary is not None
    assert json.loads(found.summary)["oom_kills"] == 1
