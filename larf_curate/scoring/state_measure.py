"""Scores by the states of last tokens: the formulas `larf` and `subspace`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..encoding.encoder import Encoder
from ..errors import Issue
from ..rows.rendering import Rendered
from ..rows.turns import Conversation
from .columns import ScoreColumns
from .formulas import FittedFormula
from .scores import Scores


class StateMeasure:
    """Reads states at the blocks that a formula was fitted at. See `annotating.Measure`.

    Args:
        encoder: of the model that the formula was fitted on.
        formula: with its references.
        layers: the blocks to read.
    """

    def __init__(self, encoder: Encoder, formula: FittedFormula, layers: tuple[int, ...]) -> None:
        self._encoder = encoder
        self._formula = formula
        self.kinds = ScoreColumns(layers)

    def prepare(self, conversation: Conversation) -> Rendered:
        """See `Measure`."""
        return self._encoder.renderer.render(conversation)

    def score(self, prepared: Sequence[Rendered | Issue], progress: Callable[[int], None] | None) -> Scores:
        """See `Measure`."""
        layers = self.kinds.layers
        states = self._encoder.states_of(prepared, layers, progress)
        count = len(states.issues)
        score = np.full(count, np.nan, np.float32)
        by_layer = np.full((count, len(layers)), np.nan, np.float32)
        rendered = [place for place, tokens in enumerate(states.tokens) if tokens is not None]
        score[rendered], by_layer[rendered] = self._formula.score(states.values[rendered])
        issues = list(states.issues)
        for place in rendered:
            issue = issues[place]
            if np.isnan(score[place]) and (issue is None or not issue.unscorable):
                issues[place] = Issue.NON_FINITE  # the zero vector: a state without a direction
        return Scores(self.kinds, score, by_layer, states.tokens, issues, states.execution)
