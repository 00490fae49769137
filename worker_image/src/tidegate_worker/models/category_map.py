"""Which output of a classifier means what: `{label: index}` JSON files as the public models publish them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Self

from tidegate.core.errors import FixConfig


@dataclass(frozen=True, slots=True)
class CategoryMap:
    """Labels in the order of the network's outputs."""

    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.labels)) != len(self.labels):
            raise FixConfig("a category map names a label twice")

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> Self:
        """The map in `text`; `where` is named when it is not one."""
        try:
            indices = json.loads(text)
        except ValueError as error:
            raise FixConfig(f"{where} is not JSON: {error}") from None
        if not isinstance(indices, dict) or not indices:
            raise FixConfig(f"{where} is not an object of the form {{label: index}}")
        by_index = {index: label for label, index in indices.items()}
        if sorted(by_index, key=str) != sorted(range(len(indices)), key=str):
            raise FixConfig(f"{where}: the indices of {len(indices)} labels must be 0 to {len(indices) - 1}, each once")
        return cls(tuple(by_index[index] for index in range(len(indices))))

    def __len__(self) -> int:
        return len(self.labels)
