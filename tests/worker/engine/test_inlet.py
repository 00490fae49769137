"""The inlet and its credits, with memory readings that the test makes."""

from __future__ import annotations

import gc
import threading
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.worker.engine.bed import assignment, tasks_of

from tidegate.core.contract import GIB, MIB
from tidegate_worker.pipeline.credits import Credits
from tidegate_worker.pipeline.inlet import Inlet
from tidegate_worker.pipeline.lease import Lease
from tidegate_worker.policy.admission import Verdict
from tidegate_worker.policy.gate import Reading


@dataclass
class FakeMemory:
    used_bytes: int = 400 * MIB
    limit_bytes: int = 2 * GIB
    own_bytes: int = 400 * MIB
    trims: int = 0
    done: int = field(default=0)

    def read(self) -> Reading:
        return Reading(self.used_bytes, self.limit_bytes)

    def trim(self) -> None:
        self.trims += 1


def inlet_of(memory: FakeMemory, **ingest: Any) -> Inlet:
    return Inlet(
        assignment(**{"budget_bytes": 256 * MIB} | ingest),
        memory.read,
        memory.trim,
        lambda: memory.done,
        memory.own_bytes,
    )


def lease_of(name: str, cost_mib: int, alone: bool = False) -> Lease:
    return Lease(task=tasks_of([name])[0], alone=alone, cost_bytes=cost_mib * MIB)


def take_soon(inlet: Inlet) -> tuple[str, Verdict] | None:
    """What `take` gives within a moment; None if it waits."""
    taken: list[tuple[Lease, Verdict] | None] = []
    thread = threading.Thread(target=lambda: taken.append(inlet.take()), daemon=True)
    thread.start()
    thread.join(0.3)
    if not taken:
        inlet.close()
        thread.join(1)
        return None
    assert taken[0] is not None
    lease, verdict = taken[0]
    return lease.task.image_id, verdict


def test_images_go_in_while_they_fit_and_the_next_waits_for_the_first_to_leave() -> None:
    inlet = inlet_of(FakeMemory())
    leases = [lease_of(name, 100) for name in "abc"]
    for lease in leases:
        inlet.offer(lease)
    assert take_soon(inlet) == ("a", Verdict.ADMIT)
    assert take_soon(inlet) == ("b", Verdict.ADMIT)
    threading.Timer(0.1, inlet.left, (leases[0],)).start()
    assert take_soon(inlet) == ("c", Verdict.ADMIT)
    assert inlet.memory().in_flight_bytes == 200 * MIB


def test_nothing_overtakes_an_image_that_waits_to_be_alone() -> None:
    inlet = inlet_of(FakeMemory())
    for lease in (lease_of("a", 10), lease_of("suspect", 10, alone=True), lease_of("c", 10)):
        inlet.offer(lease)
    assert take_soon(inlet) == ("a", Verdict.ADMIT)
    assert take_soon(inlet) is None


def test_behind_a_closed_gate_one_image_at_a_time_goes_through() -> None:
    memory = FakeMemory()
    inlet = inlet_of(memory)
    memory.used_bytes = int(0.82 * memory.limit_bytes)
    inlet.observe(0.2)
    assert inlet.memory().gate.closed
    assert memory.trims == 1
    first, second = lease_of("a", 50), lease_of("b", 50)
    inlet.offer(first)
    inlet.offer(second)
    assert take_soon(inlet) == ("a", Verdict.ADMIT_ALONE)
    threading.Timer(0.1, inlet.left, (first,)).start()
    assert take_soon(inlet) == ("b", Verdict.ADMIT_ALONE)


def test_behind_a_closed_gate_what_does_not_even_fit_alone_is_parked_and_wanted() -> None:
    memory = FakeMemory()
    inlet = inlet_of(memory)
    memory.used_bytes = int(0.88 * memory.limit_bytes)
    inlet.observe(0.2)
    lease = lease_of("a", 100)
    inlet.offer(lease)
    assert take_soon(inlet) == ("a", Verdict.PARK)
    inlet.park(lease)
    assert inlet.memory().wanted_bytes > memory.limit_bytes


def test_a_worker_that_has_to_end_tries_parked_images_with_nearly_all_of_its_limit() -> None:
    memory = FakeMemory()
    inlet = inlet_of(memory)
    memory.used_bytes = int(0.88 * memory.limit_bytes)
    inlet.observe(0.2)
    room = memory.limit_bytes - memory.used_bytes
    fits, too_large = lease_of("fits", int(0.6 * room / MIB)), lease_of("too large", int(0.9 * room / MIB))
    for lease in (fits, too_large):
        inlet.offer(lease)
        assert take_soon(inlet) == (lease.task.image_id, Verdict.PARK)
        inlet.park(lease)
    assert inlet.drain() == [fits, too_large]
    inlet.offer(fits)
    assert take_soon(inlet) == ("fits", Verdict.ADMIT_ALONE)
    inlet.left(fits)
    inlet.offer(too_large)
    assert take_soon(inlet) == ("too large", Verdict.PARK)


