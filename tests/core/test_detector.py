"""The detector trips in time on what runs out of memory, and on nothing else."""

from __future__ import annotations

import math
import pickle
import random
from collections.abc import Callable, Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.core.contract import GIB, Character, TripCause
from tidegate.core.detector import (
    Assessment,
    Detector,
    Foreseen,
    Policy,
    Sample,
    ratio_signal,
    velocity_signal,
    zscore_signal,
)

LIMIT = 8.0 * GIB
Shape = Callable[[float], float]


def sampled(
    shape: Shape, until: float, interval: float = 5.0, noise: float = 0.001, **series: Shape
) -> Iterator[Sample]:
    """Samples of a pod whose memory is `shape(t)` times the limit; `series` are Sample's other fields over time."""
    rng = random.Random(7)
    t = interval / 3
    while t < until:
        memory = max(0.0, shape(t) + rng.gauss(0, noise)) * LIMIT
        yield Sample(t, memory, LIMIT, **{name: value(t) for name, value in series.items()})
        t += interval * rng.uniform(0.98, 1.02)


def judged(
    samples: Iterable[Sample], foreseen: Foreseen | None = None, policy: Policy | None = None
) -> list[Assessment]:
    """One assessment a sample, half a second after it."""
    detector = Detector(policy, foreseen)
    found = []
    for sample in samples:
        detector.observe(sample)
        found.append(detector.assess(sample.t_seconds + 0.5))
    return found


def trips(samples: Iterable[Sample], foreseen: Foreseen | None = None) -> list[tuple[float, Assessment]]:
    """Times and assessments of all trips."""
    kept = list(samples)
    return [
        (sample.t_seconds, assessment)
        for sample, assessment in zip(kept, judged(kept, foreseen), strict=True)
        if assessment.trip is not None
    ]


def plateau(level: float, load_seconds: float = 30.0) -> Shape:
    return lambda t: level * min(1.0, 0.05 + t / load_seconds)


def ramp(base: float, onset: float, seconds: float) -> Shape:
    flat = plateau(base)
    return lambda t: flat(t) + (1 - base) * max(0.0, t - onset) / seconds


def sawtooth(low: float, high: float, period: float) -> Shape:
    flat = plateau(low)
    return lambda t: flat(t) + (high - low) * ((t % period) / period if t > 60 else 0.0)


def burst(base: float, top: float, at: float, fill: float, hold: float) -> Shape:
    flat = plateau(base)

    def shape(t: float) -> float:
        share = min(1.0, max(0.0, (t - at) / fill)) * min(1.0, max(0.0, 1 - (t - at - fill - hold) / fill))
        return flat(t) + (top - base) * share

    return shape


# --- memory that runs out ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interval", [5.0, 15.0, 30.0])
@pytest.mark.parametrize("seconds", [240.0, 900.0, 3600.0, 10800.0])
def test_a_ramp_trips_in_time_for_a_relaunch_and_not_before_it_begins(interval: float, seconds: float) -> None:
    found = trips(sampled(ramp(0.4, 1000, seconds), 1000 + seconds, interval))
    assert found, "no trip"
    at, assessment = found[0]
    assert 1000 < at <= 1000 + seconds - 60
    assert assessment.trip is TripCause.VELOCITY
    assert assessment.velocity_bytes_per_second == pytest.approx(0.6 * LIMIT / seconds, rel=0.5)


def test_a_leak_of_hours_trips_in_its_last_minutes_only() -> None:
    at, _ = trips(sampled(ramp(0.4, 600, 3 * 3600), 600 + 3 * 3600, 15.0))[0]
    assert at > 600 + 3 * 3600 - 900


def test_growth_beside_a_load_that_comes_and_goes_trips_in_time() -> None:
    def load(t: float) -> float:
        return 0.15 * (1 + math.sin(t / 20))

    grown = ramp(0.35, 1000, 300)
    found = trips(
        sampled(
            lambda t: min(0.95, grown(t) + load(t)) if t < 1250 else grown(t),
            1300,
            in_flight_bytes=lambda t: load(t) * LIMIT,
        ),
        Foreseen(upper_bytes=0.7 * LIMIT, budget_bytes=0.3 * LIMIT),
    )
    assert found
    assert 1000 < found[0][0] < 1190


