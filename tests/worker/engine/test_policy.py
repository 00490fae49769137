"""The pure decisions: gate, admission, suspicion, leases, rate, growth, back-off; tables and properties."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.contract import GIB, MIB, Suspect
from tidegate_worker.policy.admission import Situation, Verdict, judge, wanted_bytes
from tidegate_worker.policy.backoff import delay_seconds
from tidegate_worker.policy.failure_budget import spent
from tidegate_worker.policy.gate import ALONE_RATIO, CLOSE_RATIO, Gate, Reading
from tidegate_worker.policy.growth import Growth
from tidegate_worker.policy.leasing import allowance, request
from tidegate_worker.policy.rate import Rate
from tidegate_worker.policy.suspicion import Handling, handling
from tidegate_worker.policy.unreachable import Certain, certain

LIMIT = 1 * GIB


def reading(ratio: float, limit_bytes: int = LIMIT) -> Reading:
    return Reading(nonreclaimable_bytes=int(ratio * limit_bytes), limit_bytes=limit_bytes)


ratios = st.lists(st.floats(0.0, 1.2), max_size=60)


@given(ratios)
def test_the_gate_is_closed_from_close_until_below_open(seen: list[float]) -> None:
    gate = Gate.opened(256 * MIB)
    for ratio in seen:
        before, gate = gate, gate.after(reading(ratio), 0.2)
        actual = reading(ratio).ratio
        if actual >= CLOSE_RATIO:
            assert gate.closed
        elif actual < 0.70:
            assert not gate.closed
        else:
            assert gate.closed == before.closed, "between the two it stays as it was"


@given(ratios)
def test_the_budget_stays_between_its_floor_and_the_plans(seen: list[float]) -> None:
    gate = Gate.opened(256 * MIB)
    for ratio in seen:
        gate = gate.after(reading(ratio), 0.2)
        assert 8 * MIB <= gate.budget_bytes <= 256 * MIB


@given(ratios)
def test_closed_seconds_count_closed_time_alone(seen: list[float]) -> None:
    gate, closed_seconds = Gate.opened(256 * MIB), 0.0
    for ratio in seen:
        if gate.closed:
            closed_seconds += 0.2
        gate = gate.after(reading(ratio), 0.2)
    assert gate.closed_seconds == pytest.approx(closed_seconds)


def test_each_closing_halves_the_budget_and_open_time_restores_it() -> None:
    gate = Gate.opened(256 * MIB).after(reading(0.85), 0.2)
    assert gate.budget_bytes == 128 * MIB
    gate = gate.after(reading(0.85), 0.2)
    assert gate.budget_bytes == 128 * MIB, "one closing, one cut"
    gate = gate.after(reading(0.5), 0.2)
    for _ in range(200):
        gate = gate.after(reading(0.5), 0.2)
    assert gate.budget_bytes == 256 * MIB


def test_a_larger_limit_opens_the_gate_and_does_not_raise_the_budget_above_the_plans() -> None:
    gate = Gate.opened(256 * MIB).after(reading(0.85), 0.2)
    used = int(0.85 * LIMIT)
    gate = gate.after(Reading(used, 2 * LIMIT), 0.2)
    assert not gate.closed
    for _ in range(1000):
        gate = gate.after(Reading(used, 2 * LIMIT), 0.2)
    assert gate.budget_bytes == 256 * MIB


def situation(
    limit_bytes: int = LIMIT,
    floor_bytes: int = 400 * MIB,
    idle_bytes: int = 400 * MIB,
    cap_bytes: int = 4 * GIB,
    budget_bytes: int = 256 * MIB,
    gate_closed: bool = False,
    in_flight_images: int = 0,
    in_flight_bytes: int = 0,
    occupied: bool = False,
    one_at_a_time: bool = False,
) -> Situation:
    return Situation(
        limit_bytes=limit_bytes,
        floor_bytes=floor_bytes,
        idle_bytes=idle_bytes,
        cap_bytes=cap_bytes,
        budget_bytes=budget_bytes,
        gate_closed=gate_closed,
        in_flight_images=in_flight_images,
        in_flight_bytes=in_flight_bytes,
        occupied=occupied,
        one_at_a_time=one_at_a_time,
    )


BUSY = {"in_flight_images": 1, "in_flight_bytes": 100 * MIB}


@pytest.mark.parametrize(
    ("cost_mib", "alone", "changes", "verdict"),
    [
        (100, False, {}, Verdict.ADMIT),
        (100, False, BUSY, Verdict.ADMIT),
        (200, False, BUSY, Verdict.WAIT),
        (100, True, {}, Verdict.ADMIT_ALONE),
        (100, True, BUSY, Verdict.WAIT),
        (10, False, BUSY | {"occupied": True}, Verdict.WAIT),
        (300, False, {}, Verdict.ADMIT_ALONE),
        (300, False, BUSY, Verdict.WAIT),
        (100, False, {"gate_closed": True}, Verdict.ADMIT_ALONE),
        (100, False, BUSY | {"gate_closed": True}, Verdict.WAIT),
        (100, False, BUSY | {"one_at_a_time": True}, Verdict.WAIT),
        (600, False, {}, Verdict.PARK),
        (600, False, BUSY, Verdict.PARK),
        (300, False, {"idle_bytes": 800 * MIB}, Verdict.PARK),
        (4000, False, {}, Verdict.REFUSE),
        # A leak parks, for a relaunch mends it; it never condemns an image.
        (300, False, {"idle_bytes": 3900 * MIB}, Verdict.PARK),
        # The plan's budget is no promise where the limit is small.
        (200, False, {"limit_bytes": 700 * MIB}, Verdict.ADMIT_ALONE),
    ],
)
def test_admission(cost_mib: int, alone: bool, changes: dict[str, int], verdict: Verdict) -> None:
    assert judge(cost_mib * MIB, alone, situation(**changes)) is verdict  # type: ignore[arg-type]


costs = st.integers(1, 6 * GIB)


@given(
    cost=costs,
    alone=st.booleans(),
    limit=st.integers(64 * MIB, 8 * GIB),
    idle=st.integers(0, 2 * GIB),
    leaked=st.integers(0, GIB),
    kept=st.integers(0, GIB),
    gate_closed=st.booleans(),
    one_at_a_time=st.booleans(),
)
def test_with_nothing_in_flight_nobody_waits(
    cost: int, alone: bool, limit: int, idle: int, leaked: int, kept: int, gate_closed: bool, one_at_a_time: bool
) -> None:
    """The absence of a deadlock: an image goes in, wants more memory, or is refused; for waiting there is no reason."""
    verdict = judge(
        cost,
        alone,
        situation(
            limit_bytes=limit,
            floor_bytes=idle,
            idle_bytes=idle + leaked,
            in_flight_bytes=kept,
            gate_closed=gate_closed,
            one_at_a_time=one_at_a_time,
        ),
    )
    assert verdict is not Verdict.WAIT


@given(
    cost=costs,
    limit=st.integers(64 * MIB, 8 * GIB),
    idle=st.integers(0, 2 * GIB),
    budget=st.integers(1, 2 * GIB),
    in_flight=st.integers(0, 2 * GIB),
    alone=st.booleans(),
    gate_closed=st.booleans(),
)
def test_what_is_admitted_fits_under_the_limit(
    cost: int, limit: int, idle: int, budget: int, in_flight: int, alone: bool, gate_closed: bool
) -> None:
    here = situation(
        limit_bytes=limit,
        floor_bytes=idle,
        idle_bytes=idle,
        budget_bytes=budget,
        in_flight_images=int(in_flight > 0),
        in_flight_bytes=in_flight,
        gate_closed=gate_closed,
    )
    verdict = judge(cost, alone, here)
    if verdict is Verdict.ADMIT:
        assert in_flight + cost <= budget
        assert idle + in_flight + cost <= CLOSE_RATIO * limit
        assert not gate_closed
        assert not alone
    if verdict is Verdict.ADMIT_ALONE:
        assert not in_flight
        assert idle + cost <= ALONE_RATIO * limit


@given(cost=costs, base=st.integers(0, 2 * GIB))
def test_under_the_limit_that_it_wanted_an_image_is_let_in(cost: int, base: int) -> None:
    limit = wanted_bytes(cost, base)
    here = situation(limit_bytes=limit, floor_bytes=base, idle_bytes=base, cap_bytes=limit)
    assert judge(cost, True, here) is Verdict.ADMIT_ALONE


@pytest.mark.parametrize(
    ("strikes", "strikes_alone", "last_delivery", "expected"),
    [
        (None, 0, False, Handling.BESIDE_OTHERS),
        (None, 0, True, Handling.ALONE),
        (1, 0, False, Handling.ALONE),
        (1, 1, False, Handling.ALONE),
        (2, 0, True, Handling.ALONE),
        (2, 1, False, Handling.QUARANTINE),
        (2, 2, True, Handling.QUARANTINE),
        (5, 1, False, Handling.QUARANTINE),
    ],
)
def test_suspicion(strikes: int | None, strikes_alone: int, last_delivery: bool, expected: Handling) -> None:
    suspect = None if strikes is None else Suspect(image_id="x", strikes=strikes, strikes_alone=strikes_alone)
    assert handling(suspect, last_delivery) is expected


@pytest.mark.parametrize(
    ("rate", "lease_seconds", "grace_seconds", "most", "expected"),
    [
        (0.0, 300, 60, 24, 4),
        (2.0, 300, 600, 1000, 200),
        (2.0, 300, 45, 1000, 60),
        (2.0, 300, 45, 24, 24),
        (0.01, 300, 45, 24, 1),
        (2.0, float("inf"), 45, 1000, 60),
        (100.0, 300, 10, 1000, 1),
    ],
)
def test_leases_hold_what_can_be_answered(
    rate: float, lease_seconds: float, grace_seconds: float, most: int, expected: int
) -> None:
    assert allowance(rate, lease_seconds, grace_seconds, most) == expected


@given(held=st.integers(0, 100), allowed=st.integers(1, 100))
def test_a_request_never_exceeds_what_is_allowed_and_one_image_is_always_asked_for(held: int, allowed: int) -> None:
    wanted = request(held, allowed)
    assert wanted >= 0
    assert held + wanted <= max(held, allowed)
    assert wanted > 0 or held > 0


def test_the_rate_is_that_of_the_work_and_not_of_the_waiting() -> None:
    rate = Rate()
    rate.started(0.0)
    for second in range(1, 21):
        rate.done(float(second), 2)
    assert rate.images_per_second(20.0) == pytest.approx(2.0)
    rate.idle()
    assert rate.images_per_second(500.0) == pytest.approx(2.0)
    rate.started(500.0)
    assert rate.images_per_second(501.0) == pytest.approx(2.0), "too few images to know better"


def test_the_rate_follows_a_slowing_worker() -> None:
    rate = Rate(prior_images_per_second=50.0)
    rate.started(0.0)
    for image in range(1, 40):
        rate.done(image * 5.0)
    assert rate.images_per_second(195.0) == pytest.approx(0.2, rel=0.2)


@given(
    leak=st.integers(0, 10 * MIB),
    images=st.integers(64, 2000),
    swing=st.lists(st.integers(0, 300 * MIB), min_size=40, max_size=40),
)
def test_growth_is_what_stays_and_not_what_swings(leak: int, images: int, swing: list[int]) -> None:
    growth = Growth()
    for done in range(images):
        # Each image passes its low point and some high ones.
        growth.saw(done, 400 * MIB + leak * done + swing[done % 40])
        growth.saw(done, 400 * MIB + leak * done)
    assert growth.bytes_per_image() == pytest.approx(leak, rel=0.05, abs=MIB // 64)


def test_too_few_readings_are_no_growth() -> None:
    growth = Growth()
    for done in range(4):
        growth.saw(done, done * GIB)
    assert growth.bytes_per_image() is None


@given(failures=st.integers(1, 100), dice=st.floats(0, 1, exclude_max=True))
def test_back_off_is_bounded_and_never_undercuts_what_it_was_told(failures: int, dice: float) -> None:
    assert 0.5 <= delay_seconds(failures, None, dice) <= 60
    assert delay_seconds(failures, 30.0, dice) >= 30.0


def test_back_off_grows() -> None:
    delays = [delay_seconds(failures, None, 0.5) for failures in range(1, 8)]
    assert all(later > sooner for sooner, later in pairwise(delays[:6]))


@pytest.mark.parametrize(
    ("failed", "done", "expected"), [(0, 0, False), (9, 9, False), (10, 19, True), (10, 20, False), (600, 1000, True)]
)
def test_the_failure_budget(failed: int, done: int, expected: bool) -> None:
    assert spent(failed, done, most_ratio=0.5, fewest_failures=10) is expected


@pytest.mark.parametrize(
    ("killers", "stranded", "remaining", "still", "answered"),
    [
        (1, 2, 3, 5.0, Certain.NOTHING),
        (1, 2, 3, 20.0, Certain.ALL),
        (1, 2, 2, 20.0, Certain.KILLERS),
        (1, 2, 2, 400.0, Certain.KILLERS),
        (1, 2, 9, 20.0, Certain.NOTHING),
        (1, 2, 9, 400.0, Certain.ALL),
        (1, 2, 0, 400.0, Certain.NOTHING),
        (1, 2, None, 20.0, Certain.NOTHING),
        (1, 2, None, 400.0, Certain.KILLERS),
    ],
)
def test_only_what_nobody_else_can_hold_or_have_answered_is_answered_with_an_error(
    killers: int, stranded: int, remaining: int | None, still: float, answered: Certain
) -> None:
    assert certain(killers, stranded, remaining, still, lease_seconds=300.0) is answered
