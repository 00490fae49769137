"""A job worked by one worker after the other, each killed at a random moment, on the same folders; and the reckoning.

After each kill the dead worker's own records say what it held, which bounds what may be done twice. Both reckonings ask
somebody else than the worker for the truth: the job server, or the files that a reader of the output would read.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.worker.jobs.demo_server import DemoServer

from tidegate.core.contract import MIB, PLAN_ENV, Assignment, ExitCode, IngestSettings, Source, SourceKind
from tidegate_worker.jobs.antenna.answer_log import AnswerLog
from tidegate_worker.jobs.antenna.lease_log import LeaseLog

ROOT = Path(__file__).parents[3]
PIPELINE = "tidegate_demo"
#: Shorter than many a worker's life and than the pause after a kill, so that tasks run out and are delivered twice.
LEASE_SECONDS = 5.0
_LAST_LIFE_SECONDS = 900
_INGEST = IngestSettings(
    budget_bytes=64 * MIB,
    micro_batch_images=4,
    downloads_in_flight=2,
    staged_images=8,
    staging_bytes=32 * MIB,
    decode_threads=1,
    lease_images=12,
)


class Nursery:
    """Starts workers quickly; see `nursery`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.worker.kills.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def start(self, environment: dict[str, str], log: Path) -> int:
        told = {"arguments": ["run"], "environment": environment, "log": str(log)}
        return int(self._ask({"start": told}))

    def wait(self, pid: int, seconds: float) -> int | None:
        """The exit code, negative for a signal; None where it still runs."""
        return self._ask({"wait": {"pid": pid, "seconds": seconds}})  # type: ignore[no-any-return]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)

    def _ask(self, told: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@contextlib.contextmanager
def nursery() -> Iterator[Nursery]:
    opened = Nursery()
    try:
        yield opened
    finally:
        opened.close()


@dataclass
class Run:
    """One job and the folders that its workers inherit."""

    nursery: Nursery
    folder: Path
    source: Source
    environment: dict[str, str]
    generation: int = 0
    #: How each life ended: an exit code, or a signal as a negative number.
    ends: list[int] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.folder / "worker.log"

    def born(self) -> int:
        assignment = Assignment(
            run_id="kills",
            slot=0,
            generation=self.generation,
            source=self.source,
            pipeline=PIPELINE,
            model_version="1",
            cap_bytes=2048 * MIB,
            ingest=_INGEST,
            grace_seconds=30,
            images_per_second=20,
        )
        self.generation += 1
        return self.nursery.start(self.environment | {PLAN_ENV: assignment.to_json()}, self.log)

    def killed(self, death: Death) -> bool:
        """One life and its end; False where the job was done before."""
        self.log.touch()
        told_before = self.log.stat().st_size
        pid = self.born()
        if death.at_work:
            self._until_at_work(pid, told_before)
        code = self.nursery.wait(pid, death.after_seconds)
        if code is None:
            os.kill(pid, death.by)
            code = self.nursery.wait(pid, 120)
        self.ends.append(self._sound(code))
        return code != ExitCode.DONE

    def finished(self, seconds: float) -> None:
        """A last life, left alone until the job is done."""
        pid = self.born()
        code = self.nursery.wait(pid, seconds)
        if code is None:
            os.kill(pid, signal.SIGKILL)
            self.nursery.wait(pid, 10)
        assert code == ExitCode.DONE, f"exit {code}; {self.last_words()}"

    def last_words(self) -> str:
        return self.log.read_text()[-3000:]

    def _until_at_work(self, pid: int, told_before: int) -> None:
        """Until it says that its pipeline is loaded: from then on it leases."""
        give_up_at = time.monotonic() + 300
        while True:
            with self.log.open("rb") as log:
                log.seek(told_before)
                if b"loaded pipeline" in log.read():
                    return
            assert self.nursery.wait(pid, 0.02) is None, self.last_words()
            assert time.monotonic() < give_up_at, "a worker does not start"

    def _sound(self, code: int | None) -> int:
        assert code in {-signal.SIGKILL, -signal.SIGTERM, ExitCode.DRAINED, ExitCode.DONE}, (
            f"exit {code}: {self.last_words()}"
        )
        return code


def run_of(nursery: Nursery, folder: Path, source: Source, demo: DemoServer, infer_seconds: float, **more: str) -> Run:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "OMP_NUM_THREADS": "1",
        "TIDEGATE_STAGING_DIR": str(folder / "staging"),
        "TIDEGATE_TERMINATION_LOG": str(folder / "last-words"),
        "TIDEGATE_ANTENNA_TOKEN": demo.token,
        "TIDEGATE_ANTENNA_LEASE_SECONDS": str(LEASE_SECONDS),
        "TIDEGATE_ALLOWED_NETWORKS": "127.0.0.0/8",
        "TIDEGATE_METRICS_PORT": "-1",
        "TIDEGATE_POLL_SECONDS": "0.2",
        "TIDEGATE_DEMO_INFER_SECONDS_PER_IMAGE": str(infer_seconds),
        "TIDEGATE_DEVICE": "cpu",
        **more,
    }
    return Run(nursery, folder, source, environment)


