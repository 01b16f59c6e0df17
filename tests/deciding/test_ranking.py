"""Order statistics and quantiles in passes, against numpy's over everything at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from larf_curate.deciding import ranking
from larf_curate.deciding.ranking import Chunks, batches, order_statistics, quantiles, select
from larf_curate.errors import DataError

NAN = float("nan")
ANY = st.floats() | st.floats(width=32) | st.sampled_from([0.0, -0.0, 0.1, math.inf, -math.inf, NAN])
COLLECTED = st.sampled_from([0, 5, 1 << 20])


def chunked(array: NDArray[np.floating], count: int = 3) -> Chunks:
    return lambda: [array[:0], *np.array_split(array, count), array[:0]]


def scored(array: NDArray[np.floating]) -> NDArray[np.float64]:
    return array[~np.isnan(array)].astype(np.float64)


# Order statistics ----------------------------------------------------------------------------------------------------


@given(scores=st.lists(ANY, max_size=40), count=st.sampled_from([1, 3, 7]), collected=COLLECTED, seed=st.integers(0, 9))
@pytest.mark.slow
def test_order_statistics_are_those_of_sorting(scores: list[float], count: int, collected: int, seed: int) -> None:
    array = np.array(scores)
    expected = np.sort(scored(array))
    ranks = np.random.default_rng(seed).integers(0, len(expected), 6).tolist() if len(expected) else []
    with mock.patch.multiple(ranking, _BATCH=4, _COLLECTED=collected):
        found = select(chunked(array, count), lambda _: ranks)
        np.testing.assert_array_equal(order_statistics(chunked(array, count), ranks), expected[ranks])
    np.testing.assert_array_equal(found.values, expected[ranks])
    assert not (np.signbit(found.values) & (found.values == 0)).any()
    assert found.below.tolist() == [(expected < value).sum() for value in expected[ranks]]
    assert found.equal.tolist() == [(expected == value).sum() for value in expected[ranks]]
    assert (found.scored, found.rows) == (len(expected), len(scores))


MANY = {
    "normal": lambda r: r.normal(size=1_500_000),
    "float32": lambda r: r.random(1_500_000, np.float32),
    "one in most rows": lambda r: np.where(r.random(1_500_000) < 0.9, 1 / 3, r.random(1_500_000)),
    "nearly one": lambda r: 1 + r.random(1_500_000) * 1e-9,  # the same first 32 bits
    "with none": lambda r: np.where(r.random(1_500_000) < 0.1, NAN, r.random(1_500_000)),
}


@pytest.mark.parametrize("name", MANY)
def test_more_scores_than_are_collected_at_once(name: str) -> None:
    array = MANY[name](np.random.default_rng(0))
    expected = np.sort(scored(array))
    passes = 0

    def chunks() -> list[NDArray[np.floating]]:
        nonlocal passes
        passes += 1
        return np.array_split(array, 4)

    ranks = [0, 7, len(expected) // 2, len(expected) // 2 + 1, len(expected) - 1]
    np.testing.assert_array_equal(order_statistics(chunks, ranks), expected[ranks])
    assert passes <= 4


@pytest.mark.parametrize("ranks", [[3], [-1], [0, 1, 99]])
def test_ranks_beyond_the_scores_are_refused(ranks: list[int]) -> None:
    with pytest.raises(IndexError, match="0 to 2"):
        order_statistics(chunked(np.array([1, NAN, 2, 3])), ranks)
    with pytest.raises(IndexError):
        order_statistics(list, [0])


@pytest.mark.parametrize("collected", [0, 5, 1 << 20])
def test_scores_that_change_between_passes_are_refused(collected: int) -> None:
    readings = iter([np.arange(9.0), np.arange(9.0) * 100])
    once = iter([np.arange(9.0)])
    unsteady: list[Callable[[], list[NDArray[np.float64]]]] = [lambda: [next(readings)], lambda: list(once)]
    with mock.patch.object(ranking, "_COLLECTED", collected):
        for chunks in unsteady:
            with pytest.raises(DataError, match="changed"):
                order_statistics(chunks, [4])


@pytest.mark.parametrize("sizes", [[], [0], [1], [4], [5, 0, 3], [1] * 9, [13]])
def test_batches_are_of_one_size_whatever_the_chunks(sizes: list[int]) -> None:
    array = np.arange(sum(sizes), dtype=np.float32)
    with mock.patch.object(ranking, "_BATCH", 4):
        found = [batch.tolist() for batch in batches(lambda: np.split(array, np.cumsum(sizes)))]
    assert [x for batch in found for x in batch] == array.tolist()
    assert [len(batch) for batch in found[:-1]] == [4] * (len(found) - 1)


# Quantiles -----------------------------------------------------------------------------------------------------------


@given(
    scores=st.lists(st.floats(-1e300, 1e300) | st.sampled_from([0.1, 0.2, NAN]), max_size=40),
    points=st.lists(st.floats(0, 1) | st.sampled_from([0.0, 0.05, 0.5, 1.0]), max_size=5),
    collected=COLLECTED,
)
def test_quantiles_are_those_of_numpy(scores: list[float], points: list[float], collected: int) -> None:
    array = np.array(scores)
    with mock.patch.multiple(ranking, _BATCH=4, _COLLECTED=collected):
        found = quantiles(chunked(array), points)
    known = scored(array)
    if not len(known):
        assert found.shape == (0,)
        return
    rounding = 4 * np.finfo(float).eps * np.abs(known).max()
    np.testing.assert_allclose(found, np.quantile(known, points), rtol=0, atol=rounding)


def test_quantiles_of_float32_are_those_of_the_same_numbers_in_float64() -> None:
    array = np.random.default_rng(0).normal(size=500_000).astype(np.float32)
    points = [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]
    np.testing.assert_array_equal(quantiles(chunked(array), points), np.quantile(array.astype(np.float64), points))


def test_between_equal_infinities_lies_the_infinity() -> None:
    array = np.array([-math.inf, -math.inf, 0.5, math.inf, math.inf])
    assert quantiles(chunked(array), [0.1, 0.5, 0.9]).tolist() == [-math.inf, 0.5, math.inf]


@pytest.mark.parametrize("point", [-0.01, 1.01, NAN])
def test_points_beyond_0_and_1_are_refused(point: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        quantiles(chunked(np.arange(3.0)), [0.5, point])
