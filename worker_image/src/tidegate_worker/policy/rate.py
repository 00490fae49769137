"""Images per second, from how long recent images took: a mean over a sliding window."""

from __future__ import annotations

from collections import deque
from typing import Final

_WINDOW_SECONDS: Final = 60.0
#: A rate from fewer images says nothing.
_FEWEST_IMAGES: Final = 4


class Rate:
    """Counts images as they are done. Idle time is not work: the window starts anew after it."""

    def __init__(self, prior_images_per_second: float = 0.0) -> None:
        self._prior = prior_images_per_second
        self._since: float | None = None
        self._done: deque[float] = deque()

    def started(self, now: float) -> None:
        """There is work from now on."""
        if self._since is None:
            self._since = now

    def idle(self) -> None:
        """There is none: what follows is measured by itself, with the rate so far as the prior."""
        if self._since is not None and self._done:
            self._prior = self.images_per_second(self._done[-1])
        self._since = None
        self._done.clear()

    def done(self, now: float, images: int = 1) -> None:
        self._done.extend([now] * images)
        while self._done and now - self._done[0] > _WINDOW_SECONDS:
            self._since = self._done.popleft()

    def images_per_second(self, now: float) -> float:
        """The prior until enough is seen."""
        if self._since is None or len(self._done) < _FEWEST_IMAGES:
            return self._prior
        return len(self._done) / max(1e-3, now - self._since)
