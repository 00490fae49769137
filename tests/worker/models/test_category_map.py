from __future__ import annotations

import json

import pytest

from tidegate.core.errors import FixConfig
from tidegate_worker.models.category_map import CategoryMap


def test_labels_come_in_the_order_of_their_indices() -> None:
    assert CategoryMap.from_json(json.dumps({"b": 1, "a": 0, "c": 2}), "m.json").labels == ("a", "b", "c")


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"a": 0, "b": 2}', '{"a": 1, "b": 2}', '{"a": 0, "b": 0}', '{"a": "0"}', '{"a": 0.5}'],
)
def test_what_is_no_map_of_all_indices_is_refused_by_name(text: str) -> None:
    with pytest.raises(FixConfig, match=r"m\.json"):
        CategoryMap.from_json(text, "m.json")


def test_a_label_given_twice_is_refused() -> None:
    with pytest.raises(FixConfig, match="twice"):
        CategoryMap(("a", "a"))
