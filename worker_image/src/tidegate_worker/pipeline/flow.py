"""Where an image can go next: every transition between the places of a lease, with what each must give back.

```
queued -> staged -> in flight -> answered -> acked
  ^ ^        |  \\        |
  | +--------+   parked  +-> dropped (from anywhere): nobody waits for it any more
  +------------- /
```
"""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass
from typing import Final

from tidegate_worker.pipeline.inlet import Inlet
from tidegate_worker.pipeline.lease import Lease, Ledger, Place
from tidegate_worker.pipeline.queues import BoundedQueue, DelayQueue
from tidegate_worker.pipeline.timing import StageName, Timing
from tidegate_worker.ports import Answer, DecodedImage, Failure, Prediction
from tidegate_worker.staging import Staging

_log = logging.getLogger(__name__)

#: Images are bounded by their credits; this only keeps a queue from being without end.
_QUEUE_IMAGES: Final = 256
_SIZES: Final = 1024


@dataclass(slots=True)
class Decoded:
    lease: Lease
    image: DecodedImage


@dataclass(frozen=True, slots=True)
class Answered:
    lease: Lease
    outcome: Prediction | Failure


@dataclass(frozen=True, slots=True)
class Sized:
    """What a header told of one image."""

    decoded_bytes: int
    credit_bytes: int
    file_bytes: int


class Flow:
    def __init__(self, ledger: Ledger, staging: Staging, inlet: Inlet, timing: Timing) -> None:
        self.ledger = ledger
        self.staging = staging
        self.inlet = inlet
        self.timing = timing
        self.intake: DelayQueue[Lease] = DelayQueue()
        self.decoded: BoundedQueue[Decoded] = BoundedQueue(_QUEUE_IMAGES)
        self.answers: BoundedQueue[Answered] = BoundedQueue(_QUEUE_IMAGES)
        #: Of the last images, for a probe.
        self.sizes: deque[Sized] = deque(maxlen=_SIZES)
        #: Since when no image at all has come in while some were tried; None while they come.
        self.fetching_fails_since: float | None = None
        self.closing = False

    def nothing_comes(self) -> bool:
        """Whether images are tried of which none has come since; one that others overtook is to blame itself."""
        since = self.fetching_fails_since
        return since is not None and any(
            lease.fetch_failures and lease.first_failed_at >= since for lease in self.ledger.held(Place.QUEUED)
        )

    def fetch(self, lease: Lease, delay_seconds: float = 0.0) -> None:
        """To be downloaded, for the first time or anew."""
        self._give_back(lease)
        self.ledger.move(lease, Place.QUEUED)
        self.intake.put(lease, delay_seconds)

    def staged(self, lease: Lease) -> None:
        """On disk with a known cost: waits for admission; also after an attempt that ran out of memory."""
        self.inlet.left(lease)
        self.ledger.move(lease, Place.STAGED)
        self.inlet.offer(lease)

    def parked(self, lease: Lease) -> None:
        """It waits for a larger limit; its file would only keep others out, and can be fetched again."""
        self._give_back(lease)
        self.ledger.move(lease, Place.PARKED)
        self.inlet.park(lease)

    def in_flight(self, lease: Lease) -> None:
        self.ledger.move(lease, Place.IN_FLIGHT)
        if lease.file is not None:
            self.staging.started(lease.file)

    def answer(self, lease: Lease, outcome: Prediction | Failure) -> None:
        if lease.dropped:
            self.drop(lease)
            return
        if isinstance(outcome, Failure):
            _log.warning("an image fails: %s", outcome.reason, extra={"image_id": lease.task.image_id})
        self.ledger.move(lease, Place.ANSWERED)
        lease.answered_at = time.monotonic()
        if lease.file is not None:
            self.staging.spent(lease.file)
        self.answers.put(Answered(lease, outcome))

    def drop(self, lease: Lease) -> None:
        self._give_back(lease)
        self.ledger.forget(lease)

    def drop_unanswered(self) -> None:
        """Everything that no stage has in hand goes now, the rest when its stage looks at it."""
        self.ledger.drop_unanswered()
        for lease in (*self.intake.withdraw(_is_dropped), *self.inlet.withdraw(_is_dropped)):
            self.drop(lease)

    def acked(self, answer: Answer) -> None:
        lease = self.ledger.acked(answer)
        if lease is None:
            return
        self.timing.took(StageName.POST, time.monotonic() - lease.answered_at)
        if lease.file is not None:
            self.staging.remove(lease.file)

    def close(self) -> None:
        self.closing = True
        self.intake.close()
        self.inlet.close()
        self.decoded.close()
        self.answers.close()

    def _give_back(self, lease: Lease) -> None:
        self.inlet.left(lease)
        if lease.file is not None:
            self.staging.remove(lease.file)
            lease.file = None


def _is_dropped(lease: Lease) -> bool:
    return lease.dropped
