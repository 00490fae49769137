"""Memory of simulated inference pods, second by second, composed of the things that move it in real workers.

Covers healthy jobs, jobs that reach their limit, and jobs that the gate holds; each trace also carries what the worker
would tell (credits in flight, gate, acks) and what a plan would foresee. The truth of a trace is read off the trace:
`limit_at` is the first second at or over the limit, whatever the recipe intended. Not here: sampling and judging.

Memory is in shares of the limit until the end, where the limit's size is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tidegate.core.contract import GIB
from tidegate.core.detector import Foreseen

Array = NDArray[np.float64]

#: What a healthy job may do; each adds one thing to the ordinary life of a pod.
HEALTHY: Final = (
    "steady",
    "steady_high",
    "plateau",
    "bursts",
    "bimodal",
    "sawtooth",
    "noise",
    "stalls",
    "reload",
    "page_cache",
    "drift",
)
#: How a job reaches its limit.
RAMPS: Final = ("linear", "curved", "leak_per_image", "stairs", "miscosted")
#: The worker shuts its inlet at 0.80 already; a later one makes load and ramp harder to tell apart.
_INLET_RATIO: Final = 0.92
#: What sizing guarantees: a limit of at least the peak over 0.80, and an upper bound below that.
_PLANNED_RATIO: Final = 0.80
#: Plans are made from earlier runs: in this share of jobs the images are larger than those were.
_WRONG_PLAN_RATIO: Final = 1 / 7
HELD: Final = ("shut", "flapping", "parked")


@dataclass(frozen=True, slots=True)
class Trace:
    """One pod's life; every array has one value a second."""

    kind: str
    memory: Array
    limit_bytes: float
    in_flight: Array
    gate_closed: Array
    wanted: Array
    acked: Array
    foreseen: Foreseen
    #: When the work began: model loading before it is nobody's ramp.
    work_at: float
    #: When the thing began that leads to the limit, or to starving; None for healthy jobs.
    onset: float | None = None

    @property
    def limit_at(self) -> float | None:
        over = np.flatnonzero(self.memory >= self.limit_bytes)
        return float(over[0]) if over.size else None

    @property
    def seconds(self) -> int:
        return int(self.memory.size)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _wander(rng: np.random.Generator, n: int, seconds: float, sigma: float) -> Array:
    """Noise with a memory of `seconds`."""
    coarse = max(2, int(n / (seconds / 4)) + 2)
    steps = rng.normal(0, 1, coarse)
    share = np.exp(-0.25)
    values = np.empty(coarse)
    value = 0.0
    for i, step in enumerate(steps):
        value = share * value + step * np.sqrt(1 - share**2)
        values[i] = value
    return np.asarray(sigma * np.interp(np.arange(n), np.linspace(0, n, coarse), values))


def _load_model(rng: np.random.Generator, n: int, start: int, level: float) -> tuple[Array, int]:
    """Memory while a model loads, from `start` to the end, and the second at which it is loaded."""
    seconds = int(rng.uniform(8, 90))
    t = np.arange(n) - start
    shape = rng.integers(3)
    if shape == 0:
        rise = np.clip(t / seconds, 0, 1)
    elif shape == 1:
        rise = np.where(t > 0, 1 - np.exp(-np.clip(t, 0, None) / (seconds / 4)), 0.0)
    else:
        edges = np.sort(rng.uniform(0, seconds, 3))
        rise = sum((np.clip((t - edge) / 4, 0, 1) for edge in edges), np.zeros(n)) / 3
    return np.asarray(0.01 + (level - 0.01) * rise), start + seconds + 5


def _slewed(target: Array, up_per_second: float, down_per_second: float) -> Array:
    """`target` followed no faster than images are decoded and freed."""
    if not target.any():
        return target
    out = np.empty_like(target)
    value = 0.0
    for i, goal in enumerate(target.tolist()):
        value = min(goal, value + up_per_second) if goal > value else max(goal, value - down_per_second)
        out[i] = value
    return out


