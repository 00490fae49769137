"""When it is certain that no lease will bring certain images any more, so that they are answered with an error.

A source delivers an image a few times and then never again, without a word. What a pod held at its last delivery when
it was killed stays unanswered for ever, and the job with it, until its owner gives up. But an error is terminal: an
image that is, or may still be, answered by somebody must get none.

| left unanswered, once the count stands still | answered                                                             |
|----------------------------------------------|----------------------------------------------------------------------|
| as many as are unreachable                   | all of them: it must be these                                        |
| fewer                                        | known killers alone: of the others nobody knows which are done       |
| more                                         | all of them, after a lease's time: until then others may hold them   |
| not told                                     | known killers alone, after a lease's time                            |
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

#: A server counts an answer some time after it has taken it; for so long its count must stand still to be believed.
SETTLE_SECONDS: Final = 15.0


class Certain(Enum):
    NOTHING = auto()
    KILLERS = auto()
    ALL = auto()


def certain(
    killers: int,
    stranded: int,
    remaining: int | None,
    still_seconds: float,
    lease_seconds: float,
    settle_seconds: float = SETTLE_SECONDS,
) -> Certain:
    """What may be answered now; nothing was leased, worked on or counted for `still_seconds`."""
    if still_seconds < settle_seconds or remaining == 0:
        return Certain.NOTHING
    lapsed = still_seconds > lease_seconds
    if remaining is None:
        return Certain.KILLERS if lapsed else Certain.NOTHING
    if remaining < killers + stranded:
        return Certain.KILLERS
    return Certain.ALL if lapsed or remaining == killers + stranded else Certain.NOTHING