def test_the_evidence_of_a_trip_names_the_memory_the_velocity_and_the_time_left() -> None:
    _, assessment = trips(sampled(ramp(0.4, 500, 300), 800))[0]
    text = " ".join(assessment.evidence)
    assert "GiB of 8.00 GiB" in text
    assert "MiB/s" in text
    assert "reaches the limit in" in text
    assert assessment.limit_in_seconds is not None
    assert assessment.projected_bytes > assessment.nonreclaimable_bytes


def test_a_leak_is_told_from_load_by_growth_per_image() -> None:
    leak = trips(sampled(ramp(0.4, 500, 600), 1100, acked=lambda t: 3 * t, in_flight_bytes=lambda _: 0.05 * LIMIT))
    assert leak[0][1].character is Character.LEAK
    grown = ramp(0.4, 500, 600)
    load = trips(
        sampled(
            grown, 1100, acked=lambda t: 3 * t, in_flight_bytes=lambda t: (grown(t) - 0.35) * LIMIT if t > 60 else 0.0
        )
    )
    assert load[0][1].character is Character.LOAD


# --- memory that does not ---------------------------------------------------------------------------------------------

HARMLESS: dict[str, tuple[Shape, Foreseen]] = {
    "a foreseen plateau at 0.90": (plateau(0.9), Foreseen(upper_bytes=0.93 * LIMIT)),
    "an unforeseen plateau at 0.90": (plateau(0.9), Foreseen()),
    "a warm-up that saturates at 0.85": (lambda t: 0.85 * (1 - math.exp(-t / 40)), Foreseen(upper_bytes=0.9 * LIMIT)),
    "an unforeseen warm-up that saturates at 0.78": (lambda t: 0.78 * (1 - math.exp(-t / 60)), Foreseen()),
    "a collector's sawtooth up to 0.80": (sawtooth(0.55, 0.8, 300), Foreseen()),
    "a burst that fills in a moment": (burst(0.45, 0.85, 900, 4, 200), Foreseen()),
    "a drift that the job outruns": (lambda t: 0.5 + 0.2 * t / 7200, Foreseen()),
}


@pytest.mark.parametrize("interval", [5.0, 15.0, 30.0])
@pytest.mark.parametrize("name", HARMLESS)
def test_what_never_reaches_the_limit_never_trips(name: str, interval: float) -> None:
    shape, foreseen = HARMLESS[name]
    assert trips(sampled(shape, 7200, interval, noise=0.002), foreseen) == []


@pytest.mark.parametrize("fill", [4.0, 12.0, 25.0])
def test_a_burst_that_credits_account_for_never_trips(fill: float) -> None:
    shape = burst(0.45, 0.85, 900, fill, 120)
    found = trips(
        sampled(shape, 2400, in_flight_bytes=lambda t: (shape(t) - 0.4) * LIMIT if t > 60 else 0.0),
        Foreseen(upper_bytes=0.9 * LIMIT, budget_bytes=0.5 * LIMIT),
    )
    assert found == []


def test_one_wild_sample_never_trips() -> None:
    assert trips(sampled(lambda t: 0.97 if 600 <= t < 605 else plateau(0.4)(t), 1200)) == []


@settings(max_examples=40, deadline=None)
@given(level=st.floats(0.01, 0.97), interval=st.sampled_from([1.0, 5.0, 15.0, 30.0]))
def test_a_level_that_does_not_move_never_trips(level: float, interval: float) -> None:
    assert trips(sampled(lambda _: level, 80 * interval, interval, noise=0.0)) == []