def register(demo: DemoServer, folder: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "tidegate_worker", "register", "--pipeline", PIPELINE],
        env=os.environ | {"TIDEGATE_ANTENNA_URL": demo.api_url, "TIDEGATE_ANTENNA_TOKEN": demo.token},
        cwd=folder,
        check=True,
        timeout=600,
    )


@dataclass(frozen=True)
class Death:
    by: signal.Signals
    #: Counted from its first breath, or from when it was at work.
    at_work: bool
    after_seconds: float


@dataclass(frozen=True)
class Deaths:
    """What to do to the workers of one job, drawn from a seed."""

    kills: int
    terminations: int
    seed: int
    longest_life_seconds: float

    def drawn(self) -> Iterator[Death]:
        dice = random.Random(self.seed)
        signals = [signal.SIGKILL] * self.kills + [signal.SIGTERM] * self.terminations
        dice.shuffle(signals)
        for by in signals:
            yield Death(by, dice.random() < 0.9, dice.uniform(0.0, self.longest_life_seconds))


def die_over(run: Run, deaths: Deaths, at_death: Callable[[], None] = lambda: None) -> None:
    """Every death of `deaths`. Fails where the job was done before the last."""
    for number, death in enumerate(deaths.drawn()):
        assert run.killed(death), f"the job was done after {number} deaths: give it more images"
        at_death()


class AntennaReckoning:
    """What the job server saw, against what the dead held."""

    def __init__(self, run: Run, demo: DemoServer, job: str) -> None:
        self._run = run
        self._demo = demo
        self._job = job
        #: At how many deaths each image was leased and not answered, or answered and not known to be accepted.
        self._leased: Counter[str] = Counter()
        self._unsettled: Counter[str] = Counter()

    def at_death(self) -> None:
        for folder in (self._run.folder / "staging" / "state").glob("antenna-*"):
            leases, answers = LeaseLog(folder), AnswerLog.open(folder, subjects_good_seconds=60)
            self._leased.update(lease.image_id for lease in leases.open)
            self._unsettled.update({post.answer.image_id for post in answers.waiting})
            answers.close()
            leases.close()

    def reckon(self) -> dict[str, int]:
        """Nothing lost, nothing failed, nothing done again that no dead worker held; the figures."""
        self._demo.wait_for(self._job, "SUCCESS", seconds=60)
        truth = self._demo.truth(self._job)
        images = truth["images"]
        assert [image["image_id"] for image in images if not image["saved"] or image["lost"]] == []
        assert [image["image_id"] for image in images if image["errors"] or image["failed"]] == []
        fetched_too_often = {
            image["image_id"]: (image["downloads"], self._leased[image["image_id"]])
            for image in images
            if image["downloads"] > 1 + self._leased[image["image_id"]]
        }
        assert fetched_too_often == {}
        # A delivery more is an answer more, from the log: nothing is computed for it.
        answered_too_often = {
            image["image_id"]: image["answers"]
            for image in images
            if image["answers"]
            > image["deliveries"] + self._leased[image["image_id"]] + self._unsettled[image["image_id"]]
        }
        assert answered_too_often == {}
        return {
            "images": len(images),
            "held_at_deaths": sum(self._leased.values()),
            "downloads_twice": sum(image["downloads"] - 1 for image in images),
            "answers_twice": sum(image["answers"] - 1 for image in images),
            "delivered_twice": sum(image["deliveries"] > 1 for image in images),
            "held_by_two_of_the_dead": sum(
                image["deliveries"] > 1 and self._leased[image["image_id"]] > 1 for image in images
            ),
        }


