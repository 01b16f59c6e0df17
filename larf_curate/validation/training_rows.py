"""A dataset's rows as trl takes them: token ids, and how much the loss of each token counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DataError, Issue, Unscorable
from ..rows.formats import RowFormat
from ..rows.rendering import Renderer
from ..rows.trained_tokens import trained_tokens
from ..rows.turns import Conversation
from .masked_spans import spans_of, untrained_places

WEIGHT, SPANS = "larf_weight", "larf_spans"


@dataclass(frozen=True)
class TrainingRow:
    """One conversation as it is trained on.

    Attributes:
        ids: token ids.
        weights: for each of them, how much its loss counts: 0 where it is not trained, else the row's `larf_weight`,
            which is 1 where there is none.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]

    @property
    def trained_tokens(self) -> int:
        """How many tokens have a loss that counts."""
        return sum(weight > 0 for weight in self.weights)

    @property
    def labels(self) -> list[int]:
        """The token ids, with -100 where no loss is taken, as transformers and trl have it."""
        return [token if weight > 0 else -100 for token, weight in zip(self.ids, self.weights, strict=True)]


def training_row(row: Mapping[str, Any], row_format: RowFormat, renderer: Renderer) -> TrainingRow:
    """One row of a dataset, ready to be trained on.

    `larf_weight` scales the loss of all of its tokens, and the characters that `larf_spans` names are left out of the
    loss, where the row has these columns.

    Raises:
        Unscorable: the row is no conversation, or nothing of it is left to train on.
        DataError: its weight or its spans are not what these columns hold.
    """
    conversation = row_format.convert(row)
    tokens = trained_tokens(renderer, conversation)
    trained = np.array(tokens.trained)
    spans = spans_of(row.get(SPANS))
    if spans:
        trained[untrained_places(renderer, conversation, spans)] = False
    weights = np.where(trained, _weight_of(row.get(WEIGHT)), 0.0)
    if not weights.any():
        raise Unscorable(Issue.NO_TRAINED_TOKENS)
    return TrainingRow(tuple(tokens.ids), tuple(map(float, weights)))


def training_rows(rows: Iterable[Mapping[str, Any]], row_format: RowFormat, renderer: Renderer) -> list[TrainingRow]:
    """As `training_row`, for rows that have been scored before and so can be read.

    Rows of which nothing is left to train on (a weight of 0, all of their answers masked) are left out.

    Raises:
        DataError: one of them cannot be read, or nothing of any is left.
    """
    return [ready for _, ready in with_conversations(rows, row_format, renderer)]


def with_conversations(
    rows: Iterable[Mapping[str, Any]], row_format: RowFormat, renderer: Renderer
) -> list[tuple[Conversation, TrainingRow]]:
    """As `training_rows`, with the conversation that each of them is."""
    ready: list[tuple[Conversation, TrainingRow]] = []
    for number, row in enumerate(rows):
        try:
            ready.append((row_format.convert(row), training_row(row, row_format, renderer)))
        except Unscorable as error:
            if error.issue is not Issue.NO_TRAINED_TOKENS:
                raise DataError(f"row {number} of an arm cannot be trained on: {error}") from None
    if not ready:
        raise DataError("nothing of an arm's rows is left to train on: all weights are 0, or all answers are masked")
    return ready


def total_trained_tokens(rows: Sequence[TrainingRow]) -> int:
    """Tokens with a loss, in all rows together."""
    return sum(row.trained_tokens for row in rows)


def _weight_of(value: object) -> float:
    if value is None:
        return 1.0
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise DataError(f"{WEIGHT} holds {value!r}, where a number from 0 to 1 is wanted")
    return float(value)
