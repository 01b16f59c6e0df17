"""The arguments of `LARFScorer.fit` become a fitted formula."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ..answering.prompts import choose_prompts
from ..errors import ModelError
from ..models.options import FitOptions, ModelOptions
from .artifact import Tensors
from .fitting import fit_references
from .formula_names import Formula, require_suitable
from .layer_search.search import safety_layer
from .loss_gap import fit_loss_gap
from .margin_fitting import fit_margin
from .references import ReferenceSet, choose_references
from .spec import ScorerSpec

Layer = int | Sequence[int] | Literal["auto"]

_SUBSPACE_RANK = 16


@dataclass(frozen=True, kw_only=True)
class FitRequest:
    """What a scorer is to be fitted on; see `LARFScorer.fit`."""

    layer: Layer | None = None
    references: ReferenceSet | str | Path | None = None
    unsafe: str | Path | None = None
    safe: str | Path | None = None
    formula: Formula = "larf"
    prompts: Sequence[str] | str | Path | None = None
    other: str | Path | None = None
    top_k: int | None = None
    rank: int | None = None


def fit_formula(
    options: ModelOptions, request: FitRequest, given: FitOptions, *, progress: bool = True
) -> tuple[ScorerSpec, Tensors]:
    """Fit what is asked for.

    Args:
        options: the model, and how it is loaded and run.
        request: the formula and what it is fitted on.
        given: the options as the user gave them, for a layer search.
        progress: show how far it is.

    Raises:
        ModelError: an argument is wrong, or the model cannot be used.
        ReferencesError, PromptsError: what it is to be fitted on cannot be used.
    """
    require_suitable(request.formula, vars(request))
    if request.formula == "influence":
        return fit_margin(options, choose_prompts(request.prompts), request.rank, progress=progress)
    if request.other is not None:
        return fit_loss_gap(options, str(request.other))
    pairs = choose_references(request.references, request.unsafe, request.safe)
    search, layers = None, tuple[int, ...]()
    if isinstance(request.layer, str):
        if request.layer != "auto":
            raise ModelError(f"layer must be a block, several, or 'auto', not {request.layer!r}")
        best, search = safety_layer(options.model, references=pairs, progress=progress, **given)
        layers = (best,)
    elif request.layer is not None:
        layers = (request.layer,) if isinstance(request.layer, int) else tuple(request.layer)
    rank = _SUBSPACE_RANK if request.rank is None else request.rank
    spec, tensors = fit_references(options, layers, pairs, request.formula, request.top_k, rank, progress=progress)
    if search is not None:
        spec = replace(spec, search=replace(search, decisions={}))
    return spec, tensors
