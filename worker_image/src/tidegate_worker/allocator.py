"""glibc's malloc told to give memory back: large blocks by mmap, few arenas, trimmed at once.

Not covered: other libcs, where these calls do not exist and nothing is done. docs/performance.md has the figures.
"""

from __future__ import annotations

import ctypes
from typing import Final

from tidegate.core.contract import KIB

# <malloc.h>
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8

#: A fixed threshold also ends glibc's habit of raising it to 32 MiB at the first free of a large block,
#: after which images are carved out of arenas and their memory stays with the process.
_MMAP_THRESHOLD_BYTES: Final = 512 * KIB
_TRIM_THRESHOLD_BYTES: Final = 512 * KIB
_ARENAS: Final = 2


def tune() -> bool:
    """Set the limits for this process; True where libc took them. Before threads start: arenas are never closed."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    settings = (
        (_M_ARENA_MAX, _ARENAS),
        (_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES),
        (_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES),
    )
    return all(mallopt(name, value) == 1 for name, value in settings)


def trim() -> None:
    """Return free pages of every arena to the kernel; costs milliseconds, so only when memory is short."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:
        return
