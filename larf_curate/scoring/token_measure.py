"""What formulas over the losses of trained tokens have in common: rows made ready, and values of tokens as scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..encoding.encoder import Encoder
from ..errors import Issue
from ..rows.trained_tokens import TrainedTokens, trained_tokens
from ..rows.turns import Conversation
from .columns import ScoreColumns
from .scores import Scores
from .spans import Span


@dataclass(frozen=True)
class TokenFigures:
    """What the trained tokens of some rows came to.

    Attributes:
        means, sums: over each row's trained tokens; float [rows], NaN where `issues` says why there is none.
        issues: for each row, why it has no value, or None.
        execution: how they were computed, in words.
        spans: the spans of each row, if the formula gives them; else None.
    """

    means: NDArray[np.floating]
    sums: NDArray[np.floating]
    issues: Sequence[Issue | None]
    execution: str
    spans: Sequence[list[Span] | None] | None = None


class TokenMeasure(ABC):
    """Reads something of each trained token of a row. See `annotating.Measure`.

    Args:
        encoder: the encoder of the whole model, with its head.
        kinds: the columns to give.
    """

    def __init__(self, encoder: Encoder, kinds: ScoreColumns) -> None:
        self._encoder = encoder
        self.kinds = kinds

    @abstractmethod
    def measure(self, rows: Sequence[TrainedTokens], progress: Callable[[int], None] | None) -> TokenFigures:
        """Run the model on rows that could be prepared."""

    def prepare(self, conversation: Conversation) -> TrainedTokens:
        """See `Measure`."""
        return trained_tokens(self._encoder.renderer, conversation, characters=self.kinds.spans)

    def score(self, prepared: Sequence[TrainedTokens | Issue], progress: Callable[[int], None] | None) -> Scores:
        """See `Measure`."""
        places = [place for place, item in enumerate(prepared) if isinstance(item, TrainedTokens)]
        rows = [item for item in prepared if isinstance(item, TrainedTokens)]
        if progress is not None and len(rows) < len(prepared):
            progress(len(prepared) - len(rows))
        figures = self.measure(rows, progress)
        score, summed = (np.full(len(prepared), np.nan, np.float32) for _ in range(2))
        score[places], summed[places] = figures.means, figures.sums
        issues = [item.issue if isinstance(item, TrainedTokens) else item for item in prepared]
        spans: list[list[Span] | None] = [None] * len(prepared)
        for number, place in enumerate(places):
            issues[place] = figures.issues[number] or issues[place]
            spans[place] = None if figures.spans is None else figures.spans[number]
        return Scores(
            self.kinds,
            score,
            np.zeros((len(prepared), 0), np.float32),
            [item.tokens if isinstance(item, TrainedTokens) else None for item in prepared],
            issues,
            figures.execution,
            summed,
            spans=spans if self.kinds.spans else None,
        )