@dataclass(slots=True)
class _Pod:
    """A pod under composition, in shares of the limit."""

    held: Array
    credits: Array
    pace: Array
    gate: Array
    work_at: int
    restarts: list[int]


def _episodes(rng: np.random.Generator, n: int, start: int, per_hour: float) -> list[int]:
    count = rng.poisson(per_hour * max(0, n - start) / 3600)
    return sorted(int(x) for x in rng.uniform(start, n, count))


def _compose(rng: np.random.Generator, kind: str, n: int) -> _Pod:
    held, work_at = _load_model(rng, n, 0, rng.uniform(0.15, 0.5))
    t = np.arange(n)
    working = (t >= work_at).astype(float)
    since = np.clip(t - work_at, 0, None)
    # Arenas, kernels and caches of libraries that fill while the first batches run.
    if kind == "plateau":
        size, seconds = rng.uniform(0.1, 0.45), _log_uniform(rng, 15, 600)
    else:
        size, seconds = rng.uniform(0.01, 0.1), _log_uniform(rng, 10, 180)
    held = held + size * (1 - np.exp(-since / seconds))
    usual = rng.uniform(0.03, 0.2)
    target = usual * np.clip(1 + _wander(rng, n, _log_uniform(rng, 5, 60), rng.uniform(0.05, 0.3)), 0.2, 2) * working
    pace = working.copy()
    gate = np.zeros(n)
    fill_seconds = float(np.clip(rng.lognormal(np.log(8), 0.7), 2, 40))
    high = usual * rng.uniform(1.5, 5)
    if kind == "bimodal":
        edge, large = work_at, False
        while edge < n:
            span = int(rng.exponential(_log_uniform(rng, 40, 400))) + 5
            if large:
                target[edge : edge + span] = high * rng.uniform(0.9, 1)
                pace[edge : edge + span] *= 0.3
            edge, large = edge + span, not large
    bursts = rng.uniform(1, 6) if kind == "bursts" else 0.3
    for at in _episodes(rng, n, work_at, bursts):
        span = int(fill_seconds + _log_uniform(rng, 5, 600))
        target[at : at + span] = usual + (high - usual) * rng.uniform(0.5, 1)
        pace[at : at + span] *= 0.3
        top = at + int(fill_seconds)
        # A closing lowers the budget, so another does not follow at once.
        if rng.random() < 0.5 and not gate[max(0, top - 120) : top].any():
            gate[top : top + int(rng.uniform(2, 18))] = 1.0
    for at in _episodes(rng, n, work_at, 4.0 if kind == "stalls" else 0.2):
        span = int(_log_uniform(rng, 15, 400))
        target[at : at + span] = 0
        pace[at : at + span] = 0
    admitted = _slewed(target, high / fill_seconds, high / rng.uniform(3, 20))
    if kind == "sawtooth":
        period, size = _log_uniform(rng, 20, 1200), rng.uniform(0.05, 0.25)
        phase = np.cumsum(working / period * np.clip(1 + _wander(rng, n, 4 * period, 0.1), 0.5, 2))
        held = held + size * (phase % 1.0)
    if kind == "page_cache":
        # The pages themselves are reclaimable and not in these samples; the kernel's own structures for them are.
        held = held + rng.uniform(0.01, 0.04) * (1 - np.exp(-since / _log_uniform(rng, 300, 7200)))
    if kind == "drift":
        held = held + rng.uniform(0.02, 0.25) * np.cumsum(pace) / max(1.0, float(np.sum(pace)))
    sigma = rng.uniform(0.002, 0.012) if kind == "noise" else rng.uniform(0.0003, 0.003)
    held = held + rng.normal(0, sigma, n)
    wander = rng.uniform(0.005, 0.02) if kind == "noise" else rng.uniform(0, 0.004)
    held = held + _wander(rng, n, _log_uniform(rng, 20, 400), wander) * working
    restarts = []
    if kind == "reload":
        for at in _episodes(rng, n, work_at + 300, 0.7):
            again, ready = _load_model(rng, n, at, float(held[max(0, at - 1)]))
            held[at:] = np.minimum(held[at:], again[at:])
            admitted[at:ready] = 0
            pace[at:ready] = 0
            restarts.append(at)
    return _Pod(held, admitted, pace, gate, work_at, restarts)


