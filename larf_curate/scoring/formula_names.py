"""The formulas by name, and which arguments of `LARFScorer.fit` belong to which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from ..errors import ModelError, ReferencesError

Formula = Literal["larf", "subspace", "influence", "loss_gap"]
Turns = Literal["last", "all"]
"""Which assistant turns are scored by themselves: the last one, or each that is trained, of which the worst counts."""

MEANINGS: dict[str, str] = {
    "larf": "closer to the unsafe references",
    "subspace": "closer to the unsafe references",
    "influence": "training on it wears refusals away more",
    "loss_gap": "its loss rises more from the first model to the second",
}
"""For each formula, what is true of a row with a higher score."""

_OF_STATES = ("layer", "references", "unsafe", "safe", "top_k", "turns")
_BELONG_TO = {"prompts": "influence", "spans": "influence", "other": "loss_gap"}


def find_misplaced(formula: str, values: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first argument that does not suit a formula, or is missing, and what is wrong with it; None where all do.

    Args:
        formula: the name that was given.
        values: arguments of `LARFScorer.fit`, `turns` and `spans`, by name; one that is None was not given.

    >>> find_misplaced("influence", {"layer": 12})
    ('layer', 'does not belong to formula influence, which reads no states: leave it out')
    """
    if formula not in get_args(Formula):
        return "formula", f"must be one of {', '.join(get_args(Formula))}, not {formula!r}"
    given = {name for name, value in values.items() if value is not None}
    for name, owner in _BELONG_TO.items():
        if name in given and formula != owner:
            return name, f"belongs to formula {owner}, not to {formula}"
    if formula in ("influence", "loss_gap"):
        for name in (*_OF_STATES, *(("rank",) if formula == "loss_gap" else ())):
            if name in given:
                return name, f"does not belong to formula {formula}, which reads no states: leave it out"
        if formula == "loss_gap" and "other" not in given:
            return "other", "is missing: formula loss_gap compares with a second model"
        return None
    if formula == "subspace" and "top_k" in given:
        return "top_k", "belongs to formula larf; the subspace formula has rank"
    if "layer" not in given:
        return "layer", f"is missing: formula {formula} reads a block, several, or auto (search first)"
    return None


def require_suitable(formula: str, values: Mapping[str, Any]) -> None:
    """Make sure that arguments suit a formula; see `find_misplaced`.

    Raises:
        ReferencesError: the formula is unknown, or has no `top_k`. ModelError: another one does not, or is missing.
    """
    if misplaced := find_misplaced(formula, values):
        kind = ReferencesError if misplaced[0] in ("formula", "top_k") else ModelError
        raise kind(" ".join(misplaced))
