"""Records read one by one for those who show many: one that cannot be read hides none of the others.

Not for those who act on a record: they must know that they cannot read it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from tidegate.core.errors import ContractMismatch

log = logging.getLogger(__name__)

Record = TypeVar("Record")


def readable(rows: Iterable[Any], read: Callable[[Any], Record], name: Callable[[Any], str]) -> Iterator[Record]:
    for row in rows:
        try:
            record = read(row)
        except (ContractMismatch, ValueError, TypeError, AttributeError) as error:
            log.warning("%s is left out, its record cannot be read: %s", name(row), error)
        else:
            yield record