def _told(
    rng: np.random.Generator,
    pod: _Pod,
    memory: Array,
    usual: Array,
    kind: str,
    onset: float | None,
    wanted: Array,
    upper: float,
) -> Trace:
    """The trace in bytes, with the worker's counters, and what the plan and runs of `usual` memory tell."""
    n = memory.size
    limit = float(rng.choice([2, 4, 8, 16, 32, 64])) * GIB
    images_per_second = _log_uniform(rng, 0.3, 20)
    acked = np.cumsum(rng.poisson(images_per_second * pod.pace)).astype(float)
    gate = np.cumsum(pod.gate)
    for at in pod.restarts:
        if at < n:
            acked[at:] -= acked[at]
            gate[at:] -= gate[at]
    calm = usual[pod.work_at + 120 :] if n > pod.work_at + 400 else usual
    paces = (calm[60:] - calm[:-60]) / 60
    rising = paces[paces > 0]
    baseline = float(np.percentile(rising, 95)) if rising.size else 1e-5
    peak = float(np.max(usual))
    return Trace(
        kind=kind,
        memory=np.clip(memory, 0.0, None) * limit,
        limit_bytes=limit,
        in_flight=pod.credits[:n] * limit,
        gate_closed=gate,
        wanted=wanted * limit,
        acked=acked,
        foreseen=Foreseen(
            upper_bytes=upper * limit,
            baseline_velocity_bytes_per_second=baseline * limit,
            # The plan knows the healthy pace, not the crawl.
            images_per_second=images_per_second
            * float(np.mean(pod.pace[pod.work_at : max(pod.work_at + 1, int(onset or n))])),
            budget_bytes=float(np.max(pod.credits)) * rng.uniform(1.0, 1.15) * limit,
            peak_centre_bytes=peak * rng.uniform(0.92, 1.05) * limit,
            peak_scale_bytes=rng.uniform(0.02, 0.06) * limit,
        ),
        work_at=float(pod.work_at),
        onset=onset,
    )


def _scaled(rng: np.random.Generator, pod: _Pod, peak: float) -> Array:
    """Bring the pod's highest second to `peak`; credits over-state what images hold, by a factor of their own."""
    used = pod.credits * rng.uniform(0.5, 1.05)
    # Memory is freed a little after the credit that stood for it.
    lagged = np.maximum(used, np.concatenate([np.zeros(2), used[:-2]]))
    factor = peak / float(np.max(pod.held + lagged))
    pod.held *= factor
    pod.credits *= factor
    return np.asarray(pod.held + lagged * factor)


def _planned(rng: np.random.Generator, lowest: float, highest: float) -> tuple[float, float]:
    """A job's peak and the plan's upper bound for it; only a wrong plan lets a peak over what it grants."""
    if rng.random() < _WRONG_PLAN_RATIO:
        peak = rng.uniform(lowest, highest)
        return peak, min(_PLANNED_RATIO, peak * rng.uniform(0.85, 0.97))
    peak = rng.uniform(lowest, _PLANNED_RATIO)
    return peak, min(_PLANNED_RATIO, peak * rng.uniform(1.0, 1.15))


def healthy(rng: np.random.Generator, kind: str, hours: float) -> Trace:
    """A job that never reaches its limit."""
    n = int(hours * 3600)
    pod = _compose(rng, kind, n)
    if kind == "steady_high":
        # No plan grants this: someone set the limit by hand, and says what to expect or not.
        peak = rng.uniform(0.86, 0.96)
        wrong = rng.random() < _WRONG_PLAN_RATIO
        upper = min(0.97, peak * (rng.uniform(0.85, 0.97) if wrong else rng.uniform(1.0, 1.15)))
    else:
        peak, upper = _planned(rng, 0.45, 0.93)
    memory = _scaled(rng, pod, peak)
    return _told(rng, pod, memory, memory, kind, None, np.zeros(n), upper)


