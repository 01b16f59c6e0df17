"""Harmful requests become a fitted scorer for `formula="influence"`: ask them, and find how refusing is worn away."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..answering.prompts import PromptSet
from ..encoding.directions import Factors, WeightDirection, covered_share
from ..encoding.encoder import Encoder, get_encoder
from ..errors import ModelError, Unscorable
from ..models.options import ModelOptions
from ..rows.formats import resolve_format
from ..rows.trained_tokens import TrainedTokens, trained_tokens
from .artifact import Tensors
from .fitting import sample_rows
from .influence import USUAL_STEP, choose_step, token_influence
from .margin import find_refusals, margin, margin_gradient, require_gradients
from .model_check import check_losses
from .new_spec import new_spec
from .records import MarginRecord
from .spec import ScorerSpec
from .statistics import spearman

RANKS = (4, 16, 64)
"""Ranks to choose from: the first whose scores agree with those of the whole gradient."""
_ENOUGH = 0.99  # rank correlation

_SAMPLE = 5  # every fifth of the package's sample rows, 48 in all
_FEW = 12  # of them, to choose the step by


def fit_margin(
    options: ModelOptions, prompts: PromptSet, rank: int | None = None, *, progress: bool = True
) -> tuple[ScorerSpec, Tensors]:
    """Ask the prompts, take the margin's gradient, and cut it to a low rank that gives the same scores.

    Args:
        options: the model, and how it is loaded and run.
        prompts: harmful requests; most of them have to be refused.
        rank: the rank of the direction in each matrix; None takes the first of `RANKS` that is high enough.
        progress: show how far it is.

    Raises:
        ModelError: the model cannot be used, is quantised, or its margin of refusing has no slope.
        PromptsError: there are too few prompts, or the model refuses too few of them.
    """
    if rank is not None and rank < 1:
        raise ModelError(f"rank must be 1 or more, not {rank}")
    encoder = get_encoder(options, None)
    loaded, runtime = encoder.loaded, encoder.runtime
    require_gradients(loaded)
    check = check_losses(encoder)
    with runtime.lock:
        refusals = find_refusals(encoder, prompts.prompts, progress=progress)
        value = margin(loaded, refusals)
        halves = [margin_gradient(loaded, half, progress=progress) for half in refusals.halves()]
    shares = refusals.shares()
    whole = _sum(halves, shares)
    rows = _sample(encoder)
    if len(rows) < _FEW:
        raise ModelError(f"only {len(rows)} of the package's sample rows can be rendered: look at the chat template")
    ids, trained = [row.ids for row in rows], [row.trained for row in rows]

    def scores_along(direction: WeightDirection, step: float) -> NDArray[np.float32]:
        return token_influence(runtime, ids, trained, direction, step, batch_tokens=options.batch_tokens).means()

    ranks = (rank,) if rank else RANKS
    cut = whole.cut(ranks[0])
    step, gap = USUAL_STEP, 0.0
    if loaded.dtype_name == "float32":
        step, gap = choose_step(runtime, ids[:_FEW], trained[:_FEW], cut.unit())
    of_halves = [scores_along(half.unit(), step) for half in halves]
    # The derivative is linear in the direction: that along the whole gradient is a sum of those along its halves.
    lengths = [share * half.norm for share, half in zip(shares, halves, strict=True)]
    of_whole = lengths[0] * of_halves[0] + lengths[1] * of_halves[1]
    for chosen in ranks:
        if chosen != ranks[0]:
            cut = whole.cut(chosen)
        agreement = _agreement(scores_along(cut.unit(), step), of_whole)
        if agreement >= _ENOUGH:
            break
    record = MarginRecord(
        prompts=prompts.name,
        digest=prompts.digest,
        asked=len(refusals.refused),
        refused=sum(refusals.refused),
        openings=tuple(loaded.tokenizer.decode([token]) for token in refusals.openings),
        value=value,
        slope=whole.norm,
        covered=covered_share(loaded),
        rank=chosen,
        energy=cut.norm**2 / whole.norm**2,
        agreement=agreement,
        halves=_agreement(*of_halves),
        rows=len(rows),
        step=step,
        step_gap=gap,
    )
    spec = new_spec(options, encoder, formula="influence", rank=chosen, margin=record)
    tensors = {"check": check, **cut.unit().to_tensors()}
    return spec, tensors


def _agreement(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Spearman's rank correlation of two scores of the same rows; 0 where one of them is constant."""
    both = np.isfinite(first) & np.isfinite(second)
    estimate = spearman(first[both].astype(np.float64), second[both].astype(np.float64))
    return 0.0 if estimate is None else estimate.value


def _sum(halves: Sequence[WeightDirection], shares: Sequence[float]) -> WeightDirection:
    """The gradient of the margin over all prompts, from those over its halves and the shares of the prompts in them."""
    first, second = (half.scaled(share) for half, share in zip(halves, shares, strict=True))
    return WeightDirection(
        {name: Factors(each.left + second.factors[name].left) for name, each in first.factors.items()}
    )


def _sample(encoder: Encoder) -> list[TrainedTokens]:
    """Some of the package's sample rows, those that the model's template can render."""
    row_format = resolve_format("alpaca", ("instruction", "output"))
    rows = []
    for row in sample_rows()[::_SAMPLE]:
        try:
            rows.append(trained_tokens(encoder.renderer, row_format.convert(row)))
        except Unscorable:
            continue
    return rows