@settings(max_examples=40, deadline=None)
@given(
    base=st.floats(0.1, 0.7),
    interval=st.sampled_from([5.0, 15.0, 30.0]),
    slowness=st.floats(0, 1),
    phase=st.floats(0, 1),
)
def test_every_straight_ramp_from_a_plateau_trips_in_time(
    base: float, interval: float, slowness: float, phase: float
) -> None:
    shortest = 5 * interval + 75
    seconds = shortest * (7200 / shortest) ** slowness
    onset = 1000 + phase * interval
    found = trips(sampled(ramp(base, onset, seconds), onset + seconds, interval))
    assert found
    assert onset < found[0][0] <= onset + seconds - 60


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0.1, 100), st.floats(0, 1.2)), max_size=2))
def test_two_samples_never_trip_on_velocity(rows: list[tuple[float, float]]) -> None:
    samples, t = [], 0.0
    for gap, ratio in rows:
        t += gap
        samples.append(Sample(t, ratio * LIMIT, LIMIT))
    assert trips(samples) == []


def uneven_teeth(t: float) -> float:
    """Teeth of 100 s up to 0.24 of the limit, each a little taller or shorter than the last."""
    number, since = divmod(max(0.0, t - 60), 100)
    return 0.24 * (0.85 + 0.3 * random.Random(int(number)).random()) * since / 100


@pytest.mark.parametrize("interval", [5.0, 15.0])
def test_a_tooth_a_little_taller_than_those_before_never_trips(interval: float) -> None:
    def memory(t: float) -> float:
        number, since = divmod(max(0.0, t - 60), 100)
        return plateau(0.61)(t) + 0.2 * (1.15 if number > 20 else 1.0) * since / 100

    samples = sampled(memory, 4000, interval, in_flight_bytes=lambda _: 0.0)
    assert trips(samples, Foreseen(upper_bytes=0.82 * LIMIT, budget_bytes=0.05 * LIMIT)) == []


@pytest.mark.parametrize("seconds", [300.0, 3600.0])
def test_teeth_do_not_hide_the_leak_below_them(seconds: float) -> None:
    leak = ramp(0.4, 1500, seconds)
    until = next(t for t in range(1500, 6000) if leak(t) + uneven_teeth(t) >= 1)
    samples = sampled(lambda t: leak(t) + uneven_teeth(t), until, in_flight_bytes=lambda _: 0.0)
    found = trips(samples, Foreseen(upper_bytes=0.6 * LIMIT, budget_bytes=0.05 * LIMIT))
    assert found
    assert 1500 < found[0][0] <= until - 60


@pytest.mark.parametrize("interval", [15.0, 30.0])
@pytest.mark.parametrize("seconds", [400.0, 1500.0, 6000.0])
def test_teeth_shorter_than_two_scrapes_do_not_hide_the_leak_below_them(interval: float, seconds: float) -> None:
    leak = ramp(0.4, 2500, seconds)

    def memory(t: float) -> float:
        return leak(t) + (0.15 * (t % 41) / 41 if t > 60 else 0.0)

    until = next(t for t in range(2500, 9000) if memory(t) >= 1)
    samples = sampled(memory, until, interval, in_flight_bytes=lambda _: 0.0)
    found = trips(samples, Foreseen(upper_bytes=0.6 * LIMIT, budget_bytes=0.05 * LIMIT))
    assert found
    assert 2500 < found[0][0] <= until - 60


@pytest.mark.parametrize("interval", [5.0, 15.0, 30.0])
@pytest.mark.parametrize("period", [41.0, 97.0])
def test_teeth_shorter_than_a_few_scrapes_never_trip_by_themselves(interval: float, period: float) -> None:
    def memory(t: float) -> float:
        return plateau(0.55)(t) + (0.15 * (t % period) / period if t > 60 else 0.0)

    samples = sampled(memory, 7200, interval, in_flight_bytes=lambda _: 0.0)
    assert trips(samples, Foreseen(upper_bytes=0.75 * LIMIT, budget_bytes=0.05 * LIMIT)) == []


@pytest.mark.parametrize("interval", [5.0, 15.0, 30.0])
@pytest.mark.parametrize("period", [300.0, 600.0])
def test_a_collector_that_runs_every_few_minutes_does_not_hide_a_leak_of_hours(interval: float, period: float) -> None:
    def memory(t: float) -> float:
        return plateau(0.5)(t) + (0.2 * (t % period) / period if t > 60 else 0.0) + 0.35 * max(0.0, t - 3000) / 9000

    until = next(t for t in range(3000, 13000) if memory(t) >= 1)
    samples = sampled(memory, until, interval, noise=0.005, in_flight_bytes=lambda _: 0.05 * LIMIT)
    found = trips(samples, Foreseen(upper_bytes=0.75 * LIMIT, budget_bytes=0.05 * LIMIT))
    assert found
    assert 6000 < found[0][0] <= until - 60


