"""Score vectors as text."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tidegate_worker.jobs.antenna.scores import score_text

VECTORS = arrays.arrays(
    np.float32, st.integers(1, 60), elements=st.floats(0, 1, width=32) | st.sampled_from([0.0, 0.5, 1e-6, 4e-6, 1.0])
)


@given(VECTORS, st.integers(2, 5), st.randoms(use_true_random=False))
def test_the_first_maximum_of_the_text_is_the_label_s_own(scores: np.ndarray, decimals: int, chance: object) -> None:
    top = int(chance.choice(np.flatnonzero(scores == scores.max())))  # type: ignore[attr-defined]
    read = json.loads(score_text(scores, top, decimals))
    assert read.index(max(read)) == top
    assert read.count(max(read)) == 1


@given(VECTORS, st.integers(2, 5))
def test_no_score_moves_by_more_than_a_step_and_a_half(scores: np.ndarray, decimals: int) -> None:
    read = np.array(json.loads(score_text(scores, int(scores.argmax()), decimals)))
    assert read.shape == scores.shape
    assert np.abs(read - scores).max() <= 1.5 * 10**-decimals + 1e-7


@given(VECTORS)
def test_sparse_and_dense_vectors_are_written_alike(scores: np.ndarray) -> None:
    assume(scores.max() > 1e-4)
    padded = np.concatenate([scores, np.zeros(len(scores) * 9, dtype=np.float32)])
    top = int(scores.argmax())
    dense = json.loads(score_text(scores, top))
    assert json.loads(score_text(padded, top)) == dense + [0] * (len(scores) * 9)


@pytest.mark.parametrize(
    ("score", "text"), [(0.0, b"0"), (1e-5, b"1e-5"), (0.5, b"0.5"), (0.12345, b"0.12345"), (0.0011, b"11e-4")]
)
def test_numbers_are_as_short_as_json_allows(score: float, text: bytes) -> None:
    assert score_text(np.array([1.0, score]), 0) == b"[1," + text + b"]"


def worst(classes: int) -> np.ndarray:
    """No score rounds to zero: the longest text."""
    return np.full(classes, 1 / classes, dtype=np.float32)


def test_500_boxes_of_29176_classes_fit_one_request_in_the_worst_case() -> None:
    assert 500 * len(score_text(worst(29_176), 0)) < 80_000_000


def test_a_usual_vector_of_29176_classes_is_written_in_milliseconds() -> None:
    rng = np.random.default_rng(0)
    scores = np.exp(rng.normal(size=29_176) * 4)
    scores = (scores / scores.sum()).astype(np.float32)
    score_text(scores, int(scores.argmax()))
    began = time.perf_counter()
    for _ in range(50):
        score_text(scores, int(scores.argmax()))
    assert (time.perf_counter() - began) / 50 < 0.02
