"""The formulas against loops, scipy and a table worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from larf_curate.scoring.formulas import (
    FittedFormula,
    auc,
    larf,
    normalise,
    pair_differences,
    subspace,
    subspace_bases,
)

PAIRS, ROWS, HIDDEN, LAYERS = 7, 5, 6, 3


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


STATES, UNSAFE, SAFE = draw(ROWS, HIDDEN), draw(PAIRS, HIDDEN, seed=1), draw(PAIRS, HIDDEN, seed=2)


def larf_by_loops(states: np.ndarray, unsafe: np.ndarray, safe: np.ndarray, top_k: int | None) -> list[float]:
    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        dot = sum(p * q for p, q in zip(a, b, strict=True))
        return dot / math.sqrt(sum(p * p for p in a)) / math.sqrt(sum(q * q for q in b))

    scores = []
    for x in states:
        differences = sorted((cosine(x, u) - cosine(x, s) for u, s in zip(unsafe, safe, strict=True)), reverse=True)
        counted = differences[:top_k]
        scores.append(sum(counted) / len(counted))
    return scores


def subspace_by_scipy(states: np.ndarray, unsafe: np.ndarray, safe: np.ndarray, rank: int) -> list[float]:
    """States [n, layers, hidden]: each layer to length 1, side by side, to length 1; then energy in either span."""

    def flat(many: np.ndarray) -> np.ndarray:
        rows = [np.concatenate([layer / scipy.linalg.norm(layer) for layer in one]) for one in many]
        return np.array([row / scipy.linalg.norm(row) for row in rows])

    def energy(h: np.ndarray, references: np.ndarray) -> float:
        # The leading eigenvectors of R'R span what the first right singular vectors of R span.
        width = references.shape[1]
        basis = scipy.linalg.eigh(references.T @ references, subset_by_index=[width - rank, width - 1])[1]
        return float(scipy.linalg.norm(basis @ (basis.T @ h)) ** 2)

    return [energy(h, flat(unsafe)) - energy(h, flat(safe)) for h in flat(states)]


@pytest.mark.parametrize("top_k", [None, *range(1, PAIRS + 1)])
def test_larf_is_the_mean_of_the_largest_differences(top_k: int | None) -> None:
    found = larf(STATES, pair_differences(UNSAFE, SAFE), top_k)
    np.testing.assert_allclose(found, larf_by_loops(STATES, UNSAFE, SAFE, top_k), atol=1e-12)


# Unsafe references point east and north, safe ones west and east: d_1 = 2 cos(angle), d_2 = sin(angle) - cos(angle).
@pytest.mark.parametrize(
    ("state", "top_1", "top_2", "all_pairs"),
    [
        ([1, 0], 2.0, 0.5, 0.5),
        ([0, 1], 1.0, 0.5, 0.5),
        ([-1, 0], 1.0, -0.5, -0.5),
        ([0, -1], 0.0, -0.5, -0.5),
        ([3, 4], 1.2, 0.7, 0.7),
        ([-0.6, -0.8], -0.2, -0.7, -0.7),
    ],
)
def test_larf_by_hand(state: list[float], top_1: float, top_2: float, all_pairs: float) -> None:
    differences = pair_differences(np.array([[2.0, 0], [0, 5]]), np.array([[-1.0, 0], [7, 0]]))
    for top_k, expected in ((1, top_1), (2, top_2), (None, all_pairs)):
        assert larf(np.array([state], float), differences, top_k)[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("top_k", [None, 1, 3, PAIRS])
def test_larf_looks_only_at_directions_and_not_at_the_order_of_pairs(top_k: int | None) -> None:
    expected = larf(STATES, pair_differences(UNSAFE, SAFE), top_k)
    lengths, order = np.abs(draw(PAIRS, 1, seed=3)) + 0.1, np.random.default_rng(4).permutation(PAIRS)
    rescaled = pair_differences(UNSAFE * lengths, SAFE / lengths)[order]
    np.testing.assert_allclose(larf(STATES * 1e3, rescaled, top_k), expected, atol=1e-12)


def test_pairing_matters_only_for_top_k() -> None:
    paired, shuffled = pair_differences(UNSAFE, SAFE), pair_differences(UNSAFE, SAFE[::-1])
    np.testing.assert_allclose(larf(STATES, paired), larf(STATES, shuffled), atol=1e-12)
    assert np.abs(larf(STATES, paired, 2) - larf(STATES, shuffled, 2)).max() > 0.01


@pytest.mark.parametrize("top_k", [0, -1, PAIRS + 1])
def test_top_k_beyond_the_pairs_is_refused(top_k: int) -> None:
    with pytest.raises(ValueError, match=f"1 to {PAIRS} .*not {top_k}"):
        larf(STATES, pair_differences(UNSAFE, SAFE), top_k)


def test_ends_of_the_ranges() -> None:
    east, north = np.array([[1.0, 0]]), np.array([[0, 1.0]])
    assert larf(east, pair_differences(east, -east))[0] == pytest.approx(2)
    assert larf(-east, pair_differences(east, -east))[0] == pytest.approx(-2)
    bases = subspace_bases(east[:, None], north[:, None], rank=1)
    np.testing.assert_allclose(subspace(np.array([east, -east, north, [[1.0, 1]]]), bases), [1, 1, -1, 0], atol=1e-12)


@given(seed=st.integers(0, 10_000), top_k=st.none() | st.integers(1, PAIRS), rank=st.integers(1, PAIRS))
def test_scores_stay_in_range(seed: int, top_k: int | None, rank: int) -> None:
    states, unsafe, safe = (draw(n, HIDDEN, seed=seed + i) for i, n in enumerate((ROWS, PAIRS, PAIRS)))
    assert np.abs(larf(states, pair_differences(unsafe, safe), top_k)).max() <= 2
    bases = subspace_bases(unsafe[:, None], safe[:, None], min(rank, HIDDEN))
    assert np.abs(subspace(states[:, None], bases)).max() <= 1 + 1e-12


@pytest.mark.parametrize("layers", [1, LAYERS])
@pytest.mark.parametrize("rank", [1, 3, 6])
def test_subspace_is_the_energy_in_the_leading_directions(rank: int, layers: int) -> None:
    states, unsafe, safe = (draw(n, layers, HIDDEN, seed=i) for i, n in enumerate((ROWS, PAIRS, PAIRS + 2)))
    found = subspace(states, subspace_bases(unsafe, safe, rank))
    np.testing.assert_allclose(found, subspace_by_scipy(states, unsafe, safe, rank), atol=1e-10)
    # one layer ten times as large as the others, and every row as large again, changes nothing
    scale = np.array([10.0] + [1.0] * (layers - 1))[:, None]
    again = subspace(states * scale * 7, subspace_bases(unsafe * scale, safe[::-1] * scale, rank))
    np.testing.assert_allclose(again, found, atol=1e-10)


def test_no_rows_have_no_scores() -> None:
    assert larf(STATES[:0], pair_differences(UNSAFE, SAFE)).shape == (0,)
    assert larf(STATES[:0], pair_differences(UNSAFE, SAFE), 2).shape == (0,)
    bases = subspace_bases(UNSAFE[:, None], SAFE[:, None], 3)
    assert subspace(STATES[:0, None], bases).shape == (0,)


@pytest.mark.parametrize("rank", [0, PAIRS + 1])
def test_rank_beyond_the_references_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match=f"not {rank}"):
        subspace_bases(draw(PAIRS, 2, HIDDEN), draw(PAIRS, 2, HIDDEN), rank)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, "zero"])
def test_a_state_that_is_no_direction_scores_nan_and_spares_its_neighbours(poison: float | str) -> None:
    states = STATES.astype(np.float32)
    if poison == "zero":
        states[2] = 0
    else:
        states[2, 1] = poison
    differences = pair_differences(UNSAFE, SAFE)
    bases = subspace_bases(UNSAFE[:, None], SAFE[:, None], 3)
    for found in (larf(states, differences), larf(states, differences, 2), subspace(states[:, None], bases)):
        assert np.isnan(found).tolist() == [False, False, True, False, False]


def test_normalise_gives_unit_length_to_tiny_and_huge_float32_states() -> None:
    states = np.array([[3e-30, 4e-30], [3e30, 4e30]], np.float32)
    np.testing.assert_allclose(normalise(states), [[0.6, 0.8], [0.6, 0.8]], rtol=1e-6)


@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=12),
    st.lists(st.integers(-3, 3), min_size=1, max_size=12),
)
def test_auc_is_the_mann_whitney_statistic(positive: list[int], negative: list[int]) -> None:
    expected = scipy.stats.mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative))
    assert auc(np.array(positive, float), np.array(negative, float)) == pytest.approx(expected)


@pytest.mark.parametrize("sides", [([], [1.0]), ([1.0], []), ([], [])])
def test_auc_of_nothing_is_nan(sides: tuple[list[float], list[float]]) -> None:
    assert math.isnan(auc(*map(np.array, sides)))


@pytest.mark.parametrize("top_k", [None, 2])
def test_several_layers_score_by_their_mean(top_k: int | None) -> None:
    states, unsafe, safe = (draw(n, LAYERS, HIDDEN, seed=i) for i, n in enumerate((ROWS, PAIRS, PAIRS)))
    score, by_layer = FittedFormula("larf", unsafe, safe, top_k).score(states)
    expected = [larf_by_loops(states[:, i], unsafe[:, i], safe[:, i], top_k) for i in range(LAYERS)]
    np.testing.assert_allclose(by_layer, np.transpose(expected), atol=1e-12)
    np.testing.assert_allclose(score, np.mean(expected, axis=0), atol=1e-12)


def test_several_layers_are_looked_at_jointly_by_the_subspace_formula() -> None:
    states, unsafe, safe = (draw(n, LAYERS, HIDDEN, seed=i) for i, n in enumerate((ROWS, PAIRS, PAIRS)))
    score, by_layer = FittedFormula("subspace", unsafe, safe, rank=2).score(states)
    np.testing.assert_allclose(score, subspace_by_scipy(states, unsafe, safe, 2), atol=1e-10)
    for i in range(LAYERS):
        alone = subspace_by_scipy(states[:, [i]], unsafe[:, [i]], safe[:, [i]], 2)
        np.testing.assert_allclose(by_layer[:, i], alone, atol=1e-10)
