"""Scores by influence: how far a gradient step on a row moves the model away from refusing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..encoding.directions import WeightDirection
from ..encoding.encoder import Encoder
from ..rows.trained_tokens import TrainedTokens
from .columns import ScoreColumns
from .influence import token_influence
from .spans import Span, find_spans
from .token_measure import TokenFigures, TokenMeasure


class InfluenceMeasure(TokenMeasure):
    """Reads what trained tokens do to a model's refusing.

    Args:
        encoder: the encoder of the whole model, with its head, that the direction was fitted on.
        direction: along which the margin of refusing grows.
        step: how far the weights are moved along it.
        kinds: the columns to give.
    """

    def __init__(self, encoder: Encoder, direction: WeightDirection, step: float, kinds: ScoreColumns) -> None:
        super().__init__(encoder, kinds)
        self._direction = direction
        self._step = step

    def measure(self, rows: Sequence[TrainedTokens], progress: Callable[[int], None] | None) -> TokenFigures:
        """See `TokenMeasure`."""
        influence = token_influence(
            self._encoder.runtime,
            [row.ids for row in rows],
            [row.trained for row in rows],
            self._direction,
            self._step,
            batch_tokens=self._encoder.batch_tokens,
            progress=progress,
        )
        spans: list[list[Span] | None] = [None] * len(rows)
        for number, (row, values) in enumerate(zip(rows, influence.values, strict=True)):
            if values is not None and row.characters is not None:
                own = [at for at, trained in zip(row.characters, row.trained, strict=True) if trained]
                spans[number] = find_spans(values, own, row.texts)
        return TokenFigures(influence.means(), influence.sums(), influence.issues, influence.execution, spans)
