"""The breaker at work over a night that the test writes: what it does, in which order, and what it must never do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.adapters.examples import RUN_ID, run, the_slot
from tests.control.night import GRACE_SECONDS, GROWING, INTERVAL_SECONDS, LEAKING, LIMIT_BYTES, STEADY, Course, Night

from tidegate.adapters.kube_pods import Gone, Stage
from tidegate.adapters.run_store import Attempt, RunStore
from tidegate.control.steps import Control, Notes
from tidegate.control.watch import LOST_NODE_SECONDS, NOTE_SECONDS
from tidegate.core.contract import GIB, TripCause
from tidegate.core.detection import Foreseen
from tidegate.core.errors import FixConfig, RetryLater
from tidegate.core.remedy import Measure, RemedyKind
from tidegate.core.slot import Command, End, Event, Phase, PodEnded, Refusal, SlotState, Tripped


@pytest.fixture
def night(store: RunStore) -> Night:
    return Night(store)


def ended(night: Night, slot: int = 0, end: End = End.DRAINED) -> None:
    """What the operator's `cleanup` records."""
    state = night.state(slot)
    assert state.pod_uid is not None
    event = PodEnded(generation=state.generation, at=night.now, pod_uid=state.pod_uid, end=end, pod_acked=9)
    Control(night.store, night.policy).happened(RUN_ID, slot, event)


def kinds(night: Night) -> list[str]:
    return [kind for kind, _, _ in night.pods.orders]


# -- trips and remedies ------------------------------------------------------------------------------------------------


def test_growth_trips_is_resized_and_closes_once_images_are_answered(night: Night) -> None:
    uid = night.launch(course=GROWING)
    night.later(150, until=Phase.OPEN_RESIZING)
    assert night.state().limit_bytes == LIMIT_BYTES
    night.later(10, until=Phase.HALF_OPEN)
    assert night.pods.orders == [("resize", "tidegate-abc-run-0", night.state().limit_bytes)]
    assert night.state().limit_bytes > LIMIT_BYTES
    night.pods.scripts[uid].course = STEADY
    night.later(120, until=Phase.CLOSED)
    (stored,) = night.store.trips(RUN_ID)
    assert (stored.trip.cause, stored.remedy) == (TripCause.VELOCITY, RemedyKind.RESIZE)
    assert stored.trip.evidence
    assert stored.trip.ratio < 1


def test_a_leak_is_drained_and_started_afresh_at_the_same_limit(night: Night) -> None:
    night.launch(course=LEAKING)
    night.later(150, until=Phase.OPEN_DRAINING)
    assert kinds(night) == ["drain"]
    ended(night)
    assert (night.phase(), night.state().limit_bytes) == (Phase.OPEN_WAITING, LIMIT_BYTES)


def test_a_steady_pod_is_left_alone_for_an_hour(night: Night) -> None:
    night.launch()
    night.later(3600)
    assert (night.phase(), night.pods.orders, night.told) == (Phase.CLOSED, [], [])


def test_a_resize_that_is_refused_at_once_becomes_a_drain_in_the_same_round(night: Night) -> None:
    night.pods.refuses = Refusal.INFEASIBLE
    night.launch(course=GROWING)
    night.later(150, until=Phase.OPEN_DRAINING)
    assert kinds(night) == ["resize", "drain"]
    (stored,) = night.store.trips(RUN_ID)
    assert stored.remedy == RemedyKind.RELAUNCH_LARGER


def test_a_resize_that_the_kubelet_defers_becomes_a_drain(night: Night) -> None:
    night.pods.actuates = False
    uid = night.launch(course=GROWING)
    night.later(150, until=Phase.OPEN_RESIZING)
    night.change(uid, refusal=Refusal.DEFERRED)
    night.later(5, until=Phase.OPEN_DRAINING)


def test_a_resize_that_nobody_answers_becomes_a_drain_after_ten_seconds(night: Night) -> None:
    night.pods.actuates = False
    night.launch(course=GROWING)
    night.later(150, until=Phase.OPEN_RESIZING)
    night.later(5)
    assert night.phase() is Phase.OPEN_RESIZING
    night.later(10, until=Phase.OPEN_DRAINING)


