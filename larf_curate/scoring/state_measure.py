"""Scores by the states of last tokens: the formulas `larf` and `subspace`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..encoding.encoder import Encoder
from ..errors import Issue, Unscorable
from ..rows.rendering import MOST_WORK, Rendered
from ..rows.turns import Conversation
from .columns import ScoreColumns
from .formulas import FittedFormula
from .scores import Scores


@dataclass(frozen=True)
class RenderedTurns:
    """The assistant turns of a row that are scored: each as the conversation up to it, and its number in the row."""

    conversations: list[Rendered]
    numbers: list[int]


class StateMeasure:
    """Reads states at the blocks that a formula was fitted at. See `annotating.Measure`.

    Args:
        encoder: the encoder of the model that the formula was fitted on.
        formula: the formula with its references.
        kinds: the columns to give: the blocks to read, and whether each assistant turn is scored by itself.
    """

    def __init__(self, encoder: Encoder, formula: FittedFormula, kinds: ScoreColumns) -> None:
        self._encoder = encoder
        self._formula = formula
        self.kinds = kinds

    def prepare(self, conversation: Conversation) -> RenderedTurns:
        """See `Measure`. A row of which one turn cannot be rendered is unscorable: that turn might be the worst.

        So is one with so many turns that rendering it up to each of them would take minutes.
        """
        renderer = self._encoder.renderer
        whole = renderer.render(conversation)
        if not self.kinds.turn:
            return RenderedTurns([whole], [conversation.last_turn])
        if sum(message["role"] == "assistant" for message in conversation.messages) * whole.tokens > MOST_WORK:
            raise Unscorable(Issue.TOO_LONG)
        cuts = conversation.at_each_answer()
        # The last cut is the whole conversation.
        return RenderedTurns([*map(renderer.render, cuts[:-1]), whole], [cut.last_turn for cut in cuts])

    def score(self, prepared: Sequence[RenderedTurns | Issue], progress: Callable[[int], None] | None) -> Scores:
        """See `Measure`."""
        rows = [item for item in prepared if isinstance(item, RenderedTurns)]
        layers = self.kinds.layers
        if progress is not None and len(rows) < len(prepared):
            progress(len(prepared) - len(rows))
        rendered = [one for row in rows for one in row.conversations]
        states = self._encoder.states_of(rendered, layers, _in_rows(progress, len(rows), len(rendered)))
        turn_scores, turn_layers = self._formula.score(states.values)

        count = len(prepared)
        score = np.full(count, np.nan, np.float32)
        by_layer = np.full((count, len(layers)), np.nan, np.float32)
        issues = [item if isinstance(item, Issue) else None for item in prepared]
        tokens: list[int | None] = [None] * count
        turns: list[int | None] = [None] * count
        first = 0
        for place, item in enumerate(prepared):
            if isinstance(item, Issue):
                continue
            own = slice(first, first + len(item.numbers))
            first = own.stop
            tokens[place] = item.conversations[-1].tokens
            turn_issues = [issue for issue in states.issues[own] if issue is not None]
            issue = next((issue for issue in turn_issues if issue.unscorable), turn_issues[-1] if turn_issues else None)
            issues[place] = issue
            if np.isnan(turn_scores[own]).any():  # one turn without a score might be the worst
                if issue is None or not issue.unscorable:
                    issues[place] = Issue.NON_FINITE  # the zero vector: a state without a direction
                continue
            worst = int(np.argmax(turn_scores[own]))
            score[place], by_layer[place] = turn_scores[own][worst], turn_layers[own][worst]
            turns[place] = item.numbers[worst]
        return Scores(
            self.kinds,
            score,
            by_layer,
            tokens,
            issues,
            states.execution,
            turns=turns if self.kinds.turn else None,
        )


def _in_rows(progress: Callable[[int], None] | None, rows: int, turns: int) -> Callable[[int], None] | None:
    """A counter of turns that reports the same share of the rows to `progress`."""
    if progress is None or turns == rows:
        return progress
    done = told = 0

    def update(count: int) -> None:
        nonlocal done, told
        done += count
        worth = rows * done // turns
        progress(worth - told)
        told = worth

    return update
