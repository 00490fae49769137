"""Quantities as Kubernetes writes them."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_local.podapi.quantity import quantity, whole


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("64Mi", 64 * 2**20), ("1.5Gi", 3 * 2**29), ("1e3", 1000), ("1E3", 1000), ("2k", 2000), (".5", Decimal("0.5")),
        ("250m", Decimal("0.25")), (3, 3), ("1Pi", 2**50), ("12E", 12 * 10**18), ("-1", -1),
    ],
)  # fmt: skip
def test_a_quantity_is_read_exactly(text: str | int, number: Decimal) -> None:
    assert quantity(text) == number


@pytest.mark.parametrize("text", ["", "lots", "1 Gi", "1Gib", "1e", True, None, "1" * 50, "NaN", "0x10", "1e999"])
def test_what_is_no_quantity_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="regular expression"):
        quantity(text)


@given(st.integers(0, 2**40), st.sampled_from(["", "Ki", "Mi", "k", "M"]))
def test_whole_quantities_stay_whole(number: int, suffix: str) -> None:
    assert whole(f"{number}{suffix}") == quantity(f"{number}{suffix}")


def test_a_fraction_of_a_byte_counts_as_a_byte() -> None:
    assert whole("1500m") == 2
