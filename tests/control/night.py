"""A watched run without a cluster: pods, samples and the clock are the test's, the store and the breaker are real."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

from tests.adapters.examples import RUN_ID, planned

from tidegate.adapters.kube_pods import KubePods, LivePod, Stage
from tidegate.adapters.prometheus import MemoryReader, Origin, Reading
from tidegate.adapters.run_store import RunStore
from tidegate.control.steps import Control
from tidegate.control.watch import Watch, Watched
from tidegate.core.answers import Policy
from tidegate.core.contract import GIB, MIB
from tidegate.core.detection import Foreseen, Sample
from tidegate.core.detection import Policy as Sensitivity
from tidegate.core.errors import RetryLater
from tidegate.core.remedy import Means, Measure
from tidegate.core.slot import Phase, PodCreated, RaiseAlert, Refusal, SlotState

INTERVAL_SECONDS = 5.0
BEGAN_AT = 1_000_000.0
LIMIT_BYTES = 2 * GIB
GRACE_SECONDS = 60.0


@dataclass(frozen=True)
class Course:
    """Memory by the pod's age, and how fast it answers images."""

    memory: Callable[[float], float]
    acks_per_second: float = 1.0


STEADY = Course(lambda _age: 0.6 * GIB)
#: The first limit is reached after some 160 s, and no image is answered on the way: whose growth it is, nobody knows.
GROWING = Course(lambda age: 0.4 * GIB + age * 10 * MIB, acks_per_second=0.0)
#: The same, with as much for each image: it leaks.
LEAKING = Course(GROWING.memory)


@dataclass
class ScriptedPod:
    """A pod as the cluster shows it, with what its samples tell."""

    pod: LivePod
    course: Course = STEADY


class ScriptedPods:
    """The cluster's side of `KubePods`: does what the test has set, and notes every order."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.scripts: dict[str, ScriptedPod] = {}
        self.orders: list[tuple[str, str, int | None]] = []
        self.refuses: Refusal | None = None
        self.actuates = True
        self.trouble: dict[str, BaseException] = {}

    async def live(self, selector: Any) -> dict[str, LivePod]:
        self._stumble("live")
        return {uid: script.pod for uid, script in self.scripts.items()}

    async def resize(self, name: str, uid: str, limit_bytes: int) -> Refusal | None:
        self._stumble("resize", name)
        self.orders.append(("resize", name, limit_bytes))
        if self.refuses is None and self.actuates:
            self._change(uid, actuated_limit_bytes=limit_bytes)
        return self.refuses

    async def drain(self, name: str, uid: str) -> None:
        self._stumble("drain", name)
        self.orders.append(("drain", name, None))

    async def delete(self, name: str, uid: str) -> None:
        self.orders.append(("delete", name, None))
        self._change(uid, leaves_by=self._clock() + GRACE_SECONDS)

    async def forget(self, name: str, uid: str) -> None:
        self.orders.append(("forget", name, None))
        del self.scripts[uid]

    def _change(self, uid: str, **changes: Any) -> None:
        self.scripts[uid].pod = replace(self.scripts[uid].pod, **changes)

    def _stumble(self, what: str, name: str = "") -> None:
        for key in (what, f"{what} {name}"):
            if key in self.trouble:
                raise self.trouble[key]


class ScriptedReader:
    """Prometheus's side of `MemoryReader`: what was scraped every interval until now."""

    def __init__(self, night: Night) -> None:
        self._night = night
        self.is_away = False
        #: The samples' clock is that far behind the watch's.
        self.behind_seconds = 0.0
        self.windows: list[float] = []

    def read(self, namespace: str, pod_prefix: str, window_seconds: float) -> dict[str, Reading]:
        if self.is_away:
            raise RetryLater("Prometheus did not answer")
        self.windows.append(window_seconds)
        now = self._night.now
        times = [at for at in self._night.scrapes if now - window_seconds <= at <= now]
        return {
            script.pod.name: Reading(Origin.WORKER, tuple(self._sample(script, at) for at in seen))
            for script in self._night.pods.scripts.values()
            if (seen := [at for at in times if at > script.pod.created_at])
        }

    def _sample(self, script: ScriptedPod, at: float) -> Sample:
        age = at - script.pod.created_at
        return Sample(
            t_seconds=at - self.behind_seconds,
            nonreclaimable_bytes=script.course.memory(age),
            limit_bytes=script.pod.actuated_limit_bytes or LIMIT_BYTES,
            acked=int(age * script.course.acks_per_second),
        )