def test_a_parked_image_comes_back_when_the_limit_is_raised_to_what_it_wanted() -> None:
    memory = FakeMemory()
    inlet = inlet_of(memory)
    lease = lease_of("large", 2000)
    inlet.offer(lease)
    assert take_soon(inlet) == ("large", Verdict.PARK)
    inlet.park(lease)
    wanted = inlet.memory().wanted_bytes
    assert inlet.observe(0.2) == []
    memory.limit_bytes = wanted
    assert inlet.observe(0.2) == [lease]
    assert inlet.memory().wanted_bytes == 0
    inlet.offer(lease)
    assert take_soon(inlet) == ("large", Verdict.ADMIT_ALONE)


def test_a_parked_image_whose_lease_ran_out_is_given_up() -> None:
    memory = FakeMemory()
    inlet = inlet_of(memory)
    lease = Lease(task=tasks_of(["large"], expires_at=0.0)[0], cost_bytes=4 * GIB)
    inlet.park(lease)
    assert inlet.observe(0.2) == [lease]


def test_the_floor_is_the_lowest_idle_reading_and_the_peak_the_highest_of_all() -> None:
    memory = FakeMemory()
    inlet = inlet_of(memory)
    inlet.offer(lease_of("a", 10))
    take_soon(inlet)
    memory.used_bytes = 100 * MIB
    inlet.observe(0.2)
    memory.used_bytes = 900 * MIB
    inlet.observe(0.2)
    assert inlet.memory().floor_bytes == 400 * MIB, "with an image in flight a reading is no floor"
    assert inlet.memory().peak_bytes == 900 * MIB


def test_credit_is_held_until_the_last_view_of_the_pixels_is_gone() -> None:
    books = Credits()
    credit = books.take(10 * MIB)
    pixels = torch.zeros(3 * MIB, dtype=torch.uint8)
    credit.bind(pixels, rest_bytes=2 * MIB)
    assert books.in_use_bytes() == 5 * MIB
    view = pixels[:10]
    del pixels
    credit.release()
    credit.release()
    gc.collect()
    assert books.in_use_bytes() == 3 * MIB
    del view
    assert books.in_use_bytes() == 0


class InletMachine(RuleBasedStateMachine):
    """Offers, takes, leaves, readings and resizes in any order: the books always balance."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = FakeMemory()
        self.inlet = inlet_of(self.memory)
        self.inside: list[Lease] = []
        self.names = 0

    @rule(cost_mib=st.integers(1, 3000), alone=st.booleans())
    def offer(self, cost_mib: int, alone: bool) -> None:
        self.names += 1
        self.inlet.offer(lease_of(str(self.names), cost_mib, alone))

    @precondition(lambda self: len(self.inlet) > 0)
    @rule()
    def take(self) -> None:
        taken = self.inlet._next()
        if taken is None:
            assert self.inside, "it waits with nothing in flight"
            return
        lease, verdict = taken
        if verdict is Verdict.ADMIT_ALONE:
            assert not self.inside
        if verdict in {Verdict.ADMIT, Verdict.ADMIT_ALONE}:
            assert not any(other.alone for other in self.inside)
            self.inside.append(lease)
        elif verdict is Verdict.PARK:
            self.inlet.park(lease)

    @precondition(lambda self: self.inside)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        lease = self.inside.pop(data.draw(st.integers(0, len(self.inside) - 1)))
        self.inlet.left(lease)
        self.inlet.left(lease)

    @rule(ratio=st.floats(0.1, 1.0), limit_mib=st.integers(512, 8192))
    def observe(self, ratio: float, limit_mib: int) -> None:
        self.memory.limit_bytes = limit_mib * MIB
        self.memory.used_bytes = int(ratio * self.memory.limit_bytes)
        for lease in self.inlet.observe(0.2):
            self.inlet.offer(lease)

    @invariant()
    def the_books_balance(self) -> None:
        memory = self.inlet.memory()
        assert memory.in_flight_images == len(self.inside)
        assert memory.in_flight_bytes == sum(lease.cost_bytes for lease in self.inside)
        assert memory.gate.budget_bytes <= 256 * MIB


TestInletMachine = InletMachine.TestCase
TestInletMachine.settings = hypothesis_settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_batch_is_what_may_go_in_together() -> None:
    inlet = inlet_of(FakeMemory())
    for name in "abc":
        inlet.offer(lease_of(name, 100))
    batch = inlet.take_batch(8)
    assert batch is not None
    assert [lease.task.image_id for lease, _ in batch] == ["a", "b"]


def test_no_image_is_refused_for_good_over_what_neighbours_hold() -> None:
    memory = FakeMemory(used_bytes=6 * GIB, limit_bytes=16 * GIB)
    inlet = inlet_of(memory, cap_bytes=2 * GIB)
    inlet.offer(lease_of("small", 33))
    assert take_soon(inlet) == ("small", Verdict.ADMIT)


def test_an_image_that_does_not_fit_beside_this_process_is_refused_among_neighbours_too() -> None:
    memory = FakeMemory(used_bytes=6 * GIB, limit_bytes=16 * GIB)
    inlet = inlet_of(memory, cap_bytes=2 * GIB)
    inlet.offer(lease_of("huge", 1800))
    assert take_soon(inlet) == ("huge", Verdict.REFUSE)