def test_a_drain_that_does_not_end_becomes_a_deletion_and_an_alert(night: Night) -> None:
    night.pods.refuses = Refusal.INFEASIBLE
    night.launch(course=GROWING)
    night.later(150, until=Phase.OPEN_DRAINING)
    night.later(90, until=Phase.OPEN_DELETING)
    assert kinds(night) == ["resize", "drain", "delete"]
    assert [alert.name for alert in night.told] == ["TidegateDrainTimedOut"]


def test_the_replacement_is_judged_by_its_own_samples_alone(night: Night) -> None:
    night.pods.refuses = Refusal.INFEASIBLE
    night.launch(course=GROWING)
    night.later(150, until=Phase.OPEN_DRAINING)
    ended(night)
    assert night.phase() is Phase.OPEN_WAITING
    uid = night.launch()
    night.pods.scripts[uid].course = Course(STEADY.memory, acks_per_second=0.0)
    night.later(120)
    # The old pod bore the same name; its acks are no proof that the new one works.
    assert (night.phase(), night.state().pod_acked) == (Phase.HALF_OPEN, 0)
    night.pods.scripts[uid].course = STEADY
    night.later(10, until=Phase.CLOSED)


# -- kills between two lines -------------------------------------------------------------------------------------------


class Died(BaseException):
    """The triggerer is killed here."""


def test_a_watch_that_dies_between_saving_and_executing_is_replaced_by_one_that_executes(night: Night) -> None:
    night.launch(course=GROWING)
    night.pods.trouble["resize"] = Died()
    with pytest.raises(Died):
        night.later(150)
    assert (night.phase(), night.pods.orders) == (Phase.OPEN_RESIZING, [])
    del night.pods.trouble["resize"]
    night.watch = night.watching()
    night.later(5, until=Phase.OPEN_RESIZING)
    assert kinds(night) == ["resize"]
    night.later(5, until=Phase.HALF_OPEN)


def test_a_new_watch_goes_on_with_a_drain_that_the_old_one_ordered(night: Night) -> None:
    night.pods.refuses = Refusal.INFEASIBLE
    night.launch(course=GROWING)
    night.later(150, until=Phase.OPEN_DRAINING)
    night.watch = night.watching()
    night.later(20)
    # To drain twice is to drain once; what matters is that somebody did.
    assert kinds(night) == ["resize", "drain", "drain"]


def test_a_new_watch_knows_what_the_old_one_knew_from_the_stored_samples(night: Night) -> None:
    night.launch(course=GROWING)
    night.later(5)
    for _ in range(25):
        night.tick()
    night.watch = night.watching()
    night.later(5, until=Phase.OPEN_RESIZING)


def test_a_new_watch_gives_the_remedy_of_the_old_one_time_to_show(night: Night) -> None:
    night.launch(course=GROWING)
    night.later(150, until=Phase.HALF_OPEN)
    for _ in range(6):
        night.watch = night.watching()
        night.later(5)
    assert (night.phase(), kinds(night)) == (Phase.HALF_OPEN, ["resize"])


def test_two_watches_of_one_run_do_not_hurt_each_other(night: Night) -> None:
    night.launch(course=GROWING)
    other = night.watching()
    for _ in range(30):
        night.tick()

        async def both() -> None:
            await asyncio.gather(night.watch.round(), other.round())

        asyncio.run(both())
        if night.phase() is Phase.HALF_OPEN:
            break
    assert night.phase() is Phase.HALF_OPEN
    assert {limit for _, _, limit in night.pods.orders} == {night.state().limit_bytes}
    assert len(night.store.trips(RUN_ID)) == 1


NOTHING = Notes()


class Stumbling(Control):
    """The store is away when the first trip is to be saved."""

    stumbled = 0

    def happened(
        self, run_id: str, slot: int, event: Event, notes: Notes = NOTHING
    ) -> tuple[SlotState, tuple[Command, ...]]:
        if isinstance(event, Tripped) and not self.stumbled:
            self.stumbled += 1
            raise RetryLater("the run store does not answer")
        return super().happened(run_id, slot, event, notes)


def test_a_trip_that_could_not_be_saved_is_seen_again_in_the_next_round(night: Night) -> None:
    control = Stumbling(night.store, night.policy)
    night.watch.control = control
    night.launch(course=GROWING)
    rounds = 0
    while not control.stumbled:
        night.tick()
        night.round()
        rounds += 1
        assert rounds < 40
    night.later(5, until=Phase.OPEN_RESIZING)