@dataclass
class Night:
    """One run in `store`, watched; each `later` is so many rounds of the watch."""

    store: RunStore
    slots: int = 1
    allowed: frozenset[Measure] = frozenset(Measure)
    foreseen: Foreseen = field(default_factory=lambda: Foreseen(upper_bytes=0.7 * GIB, images_per_second=1.0))
    now: float = BEGAN_AT
    scrapes: list[float] = field(default_factory=list)
    told: list[RaiseAlert] = field(default_factory=list)

    def __post_init__(self) -> None:
        planned(self.store, slots=self.slots)
        self.pods = ScriptedPods(lambda: self.now)
        self.reader = ScriptedReader(self)
        means = Means(can_resize=True, restart_seconds=30.0, floor_bytes=GIB // 2, allowed=self.allowed)
        self.policy = Policy(means, drain_seconds=80.0, probation_seconds=100.0)
        self.watch = self.watching()

    def watching(self) -> Watch:
        """A new watch, as a triggerer makes it: it knows nothing but the store."""
        watched = Watched(
            run_id=RUN_ID,
            namespace="default",
            pod_prefix="tidegate-abc-",
            selector={},
            sensitivity=Sensitivity.preset(),
            foreseen=self.foreseen,
            images_total=10_000,
            interval_seconds=INTERVAL_SECONDS,
        )
        return Watch(
            watched=watched,
            store=self.store,
            control=Control(self.store, self.policy),
            pods=cast(KubePods, self.pods),
            reader=cast(MemoryReader, self.reader),
            clock=lambda: self.now,
            tell=self.told.append,
        )

    def launch(self, slot: int = 0, course: Course = STEADY, stage: Stage = Stage.RUNNING, **changes: Any) -> str:
        """The operator's part: a pod for the slot, created and recorded; its UID."""
        state = self.state(slot)
        uid = f"uid-{slot}-{state.generation}"
        pod = LivePod(
            name=f"tidegate-abc-run-{slot}",
            uid=uid,
            stage=stage,
            created_at=self.now,
            is_placed=stage is not Stage.PENDING,
            leaves_by=None,
            actuated_limit_bytes=state.limit_bytes if stage is Stage.RUNNING else None,
            refusal=None,
        )
        self.pods.scripts = {
            each: script for each, script in self.pods.scripts.items() if script.pod.name != pod.name
        } | {uid: ScriptedPod(replace(pod, **changes), course)}
        created = PodCreated(generation=state.generation, at=self.now, pod_uid=uid)
        Control(self.store, self.policy).happened(RUN_ID, slot, created)
        return uid

    def change(self, uid: str, **changes: Any) -> None:
        self.pods._change(uid, **changes)

    def state(self, slot: int = 0) -> SlotState:
        found = self.store.slot(RUN_ID, slot)
        assert found is not None
        return found.state

    def phase(self, slot: int = 0) -> Phase:
        return self.state(slot).phase

    def round(self, watch: Watch | None = None) -> list[SlotState]:
        return asyncio.run((watch or self.watch).round())

    def later(self, seconds: float, until: Phase | None = None) -> None:
        """Rounds every interval for `seconds`, or until slot 0 is in a phase, which it then must reach."""
        for _ in range(int(seconds / INTERVAL_SECONDS)):
            self.tick()
            self.round()
            if until is not None and self.phase() is until:
                return
        assert until is None, f"not {until} after {seconds:.0f} s but {self.phase()}: {self.state().reason}"

    def hurry(self) -> None:
        """Let an interval pass with each look at the clock, so that the watch waits for nothing."""

        def clock() -> float:
            self.tick()
            return self.now

        self.watch.clock = clock

    def tick(self) -> None:
        self.now += INTERVAL_SECONDS
        self.scrapes.append(self.now)
