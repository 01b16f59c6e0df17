"""Scores by influence: how far a gradient step on a row moves the model away from refusing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..encoding.directions import WeightDirection
from ..encoding.encoder import Encoder
from ..errors import Issue
from ..rows.trained_tokens import TrainedTokens, trained_tokens
from ..rows.turns import Conversation
from .columns import ScoreColumns
from .influence import token_influence
from .scores import Scores
from .spans import Span, find_spans


class InfluenceMeasure:
    """Reads what trained tokens do to a model's refusing. See `annotating.Measure`.

    Args:
        encoder: of the whole model, with its head, that the direction was fitted on.
        direction: along which the margin of refusing grows.
        step: how far the weights are moved along it.
        kinds: the columns to give.
    """

    def __init__(self, encoder: Encoder, direction: WeightDirection, step: float, kinds: ScoreColumns) -> None:
        self._encoder = encoder
        self._direction = direction
        self._step = step
        self.kinds = kinds

    def prepare(self, conversation: Conversation) -> TrainedTokens:
        """See `Measure`."""
        return trained_tokens(self._encoder.renderer, conversation, characters=self.kinds.spans)

    def score(self, prepared: Sequence[TrainedTokens | Issue], progress: Callable[[int], None] | None) -> Scores:
        """See `Measure`."""
        places = [place for place, item in enumerate(prepared) if isinstance(item, TrainedTokens)]
        rows = [item for item in prepared if isinstance(item, TrainedTokens)]
        if progress is not None and len(rows) < len(prepared):
            progress(len(prepared) - len(rows))
        influence = token_influence(
            self._encoder.runtime,
            [row.ids for row in rows],
            [row.trained for row in rows],
            self._direction,
            self._step,
            batch_tokens=self._encoder.batch_tokens,
            progress=progress,
        )
        score, summed = (np.full(len(prepared), np.nan, np.float32) for _ in range(2))
        score[places], summed[places] = influence.means(), influence.sums()
        issues = [item.issue if isinstance(item, TrainedTokens) else item for item in prepared]
        for place, issue in zip(places, influence.issues, strict=True):
            issues[place] = issue or issues[place]
        tokens = [item.tokens if isinstance(item, TrainedTokens) else None for item in prepared]
        by_layer = np.zeros((len(prepared), 0), np.float32)
        spans: list[list[Span] | None] = [None] * len(prepared)
        for place, row, values in zip(places, rows, influence.values, strict=True):
            if values is not None and row.characters is not None:
                own = [at for at, trained in zip(row.characters, row.trained, strict=True) if trained]
                spans[place] = find_spans(values, own, row.texts)
        return Scores(
            self.kinds,
            score,
            by_layer,
            tokens,
            issues,
            influence.execution,
            summed,
            spans=spans if self.kinds.spans else None,
        )
