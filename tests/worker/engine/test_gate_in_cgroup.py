"""The gate against real cgroups: it closes by the kernel's numbers, progress goes on, a resize opens it."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.worker.engine.cage import Cage, caged

from tidegate.core.contract import MIB

#: Works images for as long as there is standard input; holds a balloon of the size it is told, in MiB, and prints what
#: the inlet knows four times a second.
WORKER = """
import json, sys, threading, time
from pathlib import Path
from tidegate_worker import allocator
allocator.tune()
from tests.worker.engine.bed import *
from tidegate_worker.cgroup import find_memory
from tidegate_worker.engine import Engine
from tidegate_worker.journal import Journal
from tidegate_worker.pipeline.drain import Drain
directory = Path(sys.argv[1])
images = {"image": jpeg(1600, 1200), "large": encoded(Image.new("RGB", (6000, 6000), "green"), "PNG")}
names = [f"image-{n}" for n in range(100000)]
fetcher = fetcher_of({})
fetcher.images = type("Any", (dict,), {"get": lambda self, url: images["large" if "large" in url else "image"]})()
drain = Drain()
job = BedJob(tasks_of((["large"] if sys.argv[2] == "large" else []) + names))
engine = Engine(assignment(micro_batch_images=2, cap_bytes=4 * 2**30), job, fetcher, BedPredictor(seconds=0.02),
                settings(directory), drain, find_memory(), Journal(directory / "termination-log"))
balloon = []
def listen():
    for line in sys.stdin:
        balloon.clear()
        balloon.append(bytearray(b"x") * (int(line) * 2**20))
    drain.ask("input closed")
def tell():
    while True:
        memory, tally = engine.inlet.memory(), engine.ledger.tally()
        print(json.dumps(dict(closed=memory.gate.closed, closed_seconds=memory.gate.closed_seconds,
            budget=memory.gate.budget_bytes, wanted=memory.wanted_bytes, used=memory.reading.nonreclaimable_bytes,
            limit=memory.reading.limit_bytes, acked=tally.acked, parked=memory.parked_images,
            large="large" in engine.predictor.seen)), flush=True)
        time.sleep(0.25)
print(json.dumps(dict(used=find_memory().read().nonreclaimable_bytes)), flush=True)
sys.stdin.readline()
threading.Thread(target=listen, daemon=True).start()
threading.Thread(target=tell, daemon=True).start()
print(engine.run().exit_code)
"""


def watch(process: subprocess.Popen[str], until: str, seconds: float = 30) -> dict[str, Any]:
    """The first line of which `until` holds, an expression over its fields."""
    assert process.stdout is not None
    deadline = time.monotonic() + seconds
    line: dict[str, Any] = {}
    while time.monotonic() < deadline:
        text = process.stdout.readline()
        assert text, process.stderr.read()[-3000:] if process.stderr else ""
        line = json.loads(text)
        if eval(until, {}, line):  # a test's own constant
            return line
    raise AssertionError(f"not in {seconds} s: {until}; last: {line}")


def balloon(process: subprocess.Popen[str], mib: int) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{mib}\n")
    process.stdin.flush()


def start(cage: Cage, directory: Path, job: str = "small") -> subprocess.Popen[str]:
    return cage.start(WORKER, [str(directory), job])


def test_the_gate_closes_by_the_kernels_numbers_progress_goes_on_and_a_resize_opens_it(tmp_path: Path) -> None:
    limit = 1024 * MIB
    with caged(limit) as cage:
        process = start(cage, tmp_path)
        floor = watch(process, "used > 0", 60)["used"]
        balloon(process, 0)
        opened = watch(process, f"limit == {limit} and acked > 10")
        assert not opened["closed"]

        balloon(process, int((0.85 * limit - floor) / MIB))
        closed = watch(process, "closed")
        assert closed["used"] >= 0.8 * limit * 0.9
        assert closed["budget"] < opened["budget"]
        crawling = watch(process, f"closed and acked > {closed['acked'] + 5}")
        assert crawling["closed_seconds"] > 0

        cage.limit(2 * limit)
        reopened = watch(process, "not closed")
        assert reopened["limit"] == 2 * limit
        watch(process, f"budget > {closed['budget']}")

        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 0


def test_an_image_too_large_for_the_limit_is_parked_and_wanted_until_a_resize_lets_it_in(tmp_path: Path) -> None:
    with caged(4096 * MIB) as cage:
        process = start(cage, tmp_path, "large")
        limit = watch(process, "used > 0", 60)["used"] + 180 * MIB
        cage.limit(limit)
        balloon(process, 0)
        parked = watch(process, "parked == 1 and acked > 3")
        assert parked["wanted"] > limit
        assert not parked["large"]

        cage.limit(parked["wanted"] + 16 * MIB)
        watch(process, "large and parked == 0")
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 0
        assert int((cage.directory / "memory.oom_control").read_text().split("oom_kill ")[1]) == 0
