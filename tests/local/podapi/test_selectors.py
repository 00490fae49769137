"""Selectors beyond what the conformance suite asks of every cluster."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_local.podapi.refusals import Refusal
from tidegate_local.podapi.selectors import selector


def pod(labels: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p", "namespace": "default", **({"labels": labels} if labels else {})}, **fields}


def test_an_empty_selector_selects_everything() -> None:
    assert selector("pods", "", "") is None


@pytest.mark.parametrize(
    ("labels", "carried", "holds"),
    [
        ("a=1", {"a": "1"}, True),
        ("a = 1", {"a": "1"}, True),
        ("a=1", {}, False),
        ("a!=1", {}, True),
        ("a=", {"a": ""}, True),
        ("a in (1,2),b", {"a": "2", "b": "x"}, True),
        ("a in (1,2),b", {"a": "2"}, False),
        ("a notin (1)", {}, True),
        ("!a", {"a": ""}, False),
        ("example.com/a=1", {"example.com/a": "1"}, True),
        ("a>x", None, None),
        ("a>5", {"a": "many"}, False),
    ],
)
def test_labels_match_as_their_requirement_says(
    labels: str, carried: dict[str, str] | None, holds: bool | None
) -> None:
    if holds is None:
        with pytest.raises(Refusal) as refusal:
            selector("pods", labels, "")
        assert refusal.value.code == 400
        return
    test = selector("pods", labels, "")
    assert test is not None
    assert test(pod(carried)) is holds


@given(st.text(max_size=40))
def test_any_text_is_a_selector_or_a_bad_request(text: str) -> None:
    codes = []
    try:
        test = selector("pods", text, "")
        holds = None if test is None else test(pod({"a": "b"}))
    except Refusal as refusal:
        codes, holds = [refusal.code], None
    assert codes in ([], [400])
    assert holds in (None, True, False)


def test_a_field_of_another_kind_is_refused() -> None:
    assert selector("events", "", "involvedObject.name=x") is not None
    with pytest.raises(Refusal, match="field label not supported"):
        selector("pods", "", "involvedObject.name=x")


def test_a_boolean_field_that_is_absent_is_false() -> None:
    test = selector("pods", "", "spec.hostNetwork=false")
    assert test is not None
    assert test(pod(spec={}))
    assert not test(pod(spec={"hostNetwork": True}))