# -- not seeing --------------------------------------------------------------------------------------------------------


def test_without_prometheus_nothing_trips_and_a_person_is_told_once(night: Night) -> None:
    night.launch(course=GROWING)
    night.later(30)
    night.reader.is_away = True
    night.later(300)
    assert (night.phase(), night.pods.orders) == (Phase.CLOSED, [])
    assert [alert.name for alert in night.told] == ["TidegateBreakerBlind"]


def test_when_prometheus_is_back_the_gap_is_read_and_the_breaker_sees(night: Night) -> None:
    uid = night.launch()
    night.later(60)
    night.reader.is_away = True
    night.later(100)
    night.reader.is_away = False
    night.later(10)
    assert night.reader.windows[-2] >= 100
    began = night.now - night.pods.scripts[uid].pod.created_at
    night.pods.scripts[uid].course = Course(lambda age: STEADY.memory(age) + max(0.0, age - began) * 30e6)
    night.later(60, until=Phase.OPEN_RESIZING)


def test_credentials_that_cannot_be_read_blind_the_breaker_but_do_not_end_it(night: Night) -> None:
    class Locked:
        def read(self, *_: Any) -> Any:
            raise FixConfig("TIDEGATE_PROMETHEUS_TOKEN_FILE: cannot be read")

    night.launch()
    night.watch.reader = Locked()  # type: ignore[assignment]
    night.later(90)
    assert [alert.name for alert in night.told] == ["TidegateBreakerBlind"]


def test_stale_samples_never_trip(night: Night) -> None:
    night.launch(course=GROWING)
    for _ in range(24):
        night.tick()
    # All of it steep, none of it fresh: the pod is scraped no more.
    for _ in range(20):
        night.now += 4 * INTERVAL_SECONDS
        night.round()
    assert (night.phase(), night.pods.orders) == (Phase.CLOSED, [])
    assert [alert.name for alert in night.told] == ["TidegateBreakerBlind"]


@pytest.mark.parametrize("behind_seconds", [45.0, -45.0])
def test_two_clocks_that_differ_are_told(night: Night, behind_seconds: float) -> None:
    night.reader.behind_seconds = behind_seconds
    night.launch()
    night.later(120)
    assert [alert.name for alert in night.told] == ["TidegateBreakerBlind"]
    assert "clocks" in night.told[0].summary


def test_a_pod_that_does_not_run_yet_is_not_called_blind(night: Night) -> None:
    night.launch(stage=Stage.PENDING, is_placed=True)
    night.later(150)
    assert night.told == []


# -- the cluster -------------------------------------------------------------------------------------------------------


def test_an_api_server_that_is_away_for_some_rounds_costs_only_those(night: Night) -> None:
    night.launch(course=GROWING)
    night.later(40)
    night.pods.trouble["live"] = RetryLater("the Kubernetes API did not answer")
    for _ in range(6):
        night.tick()
        with pytest.raises(RetryLater):
            night.round()
    del night.pods.trouble["live"]
    night.later(60, until=Phase.OPEN_RESIZING)


def test_an_order_that_met_a_busy_api_server_is_given_again(night: Night) -> None:
    night.launch(course=GROWING)
    night.pods.trouble["resize"] = RetryLater("the Kubernetes API answered 429")
    night.later(150, until=Phase.OPEN_RESIZING)
    del night.pods.trouble["resize"]
    night.later(5)
    assert kinds(night) == ["resize"]


def test_an_order_for_a_pod_that_is_gone_is_given_once_and_waits_for_the_operator(night: Night) -> None:
    night.launch(course=GROWING)
    night.pods.trouble["resize"] = Gone("pod is gone")
    night.later(150, until=Phase.OPEN_RESIZING)
    ended(night, end=End.INFRASTRUCTURE)
    assert night.phase() is Phase.OPEN_WAITING
    night.later(30)
    assert night.pods.orders == []


def test_an_image_that_is_pulled_for_minutes_is_no_reason_to_fall_back(night: Night) -> None:
    night.pods.refuses = Refusal.INFEASIBLE
    night.launch(course=GROWING)
    night.later(150, until=Phase.OPEN_DRAINING)
    ended(night)
    uid = night.launch(stage=Stage.PENDING, is_placed=True)
    night.later(400)
    assert (night.phase(), night.state().one_at_a_time) == (Phase.OPEN_STARTING, False)
    night.change(uid, stage=Stage.RUNNING)
    night.later(10, until=Phase.HALF_OPEN)