def test_a_ramp_far_steeper_than_every_tooth_before_is_no_tooth() -> None:
    def memory(t: float) -> float:
        tooth = 0.25 * (t % 200) / 200 if 60 < t < 2000 else 0.0
        return plateau(0.45)(t) + tooth + 0.55 * max(0.0, t - 2005) / 75

    samples = sampled(memory, 2080, in_flight_bytes=lambda _: 0.02 * LIMIT)
    found = trips(samples, Foreseen(upper_bytes=0.75 * LIMIT, budget_bytes=0.05 * LIMIT))
    assert found
    # At 0.60, which the teeth reach every three minutes.
    assert 2005 < found[0][0] <= 2080 - 55


@pytest.mark.parametrize("seconds", [10.0, 30.0])
def test_a_model_that_loads_after_a_minute_of_quiet_never_trips(seconds: float) -> None:
    late = plateau(0.6, load_seconds=seconds)
    samples = sampled(
        lambda t: late(t - 75) if t > 75 else 0.01,
        1200,
        noise=0.0,
        in_flight_bytes=lambda t: 0.05 * LIMIT if t > 80 + seconds else 0.0,
    )
    assert trips(samples, Foreseen(upper_bytes=0.7 * LIMIT, budget_bytes=0.1 * LIMIT)) == []


@pytest.mark.parametrize("late", [2.0, 4.0])
def test_memory_that_is_given_back_a_little_after_its_credit_never_trips(late: float) -> None:
    load = burst(0.05, 0.4, 1200, 10, 120)
    samples = sampled(
        lambda t: 0.45 + max(load(t - late), load(t)),
        2400,
        in_flight_bytes=lambda t: load(t) * LIMIT if t > 60 else 0.0,
    )
    assert trips(samples, Foreseen(upper_bytes=0.9 * LIMIT, budget_bytes=0.4 * LIMIT)) == []


def rows(*pairs: tuple[float, float], interval: float = 30.0) -> list[Sample]:
    """A long calm with a little load, then samples of (memory, credits in flight) in shares of the limit."""
    calm = [(0.5 + 0.002 * (n % 2), 0.1 + 0.002 * (n % 2)) for n in range(60)]
    return [
        Sample(n * interval, memory * LIMIT, LIMIT, in_flight_bytes=in_flight * LIMIT)
        for n, (memory, in_flight) in enumerate([*calm, *pairs], start=1)
    ]


def test_growth_that_drives_the_load_out_trips_though_memory_hardly_rises() -> None:
    found = trips(rows((0.8, 0.1), (0.9, 0.08), (0.92, 0.02)), Foreseen(budget_bytes=0.2 * LIMIT))
    assert [time for time, _ in found][:1] == [62 * 30.0]


def test_four_samples_of_a_slow_scrape_do_for_a_ramp_but_not_for_a_jump() -> None:
    assert [time for time, _ in trips(rows((0.5, 0.1), (0.6, 0.1), (0.597, 0.1), (0.73, 0.1)))] == [64 * 30.0]
    assert trips(rows((0.5, 0.1), (0.502, 0.1), (0.501, 0.1), (0.73, 0.1), (0.5, 0.1))) == []


def test_growth_within_heights_foreseen_beside_the_limit_is_confirmed_by_one_sample_more() -> None:
    ramp_up = rows(*((0.5 + 0.1 * n, 0.1) for n in range(1, 5)))
    roomy, crowded = (trips(ramp_up, Foreseen(upper_bytes=share * LIMIT)) for share in (0.8, 0.95))
    assert crowded[0][0] == roomy[0][0] + 30.0