def antenna_run(nursery: Nursery, demo: DemoServer, folder: Path, images: int, deaths: Deaths) -> dict[str, int]:
    """One Antenna job of tiny images through all the deaths; the figures of its reckoning."""
    folder.mkdir()
    job = demo.create_job(images, PIPELINE, kind="tiny", lease_seconds=LEASE_SECONDS)
    demo.wait_for(job, "STARTED")
    source = Source(kind=SourceKind.ANTENNA, uri=demo.api_url, job=job)
    run = run_of(nursery, folder, source, demo, infer_seconds=0.02)
    reckoning = AntennaReckoning(run, demo, job)
    die_over(run, deaths, reckoning.at_death)
    run.finished(_LAST_LIFE_SECONDS)
    return reckoning.reckon() | _ends(run)


def manifest_run(nursery: Nursery, demo: DemoServer, folder: Path, images: int, deaths: Deaths) -> dict[str, int]:
    """One manifest of tiny images with a SQLite ledger through all the deaths; the figures of its reckoning."""
    folder.mkdir()
    manifest = demo.call("POST", "/demo/manifests/", {"name": folder.name, "kind": "tiny", "images": images})
    source = Source(kind=SourceKind.MANIFEST, uri=manifest["csv"], job="night")
    run = run_of(
        nursery,
        folder,
        source,
        demo,
        infer_seconds=0.02,
        TIDEGATE_OUTPUT_URI=str(folder / "out"),
        TIDEGATE_CHUNK_ROWS="16",
    )
    die_over(run, deaths)
    run.finished(_LAST_LIFE_SECONDS)
    output = folder / "out" / "night"
    index = json.loads((output / "_index.json").read_text())
    assert index["complete"]
    parts = {part["name"] for part in index["parts"]}
    rows = [json.loads(line) for name in sorted(parts) for line in (output / name).read_text().splitlines()]
    assert sorted(row["row"] for row in rows) == list(range(images)), "each image once, and all"
    assert [row["row"] for row in rows if row.get("error") or row.get("quarantined")] == []
    assert {f"parts/{path.name}" for path in (output / "parts").iterdir()} == parts, "no part that the index denies"
    again = _fetches(demo, manifest["image_ids"]) - images
    # What a dead worker had leased and not saved is fetched again, no more.
    assert again <= _INGEST.lease_images * (deaths.kills + deaths.terminations)
    return {"images": images, "parts": len(parts), "downloads_twice": again} | _ends(run)


def _fetches(demo: DemoServer, image_ids: list[str]) -> int:
    """How often these images were asked for: a job that is never started lists them."""
    job = demo.create_job(len(image_ids), PIPELINE, image_ids=image_ids, start=False)
    return sum(image["downloads"] for image in demo.truth(job)["images"])


def _ends(run: Run) -> dict[str, int]:
    counted = Counter(run.ends)
    return {
        "killed": counted[-signal.SIGKILL],
        "terminated_before_ready": counted[-signal.SIGTERM],
        "drained": counted[ExitCode.DRAINED],
    }
