"""Rows become scores: rendered in a thread of their own while the ones before them are encoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np

from ..encoding.encoder import Encoder, States
from ..encoding.threads import prefetched
from ..errors import Issue, Unscorable
from ..rows.conversions import Row
from ..rows.formats import RowFormat, columns_of
from ..rows.rendering import Rendered
from .formulas import FittedFormula
from .remarks import LOOKED_AT, say_of_template
from .scores import Scores

if TYPE_CHECKING:
    from datasets import Dataset

_WINDOW = 4096
"""Rows of a `Dataset` in memory at a time. Other iterables are listed whole: their columns decide the row format."""
_PART = 256
"""Rows encoded together while the next ones are rendered; enough to find others of equal length among them."""


def in_windows(rows: Iterable[Row] | Dataset) -> tuple[int, list[str], Iterator[Sequence[Row]]]:
    """How many rows there are, their columns, and the rows themselves in windows that fit in memory."""
    if hasattr(rows, "with_format") and hasattr(rows, "__len__"):  # a Dataset; a streaming one has no length
        plain: Any = rows.with_format(None)
        windows = (plain[start : start + _WINDOW] for start in range(0, len(plain), _WINDOW))
        transposed = (
            [dict(zip(window, values, strict=True)) for values in zip(*window.values(), strict=True)]
            for window in windows
        )
        return len(plain), list(plain.column_names), transposed
    listed = list(rows)
    return len(listed), columns_of(listed), (listed[i : i + _WINDOW] for i in range(0, len(listed), _WINDOW))


def annotate_rows(
    rows: Sequence[Row],
    row_format: RowFormat,
    encoder: Encoder,
    formula: FittedFormula,
    layers: tuple[int, ...],
    progress: Callable[[int], None] | None = None,
) -> Scores:
    """The scores of rows by a formula that was fitted at `layers`.

    Args:
        rows: all are in memory at once.
        row_format: how they become conversations.
        encoder: of the model that the formula was fitted on.
        formula: with its references.
        layers: blocks to read.
        progress: called with the number of rows just done.
    """

    def render(start: int) -> list[Rendered | Issue]:
        numbered = enumerate(rows[start : start + _PART], start)
        return [_render(row, row_format, encoder, remark=number < LOOKED_AT) for number, row in numbered]

    with closing(prefetched(render, range(0, len(rows), _PART))) as rendered:
        parts = [_scores_of(encoder.states_of(part, layers, progress), formula, layers) for part in rendered]
    return Scores.joined(layers, parts)


def _render(row: Row, row_format: RowFormat, encoder: Encoder, *, remark: bool) -> Rendered | Issue:
    """The token ids of a row's conversation, or why it has none; `remark` on marks of a chat template in it."""
    try:
        conversation = row_format.convert(row)
    except Unscorable as error:
        return error.issue
    if remark:
        say_of_template(conversation)
    return encoder.render(conversation)


def _scores_of(states: States, formula: FittedFormula, layers: tuple[int, ...]) -> Scores:
    count = len(states.issues)
    score = np.full(count, np.nan, np.float32)
    by_layer = np.full((count, len(layers)), np.nan, np.float32)
    rendered = [place for place, tokens in enumerate(states.tokens) if tokens is not None]
    score[rendered], by_layer[rendered] = formula.score(states.values[rendered])
    issues = list(states.issues)
    for place in rendered:
        issue = issues[place]
        if np.isnan(score[place]) and (issue is None or not issue.unscorable):
            issues[place] = Issue.NON_FINITE  # the zero vector: a state without a direction
    return Scores(layers, score, by_layer, states.tokens, issues, states.execution)