def test_bursts_that_show_what_a_credit_is_worth_do_not_make_the_level_rise() -> None:
    """Until then every credit counts whole; from then on some of the usual load seems to lie beyond it."""

    def load(t: float) -> float:
        number, since = divmod(t - 2000, 100)
        burst = 0.06 * (number + 1) if 0 <= number < 7 and since < 50 else 0.0
        return 0.4 * (1 + 0.08 * math.sin(t / 37)) + burst if t > 60 else 0.0

    samples = sampled(lambda t: plateau(0.5)(t) + 0.55 * load(t), 4000, 30.0, in_flight_bytes=lambda t: load(t) * LIMIT)
    assert trips(samples, Foreseen(upper_bytes=0.97 * LIMIT, budget_bytes=0.88 * LIMIT)) == []


def test_the_end_of_a_load_that_shows_what_a_credit_was_worth_does_not_make_the_level_rise() -> None:
    """The first batch came with memory of its own, so that each credit seemed to stand for a whole byte until now."""

    def load(t: float) -> float:
        return 0.0 if t < 60 or t > 2000 else 0.44 if t < 120 else 0.38 + 0.0005 * (7 * t % 40)

    def memory(t: float) -> float:
        return 0.6 * min(1.0, 0.1 + t / 60) + 0.22 * min(1.0, max(0.0, (t - 60) / 30)) + 0.45 * load(t)

    samples = sampled(memory, 3000, 30.0, in_flight_bytes=lambda t: load(t) * LIMIT)
    assert trips(samples, Foreseen(upper_bytes=0.97 * LIMIT, budget_bytes=0.45 * LIMIT)) == []


def test_the_steps_of_a_model_that_loads_and_of_its_first_batches_are_no_trend() -> None:
    seen = [(3, 0.14, 0.0), (32, 0.79, 0.13), (64, 0.86, 0.16), (93, 0.88, 0.15), (124, 0.90, 0.18), (153, 0.88, 0.13)]
    samples = [Sample(t, memory * LIMIT, LIMIT, in_flight_bytes=load * LIMIT) for t, memory, load in seen]
    assert trips(samples, Foreseen(upper_bytes=0.81 * LIMIT, budget_bytes=0.26 * LIMIT)) == []


def test_a_ramp_in_a_noisy_pod_does_not_pass_for_noise() -> None:
    """Noise is measured from what the pod did before: the third sample of a ramp shows most of them."""
    seen_in_time = 0
    for seed in range(20):
        rng = random.Random(seed)
        calm = [0.2 + 0.15 * (0.37 * n % 1.0) + rng.uniform(-0.01, 0.01) for n in range(80)]
        grown = [0.275 + 0.1 * n + rng.uniform(-0.03, 0.03) for n in range(1, 7)]
        samples = [
            Sample(n * 30.0, memory * LIMIT, LIMIT, acked=float(n), in_flight_bytes=0.0)
            for n, memory in enumerate([*calm, *grown])
        ]
        found = trips(samples, Foreseen(upper_bytes=0.5 * LIMIT, budget_bytes=0.1 * LIMIT))
        assert found[0][0] >= 80 * 30.0, f"seed {seed} trips in the calm"
        seen_in_time += found[0][0] <= 82 * 30.0
    assert seen_in_time >= 15


def test_a_load_that_ends_just_before_a_scrape_never_trips() -> None:
    samples = rows((0.53, 0.12), (0.53, 0.0), (0.41, 0.0), (0.41, 0.0), interval=5.0)
    assert trips(samples, Foreseen(budget_bytes=0.2 * LIMIT)) == []


# --- starved ----------------------------------------------------------------------------------------------------------


def test_a_gate_that_stays_shut_is_starved_though_memory_is_flat() -> None:
    found = trips(sampled(plateau(0.8), 900, gate_closed_seconds=lambda t: max(0.0, t - 600)))
    assert found[0][1].trip is TripCause.STARVED
    assert 630 <= found[0][0] <= 645


