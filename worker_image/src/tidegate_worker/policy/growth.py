"""Memory that stays after an image is done: a robust slope of the lowest readings over the images done.

While images are in flight memory swings by their cost, but its lowest point in a stretch of images does not; the
Theil-Sen slope of those points is deaf to single outliers. Bounded: stretches are merged in pairs as they grow many.
"""

from __future__ import annotations

from itertools import combinations
from statistics import median
from typing import Final

_MOST_STRETCHES: Final = 32
#: Fewer say nothing; the first is never counted, because caches and arenas fill in it.
_FEWEST_STRETCHES: Final = 4


class Growth:
    def __init__(self) -> None:
        self._images_per_stretch = 1
        #: (images done, lowest bytes seen) of each stretch.
        self._lowest: list[tuple[int, int]] = []

    def saw(self, images_done: int, nonreclaimable_bytes: int) -> None:
        point = (images_done, nonreclaimable_bytes)
        if (
            not self._lowest
            or images_done // self._images_per_stretch > self._lowest[-1][0] // self._images_per_stretch
        ):
            self._lowest.append(point)
        elif nonreclaimable_bytes < self._lowest[-1][1]:
            self._lowest[-1] = point
        if len(self._lowest) > _MOST_STRETCHES:
            self._images_per_stretch *= 2
            pairs = zip(self._lowest[::2], self._lowest[1::2], strict=False)
            self._lowest = [min(pair, key=lambda point: point[1]) for pair in pairs]

    def bytes_per_image(self) -> int | None:
        """Zero where memory does not grow; None where too little is known."""
        points = self._lowest[1:]
        if len(points) < _FEWEST_STRETCHES:
            return None
        slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2) if b[0] > a[0]]
        return max(0, round(median(slopes)))
