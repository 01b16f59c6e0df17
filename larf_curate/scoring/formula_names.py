"""The formulas by name, and which arguments of `LARFScorer.fit` belong to which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from ..errors import ModelError

Formula = Literal["larf", "subspace", "influence"]

_OF_STATES = ("layer", "references", "unsafe", "safe", "top_k")
_OF_INFLUENCE = ("prompts",)


def find_misplaced(formula: str, values: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first argument that does not suit a formula, or is missing, and what is wrong with it; None where all do.

    Args:
        formula: the name that was given.
        values: arguments of `LARFScorer.fit` by name; one that is None was not given.

    >>> find_misplaced("influence", {"layer": 12})
    ('layer', 'does not belong to formula influence, which reads no states: leave it out')
    """
    if formula not in get_args(Formula):
        return "formula", f"must be one of {', '.join(get_args(Formula))}, not {formula!r}"
    if formula == "influence":
        present = [name for name in _OF_STATES if values.get(name) is not None]
        why = "does not belong to formula influence, which reads no states: leave it out"
        return (present[0], why) if present else None
    if present := [name for name in _OF_INFLUENCE if values.get(name) is not None]:
        return present[0], f"belongs to formula influence, not to {formula}"
    if formula == "subspace" and values.get("top_k") is not None:
        return "top_k", "belongs to formula larf; the subspace formula has rank"
    if values.get("layer") is None:
        return "layer", f"is missing: formula {formula} reads a block, several, or auto (search first)"
    return None


def require_suitable(formula: str, values: Mapping[str, Any]) -> None:
    """Make sure that arguments suit a formula; see `find_misplaced`.

    Raises:
        ModelError: one does not, or is missing.
    """
    if misplaced := find_misplaced(formula, values):
        raise ModelError(" ".join(misplaced))