def test_a_gate_that_shuts_for_a_moment_is_not_starved() -> None:
    def shut(t: float) -> float:
        return 15 * (t // 300) + min(15.0, t % 300)

    assert trips(sampled(plateau(0.8), 3600, gate_closed_seconds=shut)) == []


def test_half_the_pace_with_the_gate_shut_half_the_time_is_starved() -> None:
    found = trips(
        sampled(
            plateau(0.8),
            900,
            gate_closed_seconds=lambda t: max(0.0, t - 600) / 2,
            acked=lambda t: 4 * min(t, 600) + 1 * max(0.0, t - 600),
        ),
        Foreseen(images_per_second=4.0),
    )
    assert found[0][1].trip is TripCause.STARVED
    assert 660 <= found[0][0] <= 700


def test_a_slow_source_without_the_gate_is_not_starved() -> None:
    found = trips(sampled(plateau(0.5), 1800, acked=lambda t: min(t, 600.0)), Foreseen(images_per_second=1.0))
    assert found == []


def test_an_image_that_waits_for_memory_is_starved_and_says_what_it_wants() -> None:
    found = trips(sampled(plateau(0.5), 900, wanted_bytes=lambda t: 12.0 * GIB if t > 600 else 0.0))
    at, assessment = found[0]
    assert assessment.trip is TripCause.STARVED
    assert 630 <= at <= 645
    assert assessment.wanted_bytes == 12 * GIB
    assert assessment.projected_bytes >= 12 * GIB
    assert "12.00 GiB" in " ".join(assessment.evidence)


def test_an_image_that_waits_a_moment_is_not_starved() -> None:
    assert trips(sampled(plateau(0.5), 900, wanted_bytes=lambda t: 12.0 * GIB if 600 < t < 620 else 0.0)) == []


# --- after an action --------------------------------------------------------------------------------------------------


def test_after_a_remedy_nothing_trips_until_the_cool_down_ends() -> None:
    detector = Detector()
    acted_at = None
    for sample in sampled(ramp(0.4, 600, 240), 840):
        detector.observe(sample)
        assessment = detector.assess(sample.t_seconds)
        if acted_at is None and assessment.trip is not None:
            acted_at = sample.t_seconds
            detector.acted(acted_at)
        elif acted_at is not None and sample.t_seconds < acted_at + Policy().cool_down_seconds:
            assert assessment.trip is None
            assert assessment.cooling_down
    assert acted_at is not None
    assert assessment.trip is TripCause.VELOCITY, "the ramp went on, so the second remedy is due"


def test_a_larger_limit_ends_the_alarm_and_the_same_growth_alarms_again_below_it() -> None:
    grown = ramp(0.4, 600, 300)
    detector, alarms = Detector(), []
    for sample in sampled(grown, 1300):
        limit = LIMIT if sample.t_seconds < 800 else 2 * LIMIT
        detector.observe(Sample(sample.t_seconds, sample.nonreclaimable_bytes, limit))
        assessment = detector.assess(sample.t_seconds)
        if assessment.trip is not None:
            alarms.append(sample.t_seconds)
        if 800 < sample.t_seconds < 1000:
            assert assessment.trip is None
            assert assessment.ratio < 0.7
    assert min(alarms) < 800
    assert max(alarms) > 1000


def test_a_climb_to_where_healthy_runs_have_been_is_no_news() -> None:
    plan, history = 0.75 * LIMIT, 0.97 * LIMIT

    def climb(t: float) -> float:
        return plateau(0.7)(t) + 0.26 * min(1.0, max(0.0, (t - 1000) / 2600))

    samples = list(sampled(climb, 6000, in_flight_bytes=lambda _: 0.02 * LIMIT))
    assert trips(samples, Foreseen(upper_bytes=plan)) != []
    assert trips(samples, Foreseen(upper_bytes=plan, peak_centre_bytes=history)) == []


def test_healthy_runs_that_came_to_more_than_this_limit_excuse_nothing() -> None:
    samples = list(sampled(ramp(0.6, 1000, 3000), 4000, in_flight_bytes=lambda _: 0.02 * LIMIT))
    plan = Foreseen(upper_bytes=0.65 * LIMIT)
    larger = Foreseen(upper_bytes=0.65 * LIMIT, peak_centre_bytes=1.5 * LIMIT)
    assert [time for time, _ in trips(samples, larger)] == [time for time, _ in trips(samples, plan)] != []


def test_a_first_batch_to_where_healthy_runs_have_been_is_no_news() -> None:
    plan, history = 0.6 * LIMIT, 0.87 * LIMIT

    def first_batch(t: float) -> float:
        return plateau(0.3, 60)(t) + 0.55 * min(1.0, max(0.0, (t - 70) / 40))

    samples = list(
        sampled(
            first_batch,
            900,
            acked=lambda t: max(0.0, t - 75),
            in_flight_bytes=lambda t: 0.02 * LIMIT if t > 65 else 0.0,
        )
    )
    assert trips(samples, Foreseen(upper_bytes=plan)) != []
    assert trips(samples, Foreseen(upper_bytes=plan, peak_centre_bytes=history)) == []


# --- hard samples -----------------------------------------------------------------------------------------------------

BAD = {
    "a memory that is not a number": Sample(605, math.nan, LIMIT),
    "an infinite memory": Sample(605, math.inf, LIMIT),
    "a negative memory": Sample(605, -1.0, LIMIT),
    "a limit of zero": Sample(605, GIB, 0.0),
    "a negative limit": Sample(605, GIB, -LIMIT),
    "a time that is not a number": Sample(math.nan, GIB, LIMIT),
    "a time before the last": Sample(10, GIB, LIMIT),
    "negative acks": Sample(605, GIB, LIMIT, acked=-1.0),
    "infinite credits": Sample(605, GIB, LIMIT, in_flight_bytes=math.inf),
}


@pytest.mark.parametrize("name", BAD)
def test_a_sample_that_cannot_be_true_is_dropped_counted_and_said(name: str) -> None:
    good = list(sampled(plateau(0.4), 604))
    detector = Detector.rebuild(good)
    before = detector.assess(604)
    detector.observe(BAD[name])
    after = detector.assess(604)
    assert after.dropped_samples == before.dropped_samples + 1
    assert after.nonreclaimable_bytes == before.nonreclaimable_bytes
    assert "dropped" in " ".join(after.evidence)


def test_duplicates_change_nothing_but_their_count() -> None:
    samples = list(sampled(ramp(0.4, 600, 240), 840))
    once = judged(samples)
    detector, twice = Detector(), []
    for sample in samples:
        detector.observe(sample)
        detector.observe(sample)
        twice.append(detector.assess(sample.t_seconds + 0.5))
    assert [a.trip for a in twice] == [a.trip for a in once]
    assert detector.dropped_samples == len(samples)


def test_a_sample_from_the_future_does_not_deafen_the_detector() -> None:
    detector = Detector.rebuild(sampled(plateau(0.4), 600))
    detector.observe(Sample(10_000, 0.4 * LIMIT, LIMIT))
    assert detector.assess(605).nonreclaimable_bytes == 0
    detector.observe(Sample(610, 0.4 * LIMIT, LIMIT))
    assessment = detector.assess(610)
    assert assessment.ratio == pytest.approx(0.4)
    assert "stamped in the future" in " ".join(assessment.evidence)


def test_a_restarted_process_may_load_its_model_again() -> None:
    def memory(t: float) -> float:
        return plateau(0.75, 40)(t if t < 1200 else t - 1200)

    found = trips(sampled(memory, 2400, acked=lambda t: max(0.0, (t if t < 1200 else t - 1200) - 45)))
    assert found == []


def test_a_hole_in_the_samples_neither_trips_nor_hides_the_ramp_after_it() -> None:
    holed = [s for s in sampled(ramp(0.4, 1300, 300), 1600) if not 700 < s.t_seconds < 1200]
    found = trips(holed)
    assert 1300 < found[0][0] < 1540


def test_lost_scrapes_do_not_hide_a_ramp() -> None:
    rng = random.Random(3)
    thinned = [s for s in sampled(ramp(0.4, 1000, 300), 1300) if rng.random() > 0.2]
    found = trips(thinned)
    assert 1000 < found[0][0] < 1240


def test_without_samples_nothing_is_decided_and_it_is_said() -> None:
    detector = Detector()
    assert detector.assess(100).blind_seconds == math.inf
    for sample in sampled(ramp(0.4, 600, 300), 840):
        detector.observe(sample)
    assert detector.assess(841).trip is TripCause.VELOCITY
    late = detector.assess(1000)
    assert late.trip is None
    assert late.blind_seconds > 150
    assert "no sample for" in " ".join(late.evidence)


finite = st.floats(-1e13, 1e13)
anything = st.one_of(finite, st.sampled_from([math.nan, math.inf, -math.inf, 0.0]))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(anything, anything, anything, anything, anything), max_size=30))
def test_no_sequence_of_samples_breaks_the_detector(rows: list[tuple[float, ...]]) -> None:
    detector = Detector()
    for t, memory, limit, gate, acked in rows:
        detector.observe(Sample(t, memory, limit, gate, 0.0, acked))
        assessment = detector.assess(1e13)
        assert math.isfinite(assessment.ratio)
        assert math.isfinite(assessment.velocity_bytes_per_second)
        assert assessment.limit_in_seconds is None or assessment.limit_in_seconds >= 0