def test_a_larger_pod_that_no_node_takes_falls_back_with_an_alert(night: Night) -> None:
    night.pods.refuses = Refusal.INFEASIBLE
    night.launch(course=GROWING)
    night.later(150, until=Phase.OPEN_DRAINING)
    ended(night)
    night.launch(stage=Stage.PENDING)
    night.later(200, until=Phase.OPEN_DELETING)
    assert [alert.name for alert in night.told] == ["TidegateUnschedulable"]
    ended(night, end=End.INFRASTRUCTURE)
    assert (night.state().limit_bytes, night.state().one_at_a_time) == (LIMIT_BYTES, True)


# -- what is allowed ---------------------------------------------------------------------------------------------------


def test_where_nothing_is_allowed_a_trip_only_alerts(store: RunStore) -> None:
    night = Night(store, allowed=frozenset())
    night.launch(course=GROWING)
    night.later(160)
    assert (night.phase(), night.pods.orders) == (Phase.CLOSED, [])
    assert [alert.name for alert in night.told] == ["TidegateHeld"]
    (stored,) = store.trips(RUN_ID)
    assert stored.remedy == RemedyKind.HOLD


def test_where_only_relaunching_is_allowed_nothing_is_resized(store: RunStore) -> None:
    night = Night(store, allowed=frozenset({Measure.RELAUNCH}))
    night.launch(course=GROWING)
    night.later(150, until=Phase.OPEN_DRAINING)
    assert kinds(night) == ["drain"]


# -- several slots -----------------------------------------------------------------------------------------------------


def test_of_two_slots_the_one_that_grows_trips_alone(store: RunStore) -> None:
    night = Night(store, slots=2)
    night.launch(0)
    night.launch(1, course=GROWING)
    night.later(140)
    assert {name for _, name, _ in night.pods.orders} == {"tidegate-abc-run-1"}
    assert night.phase(0) is Phase.CLOSED
    assert {stored.trip.slot for stored in store.trips(RUN_ID)} == {1}


def test_trouble_with_one_slot_leaves_the_others_attended(store: RunStore) -> None:
    night = Night(store, slots=2)
    night.launch(0, course=GROWING)
    night.launch(1, course=GROWING)
    night.pods.trouble["resize tidegate-abc-run-0"] = RetryLater("the Kubernetes API answered 500")
    night.later(150, until=Phase.OPEN_RESIZING)
    assert [name for _, name, _ in night.pods.orders] == ["tidegate-abc-run-1"]


def test_the_work_left_is_shared_by_the_slots_that_still_work(store: RunStore) -> None:
    night = Night(store, slots=2, foreseen=Foreseen(images_per_second=1.0))
    night.launch(0)
    night.launch(1)
    night.later(100)
    # 10,000 images, two slots at one a second, 100 s gone.
    assert night.watch._remaining_seconds == pytest.approx(4900, abs=30)


def test_the_watch_is_over_when_every_slot_is(store: RunStore) -> None:
    night = Night(store, slots=2)
    for slot in (0, 1):
        night.launch(slot)
    night.later(10)
    for slot in (0, 1):
        ended(night, slot, End.FINISHED)
    states = asyncio.run(asyncio.wait_for(night.watch.until_over(), 10))
    assert [state.phase for state in states] == [Phase.DONE, Phase.DONE]


def test_a_pod_whose_node_never_says_that_it_ended_is_struck_off_the_books(night: Night) -> None:
    uid = night.launch()
    night.later(10)
    night.change(uid, leaves_by=night.now + GRACE_SECONDS)
    night.later(GRACE_SECONDS + LOST_NODE_SECONDS - INTERVAL_SECONDS)
    assert night.pods.orders == []
    night.later(2 * INTERVAL_SECONDS)
    assert night.pods.orders == [("forget", "tidegate-abc-run-0", None)]
    assert [alert.name for alert in night.told if alert.name == "TidegateNodeLost"] == ["TidegateNodeLost"]


