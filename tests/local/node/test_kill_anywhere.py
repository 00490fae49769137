"""The API killed at random moments while pods are made, run and end: each pod still comes to its own end, once."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.local.node.conftest import Stack

ENDS = """
import time
print("began")
time.sleep({seconds})
open("/dev/termination-log", "w").write("told")
raise SystemExit(7)
"""


def kills(start: Callable[..., Stack], rounds: int, seed: int) -> None:
    """Each round makes pods, lives a little and is killed; the last one looks at what became of them all."""
    chance = random.Random(seed)
    names = []
    for number in range(rounds):
        stack = start()
        for pod in range(4):
            names.append(f"pod-{number}-{pod}")
            stack.run(names[-1], ENDS.format(seconds=round(chance.uniform(0.0, 1.5), 2)))
        time.sleep(chance.uniform(0.0, 0.5))
        stack.api.kill()
    stack = start()
    for name in names:
        ended = stack.ended(name).status.container_statuses[0]
        told = ended.state.terminated
        assert (told.exit_code, told.reason, told.message) == (7, "Error", "told"), name
        assert ended.restart_count == 0
        assert stack.log(name) == "began\n"
    bases = [Path(line) for line in (stack.api.workdir / "cgroup-bases").read_text().split("\n")]
    give_up = time.monotonic() + 5
    while left := [group for base in bases for group in base.glob("*/")]:
        assert time.monotonic() < give_up, left
        time.sleep(0.05)


def test_every_pod_comes_to_its_own_end_over_three_kills(start: Callable[..., Stack]) -> None:
    kills(start, rounds=3, seed=1)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(2, 8))
def test_every_pod_comes_to_its_own_end_over_many_kills(start: Callable[..., Stack], seed: int) -> None:
    kills(start, rounds=10, seed=seed)
