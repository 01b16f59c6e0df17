"""Every conversation runs exactly once, in batches that stay within their tokens."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from larf_curate.encoding.batching import Batch, common_prefix, plan_packed_batches, plan_padded_batches

LENGTHS = st.lists(st.integers(1, 60), max_size=50)


@given(LENGTHS, st.integers(1, 200))
def test_a_plan_holds_every_index_once_within_the_token_bound(lengths: list[int], batch_tokens: int) -> None:
    batches = plan_padded_batches(lengths, batch_tokens)
    assert sorted(i for batch in batches for i in batch.rows) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch.rows) * max(lengths[i] for i in batch.rows)
        assert padded <= batch_tokens or len(batch.rows) == 1


@given(LENGTHS, st.integers(1, 200))
def test_lengths_fall_from_batch_to_batch(lengths: list[int], batch_tokens: int) -> None:
    planned = [lengths[i] for batch in plan_padded_batches(lengths, batch_tokens) for i in batch.rows]
    assert planned == sorted(lengths, reverse=True)


@given(LENGTHS, st.integers(1, 200))
def test_a_batch_ends_only_where_the_next_would_not_fit(lengths: list[int], batch_tokens: int) -> None:
    batches = plan_padded_batches(lengths, batch_tokens)
    for first in batches[:-1]:
        assert (len(first.rows) + 1) * max(lengths[i] for i in first.rows) > batch_tokens


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
    assert [batch.rows for batch in plan_padded_batches(lengths, batch_tokens)] == expected


@pytest.mark.parametrize("size", [2, 3, 8, 9])
def test_halves_are_both_smaller_and_keep_the_order(size: int) -> None:
    first, second = Batch(list(range(size)), prefix=3).halves()
    assert first.rows + second.rows == list(range(size))
    assert first.rows
    assert second.rows
    assert abs(len(first.rows) - len(second.rows)) <= 1
    assert first.prefix == second.prefix == 3


# Rows that share a prefix -------------------------------------------------------------------------------------------


def packed(rows: list[list[int]], batch_tokens: int, prefix_overhead: int = 512) -> list[Batch]:
    return plan_packed_batches(rows, batch_tokens, prefix_overhead=prefix_overhead)


ROWS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=30), max_size=40, unique_by=tuple)


@given(ROWS, st.integers(1, 200))
def test_packed_batches_hold_every_row_once_and_know_their_prefix(rows: list[list[int]], batch_tokens: int) -> None:
    batches = packed(rows, batch_tokens)
    assert sorted(i for batch in batches for i in batch.rows) == list(range(len(rows)))
    for batch in batches:
        assert len({tuple(rows[i][: batch.prefix]) for i in batch.rows}) == 1
        assert all(len(rows[i]) > batch.prefix for i in batch.rows), "each keeps a token of its own"
        own = sum(len(rows[i]) - batch.prefix for i in batch.rows)
        assert own <= batch_tokens or len(batch.rows) == 1


def test_a_prefix_within_a_prefix() -> None:
    """All rows share one prefix, some of them a longer one that is worth batches of its own, others not."""
    system, long, short = list(range(50)), list(range(100, 150)), [7, 7]
    rows = [[*system, 200 + i] for i in range(30)]
    rows += [[*system, *long, 200 + i] for i in range(30)]
    rows += [[*system, *short, 200 + i] for i in range(30)]
    shared = {i: batch.prefix for batch in packed(rows, 1000) for i in batch.rows}
    assert [shared[i] for i in range(30)] == [50] * 30
    assert {shared[i] for i in range(30, 60)} == {100}
    assert [shared[i] for i in range(60, 90)] == [50] * 30


def test_rows_with_different_prefixes_are_in_different_batches() -> None:
    """A dataset in which a third has a system turn of its own."""
    one, other = list(range(7, 25)), [99, *range(7, 25)]
    rows = [[*(other if i % 3 == 0 else one), *range(i % 7 + 1)] for i in range(90)]
    batches = packed(rows, 200, prefix_overhead=0)
    assert sorted(i for batch in batches for i in batch.rows) == list(range(90))
    assert all(len({rows[i][0] for i in batch.rows}) == 1 for batch in batches)
    assert all(sum(len(rows[i]) - batch.prefix for i in batch.rows) <= 200 for batch in batches)


@pytest.mark.parametrize(("overhead", "prefix"), [(559, 20), (560, 0)])
def test_a_prefix_is_split_off_only_if_that_saves_more_than_it_costs(overhead: int, prefix: int) -> None:
    """30 rows share 20 tokens: 29 times 20 tokens less to run, 20 to run for the prefix itself."""
    rows = [[*range(20), 100 + i] for i in range(30)]
    assert {batch.prefix for batch in packed(rows, 1000, prefix_overhead=overhead)} == {prefix}


def test_batches_with_the_same_prefix_follow_each_other() -> None:
    """The pass keeps the keys and values of one prefix, that of the batch before."""
    first, second = [[*range(i, i + 300), 9] for i in (100, 500)]
    rows = [[*(first if i % 2 else second), *range(i % 40 + 1)] for i in range(200)]
    shared = [tuple(rows[batch.rows[0]][: batch.prefix]) for batch in packed(rows, 400)]
    assert len(shared) > 6
    assert len([a for a, b in itertools.pairwise(shared) if a != b]) <= 2


def test_rows_within_rows_do_not_recurse_without_end() -> None:
    rows = [[1] * length for length in range(1, 3000)]
    assert sum(len(batch.rows) for batch in packed(rows, 10_000)) == len(rows)


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=9))
def test_the_common_prefix_is_the_longest(rows: list[list[int]]) -> None:
    shared = common_prefix(rows)
    assert all(row[:shared] == rows[0][:shared] and len(row) > shared for row in rows)
    longer = shared + 1
    assert any(row[:longer] != rows[0][:longer] or len(row) <= longer for row in rows)
