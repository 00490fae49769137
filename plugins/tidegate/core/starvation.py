"""Whether a pod crawls for want of memory: its gate is shut, its pace is gone, or an image waits for room.

Only hardship that the gate or a parked image owns up to counts: a slow network or an empty queue is no starvation.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from tidegate.core.detection import Foreseen, Policy, Sample, in_gib

#: Samples kept for the minute that is looked at: a scrape a second, with room.
_SAMPLES: Final = 128


class Starvation:
    """The gate, the pace and the waiting of one process."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._pace: deque[Sample] = deque(maxlen=_SAMPLES)
        self._shut_seconds = 0.0
        self._wanted_since: float | None = None

    def observe(self, sample: Sample) -> None:
        """Take in a sample later than the last."""
        policy, pace = self._policy, self._pace
        if pace:
            elapsed = sample.t_seconds - pace[-1].t_seconds
            shut = sample.gate_closed_seconds - pace[-1].gate_closed_seconds
            self._shut_seconds = self._shut_seconds + shut if shut >= policy.gate_shut_ratio * elapsed else 0.0
        pace.append(sample)
        while len(pace) > 3 and sample.t_seconds - pace[1].t_seconds >= policy.slow_window_seconds:
            pace.popleft()
        if sample.wanted_bytes <= 0:
            self._wanted_since = None
        elif self._wanted_since is None:
            self._wanted_since = sample.t_seconds

    def sentence(self, foreseen: Foreseen) -> str | None:
        """Why the pod crawls for want of memory, or None."""
        policy, pace = self._policy, self._pace
        if not pace:
            return None
        last = pace[-1]
        if self._shut_seconds >= policy.gate_shut_seconds:
            return f"the gate has been shut for {self._shut_seconds:.0f} s: let the pod have more memory"
        if self._wanted_since is not None and last.t_seconds - self._wanted_since >= policy.wanted_seconds:
            waited = last.t_seconds - self._wanted_since
            return f"an image has waited {waited:.0f} s for a limit of {in_gib(last.wanted_bytes)}"
        elapsed = last.t_seconds - pace[0].t_seconds
        if len(pace) < 3 or elapsed < policy.slow_window_seconds or foreseen.images_per_second <= 0:
            return None
        rate = (last.acked - pace[0].acked) / elapsed
        middle = pace[len(pace) // 2]
        # Shut in both halves: one short closing that happens to fall into a slow minute is no crawl.
        shut = min(
            (later.gate_closed_seconds - earlier.gate_closed_seconds) / (later.t_seconds - earlier.t_seconds)
            for earlier, later in ((pace[0], middle), (middle, last))
        )
        if rate < policy.slow_pace_ratio * foreseen.images_per_second and shut >= policy.slow_gate_ratio:
            return (
                f"{rate:.2f} images/s over {elapsed:.0f} s where the plan has {foreseen.images_per_second:.2f}, "
                f"with the gate shut at least {shut:.0%} of the time"
            )
        return None