def test_a_detector_rebuilt_from_stored_samples_judges_the_same() -> None:
    samples = list(sampled(ramp(0.4, 600, 300), 860, in_flight_bytes=lambda _: 0.02 * LIMIT))
    detector = Detector()
    for sample in samples:
        detector.observe(sample)
        detector.assess(sample.t_seconds)
    assert Detector.rebuild(samples).assess(861) == detector.assess(861)


def test_state_does_not_grow_with_time() -> None:
    detector, sizes = Detector(), []
    for number, sample in enumerate(sampled(sawtooth(0.4, 0.6, 90), 40_000)):
        detector.observe(sample)
        if number in (2000, 7000):
            sizes.append(len(pickle.dumps(detector)))
    assert sizes[1] < 1.1 * sizes[0]


# --- the seed's three signals -----------------------------------------------------------------------------------------


def test_the_ratio_signal_needs_its_minute() -> None:
    policy = Policy()
    assert not ratio_signal(59, 0.95, policy).fires
    assert ratio_signal(60, 0.9, policy).fires


def test_the_ratio_signal_is_silent_on_a_level_that_the_plan_foresaw() -> None:
    for upper, fires in ((0.95, False), (0.8, True)):
        found = judged(sampled(plateau(0.9), 900), Foreseen(upper_bytes=upper * LIMIT))
        assert found[-1].signals[0].fires is fires
        assert found[-1].trip is None


