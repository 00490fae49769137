"""The ladder of remedies: the next limit by table and by property, the order of the rungs, what closes each."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.contract import GIB, MIB, Character, Trip, TripCause
from tidegate.core.remedy import (
    LIMIT_STEP_BYTES,
    REMEDIES_WITHOUT_ACK,
    Means,
    Measure,
    Option,
    RemedyKind,
    Situation,
    choose,
    ladder,
    next_limit_bytes,
)

TRIP = Trip(
    run_id="r",
    slot=0,
    generation=1,
    pod_uid="u",
    at=0.0,
    cause=TripCause.VELOCITY,
    character=Character.LOAD,
    limit_bytes=4 * GIB,
    nonreclaimable_bytes=3 * GIB,
    peak_bytes=3 * GIB,
    ratio=0.75,
    velocity_bytes_per_second=20.0 * MIB,
)
LEAK = TRIP.model_copy(update={"character": Character.LEAK})
OOM = TRIP.model_copy(update={"cause": TripCause.OOM, "character": Character.UNKNOWN})
MEANS = Means(can_resize=True, restart_seconds=60.0, floor_bytes=GIB)
RUNNING = Situation(
    limit_bytes=4 * GIB,
    ceiling_bytes=16 * GIB,
    one_at_a_time=False,
    pod_is_alive=True,
    on_probation=False,
    remedies_without_ack=0,
)
DEAD = replace(RUNNING, pod_is_alive=False)
AT_CEILING = replace(RUNNING, limit_bytes=16 * GIB)
ALONE_AT_CEILING = replace(AT_CEILING, one_at_a_time=True)

sizes = st.integers(min_value=0, max_value=64 * GIB)
trips = st.builds(
    lambda cause, character, memory, peak, wanted, projected, velocity: TRIP.model_copy(
        update={
            "cause": cause,
            "character": character,
            "nonreclaimable_bytes": memory,
            "peak_bytes": peak,
            "wanted_bytes": wanted,
            "projected_bytes": projected,
            "velocity_bytes_per_second": velocity,
        }
    ),
    st.sampled_from(TripCause),
    st.sampled_from(Character),
    sizes,
    sizes,
    sizes,
    sizes,
    st.floats(min_value=-GIB, max_value=GIB),
)


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    ceiling = draw(st.integers(min_value=1, max_value=64 * GIB))
    return Situation(
        limit_bytes=draw(st.integers(min_value=1, max_value=ceiling)),
        ceiling_bytes=ceiling,
        one_at_a_time=draw(st.booleans()),
        pod_is_alive=draw(st.booleans()),
        on_probation=draw(st.booleans()),
        remedies_without_ack=draw(st.integers(0, 4)),
        resize_refused=draw(st.sampled_from((None, "deferred"))),
        remaining_seconds=draw(st.none() | st.floats(min_value=0, max_value=1e6)),
        images_in_flight=draw(st.integers(0, 100)),
    )


means = st.builds(
    Means,
    can_resize=st.booleans(),
    restart_seconds=st.floats(min_value=0, max_value=1e4),
    floor_bytes=sizes,
    allowed=st.frozensets(st.sampled_from(Measure)),
)


def kinds(options: tuple[Option, ...]) -> list[RemedyKind]:
    return [option.kind for option in options if option.is_open]


@pytest.mark.parametrize(
    ("facts", "expected_bytes"),
    [
        pytest.param({"peak_bytes": GIB}, 5 * GIB, id="a quarter more where nothing else asks for more"),
        pytest.param({"peak_bytes": 5 * GIB}, 6 * GIB, id="a fifth above the peak"),
        pytest.param({"peak_bytes": 5 * GIB + 1}, 6 * GIB + 256 * MIB, id="a byte too many takes the next step"),
        pytest.param({"wanted_bytes": 9 * GIB + 1}, 9 * GIB + 256 * MIB, id="what a parked image wants"),
        pytest.param({"projected_bytes": 8 * GIB}, 9 * GIB + 256 * MIB, id="15 percent above the projected need"),
        pytest.param({"projected_bytes": 80 * GIB}, 16 * GIB, id="never above the ceiling"),
    ],
)
def test_the_next_limit_is_the_largest_that_the_evidence_asks_for(facts: dict[str, int], expected_bytes: int) -> None:
    trip = TRIP.model_copy(update=facts)
    assert next_limit_bytes(trip, limit_bytes=4 * GIB, ceiling_bytes=16 * GIB) == expected_bytes


def test_a_small_pod_gets_at_least_one_step_above_its_peak() -> None:
    trip = TRIP.model_copy(update={"peak_bytes": 512 * MIB})
    assert next_limit_bytes(trip, limit_bytes=512 * MIB, ceiling_bytes=GIB) == 768 * MIB


def test_a_remedy_that_brought_no_ack_doubles_the_next_step() -> None:
    assert next_limit_bytes(TRIP, limit_bytes=4 * GIB, ceiling_bytes=16 * GIB, remedies_without_ack=1) == 8 * GIB


@given(trips, situations())
def test_the_next_limit_never_falls_never_passes_the_ceiling_and_comes_in_steps(trip: Trip, s: Situation) -> None:
    limit = next_limit_bytes(
        trip,
        limit_bytes=s.limit_bytes,
        ceiling_bytes=s.ceiling_bytes,
        remedies_without_ack=s.remedies_without_ack,
    )
    assert s.limit_bytes <= limit <= s.ceiling_bytes
    assert limit % LIMIT_STEP_BYTES == 0 or limit in (s.limit_bytes, s.ceiling_bytes)


@given(trips, sizes, situations())
def test_a_higher_peak_never_asks_for_less(trip: Trip, more_bytes: int, s: Situation) -> None:
    higher = trip.model_copy(update={"peak_bytes": trip.peak_bytes + more_bytes})
    lower, upper = (
        next_limit_bytes(evidence, limit_bytes=s.limit_bytes, ceiling_bytes=s.ceiling_bytes)
        for evidence in (trip, higher)
    )
    assert lower <= upper


def test_load_is_answered_by_a_resize_then_a_relaunch_and_never_by_crawling_below_the_ceiling() -> None:
    assert kinds(ladder(TRIP, RUNNING, MEANS)) == [
        RemedyKind.RESIZE,
        RemedyKind.RELAUNCH_LARGER,
        RemedyKind.HOLD,
        RemedyKind.LOCK_OUT,
    ]


@pytest.mark.parametrize(
    ("situation", "means_", "word"),
    [
        pytest.param(replace(RUNNING, resize_refused="deferred"), MEANS, "deferred", id="refused by the cluster"),
        pytest.param(replace(RUNNING, on_probation=True), MEANS, "probation", id="a remedy on probation did not hold"),
        pytest.param(RUNNING, replace(MEANS, can_resize=False), "1.33", id="an old cluster"),
        pytest.param(RUNNING, replace(MEANS, allowed=frozenset({Measure.RELAUNCH})), "allowed", id="not allowed"),
        pytest.param(DEAD, MEANS, "gone", id="no pod to resize"),
    ],
)
def test_where_a_resize_is_closed_the_slot_is_relaunched_larger_and_the_reason_is_told(
    situation: Situation, means_: Means, word: str
) -> None:
    chosen = choose(TRIP, situation, means_)
    assert (chosen.kind, chosen.limit_bytes) == (RemedyKind.RELAUNCH_LARGER, 5 * GIB)
    assert word in ladder(TRIP, situation, means_)[0].reason


def test_a_leak_is_recycled_at_the_same_limit() -> None:
    chosen = choose(LEAK, RUNNING, MEANS)
    assert (chosen.kind, chosen.limit_bytes) == (RemedyKind.RECYCLE, 4 * GIB)


def test_a_leak_that_more_memory_outlasts_is_resized_where_that_is_cheaper() -> None:
    slow = LEAK.model_copy(update={"velocity_bytes_per_second": 1.0 * MIB, "nonreclaimable_bytes": 2 * GIB})
    almost_done = replace(RUNNING, remaining_seconds=120.0)
    assert choose(slow, almost_done, MEANS).kind is RemedyKind.RESIZE


def test_a_leak_that_would_fill_the_larger_limit_too_is_not_resized() -> None:
    assert choose(LEAK, replace(RUNNING, remaining_seconds=8 * 3600.0), MEANS).kind is RemedyKind.RECYCLE


def test_a_leak_that_killed_the_pod_climbs() -> None:
    killed = LEAK.model_copy(update={"cause": TripCause.OOM})
    assert choose(killed, DEAD, MEANS).kind is RemedyKind.RELAUNCH_LARGER


def test_a_leak_whose_fresh_pod_trips_on_probation_gets_more_memory() -> None:
    assert choose(LEAK, replace(RUNNING, on_probation=True), MEANS).kind is RemedyKind.RELAUNCH_LARGER


def test_a_leak_at_the_ceiling_is_recycled_before_the_slot_crawls() -> None:
    assert choose(LEAK, AT_CEILING, MEANS).kind is RemedyKind.RECYCLE


@pytest.mark.parametrize("trip", [TRIP, OOM])
def test_at_the_ceiling_images_run_one_at_a_time(trip: Trip) -> None:
    chosen = choose(trip, replace(AT_CEILING, pod_is_alive=trip is not OOM), MEANS)
    assert (chosen.kind, chosen.one_at_a_time, chosen.limit_bytes) == (RemedyKind.ONE_AT_A_TIME, True, 16 * GIB)


@pytest.mark.parametrize("passed", range(REMEDIES_WITHOUT_ACK))
def test_one_at_a_time_at_the_ceiling_goes_on_in_fresh_pods_while_remedies_bring_acks(passed: int) -> None:
    situation = replace(ALONE_AT_CEILING, on_probation=True, remedies_without_ack=passed)
    assert choose(TRIP, situation, MEANS).kind is RemedyKind.RECYCLE


def test_the_slot_is_locked_out_when_two_remedies_pass_without_an_ack_alone_at_the_ceiling() -> None:
    chosen = choose(TRIP, replace(ALONE_AT_CEILING, remedies_without_ack=REMEDIES_WITHOUT_ACK), MEANS)
    assert chosen.kind is RemedyKind.LOCK_OUT
    assert "raise the cap" in chosen.reason


def test_below_the_ceiling_the_slot_is_never_locked_out() -> None:
    assert choose(OOM, replace(DEAD, one_at_a_time=True, remedies_without_ack=9), MEANS).kind is (
        RemedyKind.RELAUNCH_LARGER
    )


def test_with_no_measure_allowed_a_live_pod_is_only_watched_and_a_dead_one_still_relaunched() -> None:
    observing = replace(MEANS, allowed=frozenset())
    assert choose(TRIP, RUNNING, observing).kind is RemedyKind.HOLD
    assert choose(OOM, DEAD, observing).kind is RemedyKind.RELAUNCH_LARGER


@given(trips, situations(), means)
def test_every_choice_respects_what_is_allowed_and_possible(trip: Trip, s: Situation, m: Means) -> None:
    options = ladder(trip, s, m)
    chosen = choose(trip, s, m)
    assert [option.kind for option in options] == list(RemedyKind)
    assert all(option.reason for option in options)
    assert chosen.limit_bytes >= s.limit_bytes
    assert chosen.limit_bytes <= s.ceiling_bytes
    assert chosen.one_at_a_time >= s.one_at_a_time
    if chosen.kind is RemedyKind.RESIZE:
        assert s.pod_is_alive
        assert m.can_resize
        assert Measure.RESIZE in m.allowed
        assert chosen.limit_bytes > s.limit_bytes
    if chosen.kind in (RemedyKind.RECYCLE, RemedyKind.RELAUNCH_LARGER, RemedyKind.ONE_AT_A_TIME):
        assert Measure.RELAUNCH in m.allowed or not s.pod_is_alive
    if chosen.kind is RemedyKind.HOLD:
        assert s.pod_is_alive
    assert (chosen.kind is RemedyKind.LOCK_OUT) == (
        s.one_at_a_time and s.limit_bytes == s.ceiling_bytes and s.remedies_without_ack >= REMEDIES_WITHOUT_ACK
    )


def test_the_price_is_told_in_memory_time_pause_and_images_done_again() -> None:
    situation = replace(DEAD, remaining_seconds=7200.0, images_in_flight=24)
    options = {option.kind: option.cost for option in ladder(OOM, situation, MEANS)}
    # One GiB more for two hours; a relaunch adds 4 GiB idle for a minute.
    assert options[RemedyKind.RESIZE].gib_hours == pytest.approx(2.0)
    assert options[RemedyKind.RELAUNCH_LARGER].gib_hours == pytest.approx(2.0 + 4 / 60)
    assert options[RemedyKind.RECYCLE].gib_hours == pytest.approx(4 / 60)
    assert options[RemedyKind.RELAUNCH_LARGER].pause_seconds == 60.0
    assert options[RemedyKind.RELAUNCH_LARGER].images_redone == 24


def test_a_drained_pod_leaves_no_image_to_be_done_again() -> None:
    situation = replace(RUNNING, images_in_flight=24)
    assert {option.cost.images_redone for option in ladder(TRIP, situation, MEANS)} == {0}