def doomed(rng: np.random.Generator, ramp: str) -> Trace:
    """A job that reaches its limit some time after an onset, over any kind of healthy life."""
    kind = str(rng.choice([kind for kind in HEALTHY if kind not in ("reload", "steady_high")]))
    seconds_to_limit = _log_uniform(rng, 20, 3 * 3600)
    early = rng.random() < 0.1
    calm = rng.uniform(0, 300) if early else rng.uniform(200, 5400)
    n = int(120 + calm + 2.5 * seconds_to_limit + 300)
    pod = _compose(rng, kind, n)
    peak, upper = _planned(rng, 0.35, 0.85)
    usual = _scaled(rng, pod, peak)
    onset = min(n - 60, int(pod.work_at + calm))
    room = 1 - float(usual[onset])
    since = np.clip(np.arange(n) - onset, 0, None) / seconds_to_limit
    if ramp == "linear":
        growth = since
    elif ramp == "curved":
        growth = since ** rng.uniform(0.8, 1.5)
    elif ramp == "leak_per_image":
        work = np.cumsum(pod.pace * (np.arange(n) >= onset))
        growth = work / seconds_to_limit
    elif ramp == "stairs":
        stair = min(rng.uniform(1, 10), seconds_to_limit / 10) / seconds_to_limit
        growth = np.floor(since / stair) * stair
    else:
        growth = since
        pod.credits = pod.credits + room * growth / rng.uniform(2, 4)
    # Stairs begin with a step, and a leak per image with an image: before that nothing has begun.
    moves = np.flatnonzero(growth > 0)
    onset = int(moves[0]) - 1 if moves.size else onset
    # The inlet admits no burst into the last of the headroom, so it is the ramp that reaches the limit, not the load.
    load = usual - pod.held
    admitted = np.clip(_INLET_RATIO - pod.held - room * growth, 0.0, load)
    memory = pod.held + room * growth + admitted
    pod.credits = np.where(load > 0, pod.credits * admitted / np.maximum(load, 1e-9), pod.credits)
    over = np.flatnonzero(memory >= 1)
    end = int(over[0]) + 1 if over.size else n
    for name in ("held", "credits", "pace", "gate"):
        setattr(pod, name, getattr(pod, name)[:end])
    return _told(rng, pod, memory[:end], usual, ramp, float(onset), np.zeros(end), upper)


def held(rng: np.random.Generator, kind: str) -> Trace:
    """A job whose memory the gate holds under the limit, so that it crawls instead of dying."""
    n = int(rng.uniform(1800, 3600))
    pod = _compose(rng, "steady", n)
    usual = memory = _scaled(rng, pod, rng.uniform(0.4, 0.7))
    onset = int(rng.uniform(600, n - 900))
    rise = int(_log_uniform(rng, 10, 120))
    level = rng.uniform(0.76, 0.84)
    share = np.clip((np.arange(n) - onset) / rise, 0, 1)
    memory = memory * (1 - share) + share * (level + rng.normal(0, 0.002, n))
    # Large images: credits account for what the gate then holds.
    pod.credits = pod.credits * (1 - share) + share * np.clip(level - pod.held, 0.0, None) / rng.uniform(0.7, 1.05)
    late = np.arange(n) >= onset + rise
    wanted = np.zeros(n)
    if kind == "shut":
        pod.gate[late] = 1.0
        pod.pace[late] = 0.0
    elif kind == "flapping":
        pod.gate[late] = (np.arange(n)[late] % 10 < rng.uniform(5, 8)).astype(float)
        pod.pace[late] *= rng.uniform(0.05, 0.35)
    else:
        wanted[late] = rng.uniform(1.05, 1.6)
    return _told(rng, pod, memory, usual, kind, float(onset + rise), wanted, 0.75)
