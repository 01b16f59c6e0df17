"""The formula `loss_gap`: how much higher a row's loss is under a second model than under the first.

With a model trained on noisy data, and the same model after a while on safe data, it is ForgetFilter's forgetting score
(arXiv 2312.12736): rows that safe training makes the model forget.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ..encoding.encoder import Encoder, get_encoder
from ..encoding.losses import token_losses
from ..errors import Issue, ModelError
from ..models.options import ModelOptions
from ..rows.trained_tokens import TrainedTokens, trained_tokens
from ..rows.turns import Conversation
from .artifact import Tensors
from .columns import ScoreColumns
from .model_check import CHECK, check_losses
from .records import OtherModel
from .scores import Scores
from .spec import ScorerSpec


def fit_loss_gap(options: ModelOptions, other: str) -> tuple[ScorerSpec, Tensors]:
    """Load both models, and make sure that they read a conversation as the same tokens.

    Args:
        options: the first model, and how both are loaded and run.
        other: the second model.

    Raises:
        ModelError: one cannot be used, or they render conversations in different ways.
    """
    encoder = get_encoder(options, None)
    second = get_encoder(replace(options, model=other, revision=None), None)
    first_ids, second_ids = (trained_tokens(each.renderer, CHECK).ids for each in (encoder, second))
    if first_ids != second_ids:
        raise ModelError(
            f"{options.model} and {other} read one conversation as different tokens: losses compare only where "
            "tokenizer and chat template are the same"
        )
    packages = ("larf-curate", "torch", "transformers")
    spec = ScorerSpec(
        model=options.model,
        version=encoder.loaded.version,
        layers=(),
        blocks=encoder.loaded.total_blocks,
        hidden_size=encoder.loaded.hidden_size,
        formula="loss_gap",
        top_k=None,
        rank=1,
        dtype=encoder.loaded.dtype_name,
        max_tokens=encoder.renderer.max_tokens,
        overflow=options.overflow,
        chat_template=options.chat_template,
        template_digest=encoder.renderer.template_digest,
        other=OtherModel(other, second.loaded.version),
        packages={name: importlib.metadata.version(name) for name in packages},
    )
    return spec, {"check": check_losses(encoder), "other_check": check_losses(second)}


class LossGapMeasure:
    """Reads the loss of trained tokens under two models. See `annotating.Measure`.

    Args:
        encoder: of the first model, whole.
        other: of the second, which reads conversations as the same tokens.
        kinds: the columns to give.
    """

    def __init__(self, encoder: Encoder, other: Encoder, kinds: ScoreColumns) -> None:
        self._encoder = encoder
        self._other = other
        self.kinds = kinds

    def prepare(self, conversation: Conversation) -> TrainedTokens:
        """See `Measure`."""
        return trained_tokens(self._encoder.renderer, conversation)

    def score(self, prepared: Sequence[TrainedTokens | Issue], progress: Callable[[int], None] | None) -> Scores:
        """See `Measure`."""
        rows = [item for item in prepared if isinstance(item, TrainedTokens)]
        if progress is not None and len(rows) < len(prepared):
            progress(len(prepared) - len(rows))
        ids, trained = [row.ids for row in rows], [row.trained for row in rows]
        size = self._encoder.batch_tokens
        first = token_losses(self._encoder.runtime, ids, trained, batch_tokens=size)
        second = token_losses(self._other.runtime, ids, trained, batch_tokens=size, progress=progress)
        score, summed = (np.full(len(prepared), np.nan, np.float32) for _ in range(2))
        issues = [item.issue if isinstance(item, TrainedTokens) else item for item in prepared]
        places = [place for place, item in enumerate(prepared) if isinstance(item, TrainedTokens)]
        for number, place in enumerate(places):
            before, after = first.values[number], second.values[number]
            issues[place] = first.issues[number] or second.issues[number] or issues[place]
            if before is not None and after is not None:
                gaps = after.astype(np.float64) - before
                score[place], summed[place] = gaps.mean(), gaps.sum()
        tokens = [item.tokens if isinstance(item, TrainedTokens) else None for item in prepared]
        by_layer = np.zeros((len(prepared), 0), np.float32)
        return Scores(self.kinds, score, by_layer, tokens, issues, first.execution, summed)