def test_the_velocity_signal_needs_a_baseline_and_three_times_it() -> None:
    policy = Policy()
    assert not velocity_signal(100.0, 0.0, policy).fires
    assert not velocity_signal(29.0, 10.0, policy).fires
    assert velocity_signal(31.0, 10.0, policy).fires


def test_the_zscore_signal_needs_history() -> None:
    policy, history = Policy(), Foreseen(peak_centre_bytes=4 * GIB, peak_scale_bytes=0.2 * GIB)
    assert not zscore_signal(9 * GIB, Foreseen(), policy).fires
    assert not zscore_signal(4.6 * GIB, history, policy).fires
    assert zscore_signal(4.8 * GIB, history, policy).fires


def test_two_signals_together_let_the_same_ramp_trip_earlier() -> None:
    plain = trips(sampled(ramp(0.6, 1000, 300), 1300))
    corroborated = trips(
        sampled(ramp(0.6, 1000, 300), 1300),
        Foreseen(
            baseline_velocity_bytes_per_second=0.00001 * LIMIT,
            peak_centre_bytes=0.6 * LIMIT,
            peak_scale_bytes=0.02 * LIMIT,
        ),
    )
    assert corroborated[0][0] < plain[0][0]


@pytest.mark.parametrize("seconds", [300.0, 1200.0])
def test_sensitivity_moves_the_trip_and_never_past_the_remedy(seconds: float) -> None:
    times = []
    for policy in (Policy.preset("low"), Policy.preset("normal"), Policy.preset("high")):
        samples = list(sampled(ramp(0.4, 1000, seconds), 1000 + seconds))
        found = judged(samples, policy=policy)
        times.append(next(s.t_seconds for s, a in zip(samples, found, strict=True) if a.trip))
    assert times[0] >= times[1] >= times[2]
    assert times[0] <= 1000 + seconds - 60
