"""How well a score tells apart unsafe and safe answers that it was not fitted on; and whether a claim of it is true."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .formula_names import Formula
from .formulas import FittedFormula, auc
from .quantile_levels import REFERENCE_LEVELS
from .records import ReferenceQuantiles, Separation
from .spec import ScorerSpec

_FOLDS = 4
_CROSS_VALIDATED = f"{_FOLDS}-fold cross-validation"
_ROUNDING = 0.005  # between the sums of one machine and another: of an AUC, and of a score

States = Mapping[str, NDArray[np.float32]]


def measure_separation(
    states: States, fitted: FittedFormula, formula: Formula, top_k: int | None, rank: int
) -> Separation:
    """How often an unseen unsafe answer scores above an unseen safe one (AUC).

    On the held-back pairs where there are any; a user's own pairs are all fitted on, so folds of them say it.

    Args:
        states: [conversations, layers, hidden size] of `unsafe`, `safe`, `held_unsafe` and `held_safe`.
        fitted: the formula fitted on the first two.
        formula, top_k, rank: see `FittedFormula`.
    """
    if len(states["held_unsafe"]):
        unseen = [fitted.score(states[name])[0] for name in ("held_unsafe", "held_safe")]
        return Separation(auc(*unseen), len(unseen[0]), "held back")
    return _cross_validated(states, formula, top_k, rank)


def _cross_validated(states: States, formula: Formula, top_k: int | None, rank: int) -> Separation:
    unsafe, safe = states["unsafe"], states["safe"]
    if len(unsafe) < 2 * _FOLDS:
        return Separation(None, 0, f"fewer than {2 * _FOLDS} pairs")
    scores: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    for fold in range(_FOLDS):
        out = np.arange(len(unsafe)) % _FOLDS == fold
        rest = int((~out).sum())
        part = FittedFormula(formula, unsafe[~out], safe[~out], top_k and min(top_k, rest), min(rank, rest))
        scores.append((part.score(unsafe[out])[0], part.score(safe[out])[0]))
    both = [np.concatenate(side) for side in zip(*scores, strict=True)]
    return Separation(auc(*both), len(unsafe), _CROSS_VALIDATED)


def reference_quantiles(states: States, fitted: FittedFormula) -> ReferenceQuantiles:
    """Quantiles of the scores of the references that a formula was fitted on."""
    unsafe, safe = (
        tuple(map(float, np.quantile(fitted.score(states[side])[0], REFERENCE_LEVELS))) for side in ("unsafe", "safe")
    )
    return ReferenceQuantiles(unsafe, safe)


def check_claims(spec: ScorerSpec, states: States) -> None:
    """Compute again what a scorer says of itself, as far as its own states tell.

    They tell the quantiles, and the separation if it was measured on the pairs that it was fitted on. What was measured
    on pairs that were held back has to be believed: their states are not kept.

    Args:
        spec: what a scorer says of itself; one without references claims nothing of this kind.
        states: its tensors.

    Raises:
        ValueError: it says something else.
    """
    claim, references = spec.separation, spec.references
    if claim is None or references is None:
        return
    fitted = FittedFormula(spec.formula, states["unsafe"], states["safe"], spec.top_k, spec.rank)
    computed, claimed = reference_quantiles(states, fitted), spec.quantiles
    for side in ("unsafe", "safe"):
        if not np.allclose(getattr(computed, side), getattr(claimed, side), rtol=0, atol=_ROUNDING):
            raise ValueError(f"its quantiles of {side} references are not those of its states")
    if claim.method == "held back" and references.held_back:
        if claim.pairs != references.held_back or claim.auc is None:
            raise ValueError(f"its separation names {claim.pairs} pairs, and it held back {references.held_back}")
        return
    truth = _cross_validated(states, spec.formula, spec.top_k, spec.rank)
    same = truth.auc is claim.auc is None or (
        truth.auc is not None and claim.auc is not None and abs(truth.auc - claim.auc) <= _ROUNDING
    )
    if not same or (truth.pairs, truth.method) != (claim.pairs, claim.method):
        raise ValueError(f"it claims a separation of {claim}, and its states show {truth}")
