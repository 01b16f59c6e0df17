"""Every conversation runs exactly once, in batches that stay within their tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from larf_curate.encoding.batching import halves, plan_batches

LENGTHS = st.lists(st.integers(1, 60), max_size=50)


@given(LENGTHS, st.integers(1, 200))
def test_a_plan_holds_every_index_once_within_the_token_bound(lengths: list[int], batch_tokens: int) -> None:
    batches = plan_batches(lengths, batch_tokens)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * max(lengths[i] for i in batch)
        assert padded <= batch_tokens or len(batch) == 1


@given(LENGTHS, st.integers(1, 200))
def test_lengths_fall_from_batch_to_batch(lengths: list[int], batch_tokens: int) -> None:
    planned = [lengths[i] for batch in plan_batches(lengths, batch_tokens) for i in batch]
    assert planned == sorted(lengths, reverse=True)


@given(LENGTHS, st.integers(1, 200))
def test_a_batch_ends_only_where_the_next_would_not_fit(lengths: list[int], batch_tokens: int) -> None:
    batches = plan_batches(lengths, batch_tokens)
    for first in batches[:-1]:
        assert (len(first) + 1) * max(lengths[i] for i in first) > batch_tokens


@pytest.mark.parametrize(
    ("lengths", "batch_tokens", "expected"),
    [
        ([], 10, []),
        ([5], 1, [[0]]),
        ([4, 4, 4, 4, 4], 8, [[0, 1], [2, 3], [4]]),
        ([1, 100, 1, 1], 100, [[1], [0, 2, 3]]),
        ([2, 2, 2], 10_000, [[0, 1, 2]]),
        ([0, 3], 3, [[1], [0]]),
    ],
)
def test_plans_made_by_hand(lengths: list[int], batch_tokens: int, expected: list[list[int]]) -> None:
    assert plan_batches(lengths, batch_tokens) == expected


@pytest.mark.parametrize("size", [2, 3, 8, 9])
def test_halves_are_both_smaller_and_keep_the_order(size: int) -> None:
    first, second = halves(list(range(size)))
    assert first + second == list(range(size))
    assert first
    assert second
    assert abs(len(first) - len(second)) <= 1
