"""The damage that rows do to a model's refusals, measured with two halves of the prompts.

Influence is linear in the direction, and the gradient of the margin of all prompts is the mean of the gradients of two
halves, weighted by how many prompts each has. So four forward passes over a row (two for each half) give the influence
for all prompts, and how far two sets of prompts agree on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..digests import digest_of
from ..encoding.directions import covered_share
from ..encoding.encoder import Encoder
from ..errors import Issue, Unscorable
from ..models.loading import LoadedModel
from ..rows.trained_tokens import TrainedTokens, trained_tokens
from ..rows.turns import Conversation
from ..scoring.influence import choose_step, token_influence
from ..scoring.margin import Refusals, margin, margin_gradient
from .audit_cache import AuditCache, MarginDirection, MeasuredPart

RANK = 4
"""Of the directions, in each matrix. On `demo-aligned` rows are ranked as by the whole gradient (Spearman 1.000)."""

_STEP_ROWS = 8  # on which the step of the differences is chosen
_PART = 32  # rows measured together; an audit that was interrupted goes on after the last part


@dataclass(frozen=True)
class Halves:
    """In which directions the margins of two halves of the prompts grow.

    Attributes:
        directions: the directions of the two halves.
        weights: the share of the prompts that each half has.
        key: digest of what the directions were computed from.
    """

    directions: tuple[MarginDirection, MarginDirection]
    weights: tuple[float, float]
    key: str

    @property
    def margin(self) -> float:
        """Of all prompts."""
        return sum(share * each.margin for share, each in zip(self.weights, self.directions, strict=True))


@dataclass(frozen=True)
class Damage:
    """How far a gradient step on each row moves a model away from refusing, in log-odds for a unit of learning rate.

    Attributes:
        per_token: mean over the row's trained tokens; float64 [rows], NaN where it could not be measured.
        summed: over these tokens, likewise.
        halves, halves_summed: the same by half of the prompts, float64 [2, rows], each in a unit of its own.
        tokens: trained tokens of the row, 0 where there is none; int64 [rows].
        loss: the mean of their losses in nats, float64 [rows].
        issues: why a row could not be measured, or that it was truncated, or None.
        covered: the share (0 to 1) of the blocks' weights along which it was measured.
    """

    per_token: NDArray[np.float64]
    summed: NDArray[np.float64]
    halves: NDArray[np.float64]
    halves_summed: NDArray[np.float64]
    tokens: NDArray[np.int64]
    loss: NDArray[np.float64]
    issues: list[Issue | None]
    covered: float


def find_halves(loaded: LoadedModel, refusals: Refusals, cache: AuditCache, *, progress: bool) -> Halves:
    """The directions in which the margins of two halves of the prompts grow; out of the cache if they are there.

    Raises:
        ModelError: the weights have no gradient, or one that is zero or infinite.
    """
    directions = []
    for half in refusals.halves():
        known = cache.read_direction(half, RANK)
        if known is None:
            known = _direction(loaded, half, progress=progress)
            cache.write_direction(half, RANK, known)
        directions.append(known)
    key = digest_of([refusals.ids, refusals.openings, RANK])
    return Halves((directions[0], directions[1]), refusals.shares(), key)


def _direction(loaded: LoadedModel, refusals: Refusals, *, progress: bool) -> MarginDirection:
    gradient = margin_gradient(loaded, refusals, progress=progress)
    slope = gradient.norm
    return MarginDirection(gradient.low_rank(RANK).scaled(1 / slope), slope, margin(loaded, refusals))


def measure_damage(
    encoder: Encoder,
    conversations: Sequence[Conversation | Issue],
    halves: Halves,
    cache: AuditCache,
    progress: Callable[[int], object] | None = None,
) -> Damage:
    """Measure the damage of rows.

    Args:
        encoder: the encoder of the model, loaded with its head.
        conversations: the rows, or why one is no conversation.
        halves: the halves of the prompts.
        cache: keeps what was measured, a part of the rows after the other.
        progress: called with the number of rows just done.
    """
    trained = [_trained(encoder, conversation) for conversation in conversations]
    usable = [place for place, item in enumerate(trained) if isinstance(item, TrainedTokens)]
    items = [item for item in trained if isinstance(item, TrainedTokens)]
    issues = [item.issue if isinstance(item, TrainedTokens) else item for item in trained]
    means, sums, losses = (np.full((2, len(trained)), np.nan) for _ in range(3))
    step = _step(encoder, items, halves, cache) if items else 0.0
    if progress is not None:
        progress(len(trained) - len(items))
    for start in range(0, len(items), _PART):
        part = _measured(encoder, items[start : start + _PART], halves, step, cache)
        places = usable[start : start + _PART]
        means[:, places], sums[:, places], losses[:, places] = part.means, part.sums, part.losses
        for place, issue in zip(places, part.issues, strict=True):
            issues[place] = Issue(issue) if issue is not None else issues[place]
        if progress is not None:
            progress(len(places))
    # Along a direction of norm 1 times the slope along it: the change of the margin itself.
    slopes = np.array([share * each.slope for share, each in zip(halves.weights, halves.directions, strict=True)])
    per_token, summed = slopes @ means, slopes @ sums
    for place in np.flatnonzero(np.isnan(per_token)).tolist():
        issue = issues[place]
        issues[place] = issue if issue is not None and issue.unscorable else Issue.NON_FINITE
    tokens = np.array([item.count if isinstance(item, TrainedTokens) else 0 for item in trained], np.int64)
    return Damage(per_token, summed, means, sums, tokens, losses.mean(axis=0), issues, covered_share(encoder.loaded))


def _trained(encoder: Encoder, conversation: Conversation | Issue) -> TrainedTokens | Issue:
    if isinstance(conversation, Issue):
        return conversation
    try:
        return trained_tokens(encoder.renderer, conversation)
    except Unscorable as error:
        return error.issue


def _measured(
    encoder: Encoder, items: Sequence[TrainedTokens], halves: Halves, step: float, cache: AuditCache
) -> MeasuredPart:
    """The influence of some rows along both directions."""
    ids, marks = [item.ids for item in items], [item.trained for item in items]
    key = digest_of([halves.key, step, ids, marks])
    known = cache.read_part(key, len(items))
    if known is not None:
        return known
    influences = [
        token_influence(encoder.runtime, ids, marks, each.direction, step, batch_tokens=encoder.batch_tokens)
        for each in halves.directions
    ]
    issues = [first or second for first, second in zip(*(each.issues for each in influences), strict=True)]
    part = MeasuredPart(
        means=[[float(value) for value in each.means()] for each in influences],
        sums=[[float(value) for value in each.sums()] for each in influences],
        losses=[
            [np.nan if row is None else float(row.mean(dtype=np.float64)) for row in each.losses] for each in influences
        ],
        issues=[None if issue is None else issue.value for issue in issues],
    )
    cache.write_part(key, part)
    return part


def _step(encoder: Encoder, items: Sequence[TrainedTokens], halves: Halves, cache: AuditCache) -> float:
    """The step of the differences, chosen on some of the shorter rows: it depends on the model, hardly on the rows.

    Half precision takes no differences, and so no step.
    """
    if encoder.loaded.dtype_name != "float32":
        return 0.0
    by_length = sorted(items, key=lambda item: len(item.ids))
    half = by_length[: max(_STEP_ROWS, len(items) // 2)]
    chosen = [half[place] for place in sorted(set(np.linspace(0, len(half) - 1, _STEP_ROWS).astype(int).tolist()))]
    ids, marks = [item.ids for item in chosen], [item.trained for item in chosen]
    key = digest_of([halves.key, ids, marks])
    step = cache.read_step(key)
    if step is None:
        step, _ = choose_step(encoder.runtime, ids, marks, halves.directions[0].direction)
        cache.write_step(key, step)
    return step
