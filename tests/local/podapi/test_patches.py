"""The three patch dialects, by the examples of their RFCs and of kubectl."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_local.podapi.patches import patched
from tidegate_local.podapi.refusals import Refusal

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON = "application/json-patch+json"

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.sampled_from("abc"), values, max_size=3)


def changed(current: Any, patch: Any, dialect: str) -> Any:
    """`current` under a spec, patched; what the patch made of it."""
    result = patched({"metadata": {}, "spec": current}, {"spec": patch}, dialect)
    return result.get("spec")


@pytest.mark.parametrize(
    ("current", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_a_merge_patch_does_what_rfc_7386_says(current: Any, patch: Any, result: Any) -> None:
    assert changed(current, patch, MERGE) == result


@given(objects, objects)
def test_a_merge_patch_applied_twice_changes_nothing_more_and_leaves_its_inputs(current: Any, patch: Any) -> None:
    before = copy.deepcopy((current, patch))
    once = changed(current, patch, MERGE)
    assert changed(once, patch, MERGE) == once
    assert (current, patch) == before


@pytest.mark.parametrize(
    ("operations", "result"),
    [
        ([{"op": "add", "path": "/spec/b", "value": 1}], {"a": [1, 2], "b": 1}),
        ([{"op": "add", "path": "/spec/a/-", "value": 3}], {"a": [1, 2, 3]}),
        ([{"op": "add", "path": "/spec/a/0", "value": 0}], {"a": [0, 1, 2]}),
        ([{"op": "remove", "path": "/spec/a/0"}], {"a": [2]}),
        ([{"op": "replace", "path": "/spec/a", "value": 9}], {"a": 9}),
        ([{"op": "move", "from": "/spec/a", "path": "/spec/b"}], {"b": [1, 2]}),
        ([{"op": "copy", "from": "/spec/a/0", "path": "/spec/x~1y"}], {"a": [1, 2], "x/y": 1}),
        ([{"op": "test", "path": "/spec/a/1", "value": 2}, {"op": "remove", "path": "/spec/a"}], {}),
    ],
)
def test_a_json_patch_does_what_rfc_6902_says(operations: Any, result: Any) -> None:
    assert patched({"metadata": {}, "spec": {"a": [1, 2]}}, operations, JSON)["spec"] == result


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "remove", "path": "/spec/none"},
        {"op": "replace", "path": "/spec/none", "value": 1},
        {"op": "test", "path": "/spec/a/0", "value": 5},
        {"op": "add", "path": "/spec/a/9", "value": 5},
        {"op": "add", "path": "spec", "value": 5},
        {"op": "add", "path": "/spec/a/x/y", "value": 5},
        {"op": "invent", "path": "/spec"},
        {"op": "add"},
        {"op": "remove", "path": ""},
    ],
)
def test_a_json_patch_that_does_not_apply_changes_nothing(operation: Any) -> None:
    current = {"metadata": {}, "spec": {"a": [1, 2]}}
    with pytest.raises(Refusal) as refusal:
        patched(current, [operation], JSON)
    assert refusal.value.code in (400, 422)
    assert current == {"metadata": {}, "spec": {"a": [1, 2]}}


CONTAINERS = {"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}]}


@pytest.mark.parametrize(
    ("patch", "result"),
    [
        (
            {"containers": [{"name": "a", "image": "2"}]},
            [{"name": "a", "image": "2", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}],
        ),
        (
            {"containers": [{"name": "a", "env": [{"name": "Y", "value": "2"}]}]},
            [
                {"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
                {"name": "b"},
            ],
        ),
        ({"containers": [{"name": "a", "$patch": "delete"}]}, [{"name": "b"}]),
        ({"containers": [{"$patch": "replace"}, {"name": "c"}]}, [{"name": "c"}]),
        (
            {
                "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
                "containers": [{"name": "b", "image": "3"}],
            },
            [{"name": "b", "image": "3"}, {"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}],
        ),
    ],
)
def test_a_strategic_patch_merges_containers_by_name(patch: Any, result: Any) -> None:
    assert changed(CONTAINERS, patch, STRATEGIC)["containers"] == result


def test_a_strategic_patch_merges_finalizers_as_a_set_and_replaces_commands() -> None:
    current = {"metadata": {"finalizers": ["x"]}, "spec": {"containers": [{"name": "a", "command": ["one", "two"]}]}}
    patch = {"metadata": {"finalizers": ["y"]}, "spec": {"containers": [{"name": "a", "command": ["three"]}]}}
    result = patched(current, patch, STRATEGIC)
    assert result["metadata"]["finalizers"] == ["x", "y"]
    assert result["spec"]["containers"][0]["command"] == ["three"]


def test_a_strategic_patch_of_a_list_without_its_key_is_refused() -> None:
    with pytest.raises(Refusal, match="merge key"):
        changed(CONTAINERS, {"containers": [{"image": "2"}]}, STRATEGIC)


def test_a_dialect_that_is_not_spoken_here_is_an_unsupported_media_type() -> None:
    with pytest.raises(Refusal) as refusal:
        patched({"metadata": {}}, {}, "application/apply-patch+yaml")
    assert refusal.value.code == 415