def test_a_drain_of_a_pod_on_a_lost_node_comes_to_an_end_too(night: Night) -> None:
    night.pods.refuses = Refusal.INFEASIBLE
    night.launch(course=GROWING)
    night.later(150, until=Phase.OPEN_DRAINING)
    night.later(90, until=Phase.OPEN_DELETING)
    night.later(GRACE_SECONDS + LOST_NODE_SECONDS + INTERVAL_SECONDS)
    assert kinds(night)[-1] == "forget"
    ended(night, end=End.INFRASTRUCTURE)
    assert night.phase() is Phase.OPEN_WAITING


def told_in_turn(night: Night, *can_act: bool) -> list[bool]:
    """Airflow's word, look after look, on whether a task is left; what has not been asked for yet."""
    left = list(can_act)

    async def answer() -> bool:
        return left.pop(0)

    night.watch.tasks_can_act = answer
    night.hurry()
    return left


def test_a_run_of_which_no_task_is_left_is_let_go_and_its_pods_are_drained(store: RunStore) -> None:
    night = Night(store, slots=2)
    for slot in (0, 1):
        night.launch(slot)
    night.later(10)
    ended(night, 0, End.FINISHED)
    left = told_in_turn(night, False, False)
    states = asyncio.run(asyncio.wait_for(night.watch.until_over(), 10))
    assert [state.phase for state in states] == [Phase.DONE, Phase.CLOSED]
    assert night.pods.orders == [("drain", "tidegate-abc-run-1", None)]
    assert left == []


def test_a_gap_between_two_tries_of_a_task_is_not_its_end(night: Night) -> None:
    night.launch()
    left = told_in_turn(night, False, True, False, False)
    asyncio.run(asyncio.wait_for(night.watch.until_over(), 10))
    assert left == []


def test_a_run_is_let_go_also_where_its_pods_cannot_be_told(night: Night) -> None:
    night.launch()
    night.pods.trouble["drain"] = RetryLater("busy")
    told_in_turn(night, False, False)
    (state,) = asyncio.run(asyncio.wait_for(night.watch.until_over(), 10))
    assert state.phase is Phase.CLOSED


def test_a_run_without_slots_is_no_run_to_watch(night: Night, store: RunStore) -> None:
    store.enter_run(run("a/unplanned", source=run().source.model_copy(update={"job": "8"})))
    night.watch.watched = night.watch.watched.__class__(
        **{name: getattr(night.watch.watched, name) for name in night.watch.watched.__dataclass_fields__}
        | {"run_id": "a/unplanned"}
    )
    with pytest.raises(FixConfig, match="plan"):
        night.round()


def test_memory_that_the_plan_foresaw_is_no_news(store: RunStore) -> None:
    night = Night(store, foreseen=Foreseen(upper_bytes=1.9 * GIB, images_per_second=1.0))
    night.launch(course=Course(lambda age: min(1.2 * GIB, 0.4 * GIB + age * 20e6)))
    night.later(300)
    assert night.pods.orders == []


# -- what alerts rest on -----------------------------------------------------------------------------------------------


def seen_at(night: Night) -> float | None:
    found = night.store.slot(RUN_ID, 0)
    assert found is not None
    return found.seen_at


def test_it_is_noted_that_a_slot_is_seen_though_nothing_happens(night: Night) -> None:
    night.launch()
    night.later(120)
    revision = the_slot(night.store).revision
    night.later(30)
    assert night.now - (seen_at(night) or 0.0) < NOTE_SECONDS
    assert the_slot(night.store).revision == revision


def test_a_slot_whose_samples_stay_away_is_seen_no_more(night: Night) -> None:
    night.launch()
    night.later(120)
    night.reader.is_away = True
    night.later(120)
    assert night.now - (seen_at(night) or 0.0) > 60.0


def test_a_slot_without_a_pod_is_seen_as_it_is(night: Night) -> None:
    night.later(60)
    assert night.now - (seen_at(night) or 0.0) < NOTE_SECONDS


def test_the_node_of_a_pod_is_known_while_it_runs(night: Night) -> None:
    uid = night.launch(node="node-3")
    attempt = Attempt(RUN_ID, 0, 0, "tidegate-abc-run-0", uid, LIMIT_BYTES, night.now)
    night.store.advance(the_slot(night.store), night.state(), attempt=attempt)
    night.later(10)
    assert [each.node for each in night.store.attempts(RUN_ID)] == ["node-3"]
