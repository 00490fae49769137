"""How many images may be leased at once: no more than can surely be answered, for a lease cannot be given back."""

from __future__ import annotations

import math
from typing import Final

#: A lease must survive the work, a slow stretch and the post.
_LEASE_SHARE: Final = 1 / 3
#: What a drain needs beside the work itself.
DRAIN_MARGIN_SECONDS: Final = 15.0
#: Before any rate is known.
_FIRST_IMAGES: Final = 4


def allowance(images_per_second: float, lease_seconds: float, grace_seconds: float, at_most_images: int) -> int:
    """The most images to hold leased: min(lease / 3, grace - 15 s) of measured work, never more than the plan's.

    A rate of zero means that none is known yet.
    """
    seconds = max(0.0, min(lease_seconds * _LEASE_SHARE, grace_seconds - DRAIN_MARGIN_SECONDS))
    images = math.floor(images_per_second * seconds) if images_per_second > 0 else _FIRST_IMAGES
    return max(1, min(images, at_most_images))


def request(held: int, allowed: int) -> int:
    """How many to ask for now: nothing until half is used up, so that one call brings many."""
    return allowed - held if held <= allowed // 2 else 0
