"""Queues between stages: bounded or delayed, closed once, with their length as the stage's occupancy."""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")


class BoundedQueue(Generic[T]):
    """First in, first out; `put` blocks while it is full, `take` while it is empty."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, item: T) -> None:
        """Once closed, items are let fall: nobody takes them any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._capacity)
            if not self._closed:
                self._items.append(item)
                self._changed.notify_all()

    def take(self, at_most: int = 1) -> list[T] | None:
        """What is there, one at least; None once closed. Never waits for a batch to fill: while one is worked on the
        next one gathers by itself.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._items))
            if self._closed:
                return None
            taken = [self._items.popleft() for _ in range(min(at_most, len(self._items)))]
            self._changed.notify_all()
            return taken

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    def __len__(self) -> int:
        return len(self._items)


class DelayQueue(Generic[T]):
    """First due, first out: an item that must be tried again later does not hold up a thread meanwhile."""

    def __init__(self) -> None:
        self._items: list[tuple[float, int, T]] = []
        self._order = count()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, item: T, delay_seconds: float = 0.0) -> None:
        with self._changed:
            heapq.heappush(self._items, (time.monotonic() + delay_seconds, next(self._order), item))
            self._changed.notify()

    def take(self) -> T | None:
        """The item that is due first; None once closed."""
        with self._changed:
            while not self._closed:
                wait_seconds = self._items[0][0] - time.monotonic() if self._items else None
                if wait_seconds is not None and wait_seconds <= 0:
                    return heapq.heappop(self._items)[2]
                self._changed.wait(wait_seconds)
            return None

    def withdraw(self, unwanted: Callable[[T], bool]) -> list[T]:
        """Take out, due or not, what is `unwanted`."""
        with self._changed:
            out = [entry[2] for entry in self._items if unwanted(entry[2])]
            self._items = [entry for entry in self._items if not unwanted(entry[2])]
            heapq.heapify(self._items)
            return out

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    def __len__(self) -> int:
        return len(self._items)
