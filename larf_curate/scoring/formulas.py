"""The two formulas over states, as pure array maths.

Both take states of one block (or several) and give one number a row in [-2, 2] (`larf`) or [-1, 1] (`subspace`):
higher is closer to the unsafe references. Arrays are float32 or float64; sums are carried in float64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .formula_names import Formula

Array = NDArray[np.floating]

VERSION = 1
"""Part of every artifact and hash: scores of different versions are not comparable."""


def normalise(states: Array) -> NDArray[np.float64]:
    """Each state over its Euclidean length, along the last axis. NaN for a state of length zero."""
    wide = np.asarray(states, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit: NDArray[np.float64] = wide / np.linalg.norm(wide, axis=-1, keepdims=True)
    return unit


def pair_differences(unsafe: Array, safe: Array) -> NDArray[np.float64]:
    """u_j - s_j of the normalised states, [pairs, hidden]: all that the paired formula needs of its references.

    Args:
        unsafe, safe: [pairs, hidden], the j-th of each answering the same request.
    """
    return normalise(unsafe) - normalise(safe)


def larf(states: Array, differences: Array, top_k: int | None = None) -> NDArray[np.float64]:
    """LARF's score (arXiv 2507.18631): the mean of the `top_k` largest d_j = x.u_j - x.s_j.

    With `top_k=None`, the authors' setting, all pairs count, and the mean is one projection: x.(mean u - mean s).

    Args:
        states: [rows, hidden].
        differences: [pairs, hidden], of `pair_differences`.
        top_k: pairs that count for each row, 1 to the number of pairs.

    Returns:
        [rows], in [-2, 2]; NaN for a state that is not finite.
    """
    x = normalise(states)
    if top_k is None:
        projected: NDArray[np.float64] = x @ differences.mean(axis=0)
        return projected
    pairs = len(differences)
    if not 1 <= top_k <= pairs:
        raise ValueError(f"top_k must be 1 to {pairs} (the number of reference pairs), not {top_k}")
    each = x @ differences.T
    mean: NDArray[np.float64] = np.partition(each, pairs - top_k, axis=1)[:, pairs - top_k :].mean(axis=1)
    return mean


def subspace_bases(unsafe: Array, safe: Array, rank: int = 16) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """U_unsafe and U_safe, [rank, layers * hidden] each: the first right singular vectors of the uncentred references.

    Args:
        unsafe, safe: [references, layers, hidden]; the two need not pair.
        rank: directions kept a side, at most the number of references.
    """
    return _basis(_side_by_side(unsafe), rank), _basis(_side_by_side(safe), rank)


def subspace(states: Array, bases: tuple[Array, Array]) -> NDArray[np.float64]:
    """The subspace score (after arXiv 2607.15081): |U_unsafe h|^2 - |U_safe h|^2.

    h are a row's normalised states at the layers side by side, normalised again.

    Args:
        states: [rows, layers, hidden].
        bases: what `subspace_bases` returned, over the same layers.

    Returns:
        [rows], in [-1, 1]; NaN for a state that is not finite.
    """
    h = _side_by_side(states)
    unsafe, safe = (((h @ basis.T) ** 2).sum(axis=1) for basis in bases)
    difference: NDArray[np.float64] = unsafe - safe
    return difference


def _side_by_side(states: Array) -> NDArray[np.float64]:
    return normalise(normalise(states).reshape(len(states), int(np.prod(states.shape[1:]))))


def _basis(references: NDArray[np.float64], rank: int) -> NDArray[np.float64]:
    if not 1 <= rank <= min(references.shape):
        raise ValueError(f"rank must be 1 to {min(references.shape)} (the number of references), not {rank}")
    basis: NDArray[np.float64] = np.linalg.svd(references, full_matrices=False)[2][:rank]
    return basis


def auc(positive: Array, negative: Array) -> float:
    """How often a positive lies above a negative (ties half): the area under the ROC curve. NaN if a side is empty."""
    if not len(positive) or not len(negative):
        return float("nan")
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, "left") + np.searchsorted(ordered, positive, "right")
    return float(below.mean() / (2 * len(negative)))


class FittedFormula:
    """A formula with its references: states in, scores out.

    Args:
        formula, top_k, rank: see `larf` and `subspace`.
        unsafe, safe: [pairs, layers, hidden].
    """

    def __init__(self, formula: Formula, unsafe: Array, safe: Array, top_k: int | None = None, rank: int = 16) -> None:
        self.formula = formula
        self.top_k = top_k
        alone = range(unsafe.shape[1])
        if formula == "subspace":
            self._joint = subspace_bases(unsafe, safe, rank)
            self._bases = [subspace_bases(unsafe[:, [i]], safe[:, [i]], rank) for i in alone]
        else:
            self._differences = [pair_differences(unsafe[:, i], safe[:, i]) for i in alone]

    def score(self, states: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The score [rows] and the score of each layer alone [rows, layers], of states [rows, layers, hidden].

        For `larf` the first is the mean of the second; the subspace formula looks at all layers jointly.
        """
        if self.formula == "subspace":
            by_layer = [subspace(states[:, [i]], bases) for i, bases in enumerate(self._bases)]
            return subspace(states, self._joint), np.stack(by_layer, axis=1)
        scores = [larf(states[:, i], differences, self.top_k) for i, differences in enumerate(self._differences)]
        return np.mean(scores, axis=0), np.stack(scores, axis=1)
