"""The formula `loss_gap`: how much higher a row's loss is under a second model than under the first.

With a model trained on noisy data, and the same model after a while on safe data, it is ForgetFilter's forgetting score
(arXiv 2312.12736): rows that safe training makes the model forget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ..encoding.encoder import Encoder, get_encoder
from ..encoding.losses import token_losses
from ..errors import ModelError
from ..models.locating import is_adapter
from ..models.options import ModelOptions
from ..rows.trained_tokens import TrainedTokens, trained_tokens
from .artifact import Tensors
from .columns import ScoreColumns
from .model_check import CHECK, check_losses
from .new_spec import new_spec
from .records import OtherModel
from .spec import ScorerSpec
from .token_measure import TokenFigures, TokenMeasure


def fit_loss_gap(options: ModelOptions, other: str) -> tuple[ScorerSpec, Tensors]:
    """Load both models, and make sure that they read a conversation as the same tokens.

    Args:
        options: the first model, and how both are loaded and run. A base model is that of each of them that is an
            adapter.
        other: the second model.

    Raises:
        ModelError: one cannot be used, or they render conversations in different ways.
    """
    encoder = get_encoder(options, None)
    base = options.base if options.base is not None and is_adapter(other, options.base) else None
    second = get_encoder(replace(options, model=other, revision=None, base=base), None)
    first_ids, second_ids = (trained_tokens(each.renderer, CHECK).ids for each in (encoder, second))
    if first_ids != second_ids:
        raise ModelError(
            f"{options.model} and {other} read one conversation as different tokens: losses compare only where "
            "tokenizer and chat template are the same"
        )
    spec = new_spec(options, encoder, formula="loss_gap", other=OtherModel(other, second.loaded.version))
    return spec, {"check": check_losses(encoder), "other_check": check_losses(second)}


class LossGapMeasure(TokenMeasure):
    """Reads the loss of trained tokens under two models.

    Args:
        encoder: the encoder of the whole first model.
        other: the encoder of the second model, which reads conversations as the same tokens.
        kinds: the columns to give.
    """

    def __init__(self, encoder: Encoder, other: Encoder, kinds: ScoreColumns) -> None:
        super().__init__(encoder, kinds)
        self._other = other

    def measure(self, rows: Sequence[TrainedTokens], progress: Callable[[int], None] | None) -> TokenFigures:
        """See `TokenMeasure`."""
        ids, trained = [row.ids for row in rows], [row.trained for row in rows]
        size = self._encoder.batch_tokens
        first = token_losses(self._encoder.runtime, ids, trained, batch_tokens=size)
        second = token_losses(self._other.runtime, ids, trained, batch_tokens=size, progress=progress)
        means, sums = (np.full(len(rows), np.nan) for _ in range(2))
        for number, (before, after) in enumerate(zip(first.values, second.values, strict=True)):
            if before is not None and after is not None:
                gaps = after.astype(np.float64) - before
                means[number], sums[number] = gaps.mean(), gaps.sum()
        issues = [one or two for one, two in zip(first.issues, second.issues, strict=True)]
        return TokenFigures(means, sums, issues, first.execution)
