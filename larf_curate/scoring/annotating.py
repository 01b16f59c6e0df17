"""Rows become scores: rendered in a thread of their own while the ones before them are run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, Protocol

from ..encoding.threads import prefetched
from ..errors import Unscorable
from ..rows.conversions import Row
from ..rows.formats import RowFormat
from ..rows.turns import Conversation
from .columns import ScoreColumns
from .plain_rows import plain_row
from .remarks import LOOKED_AT, say_of_template
from .scores import Scores

_PART = 256
"""Rows run together while the next ones are rendered; enough to find others of equal length among them."""


class Measure(Protocol):
    """How conversations become scores: by states at chosen blocks, or by losses.

    Attributes:
        kinds: the columns that it gives.
    """

    @property
    def kinds(self) -> ScoreColumns: ...

    def prepare(self, conversation: Conversation) -> Any:
        """Token ids, and what else is needed of a conversation. Safe in another thread than `score`.

        Raises:
            Unscorable: it cannot be rendered.
        """

    def score(self, prepared: Sequence[Any], progress: Callable[[int], None] | None) -> Scores:
        """Run the model; a row that could not be prepared has its issue in place of what `prepare` gives."""


def annotate_rows(
    rows: Sequence[Row],
    row_format: RowFormat,
    measure: Measure,
    progress: Callable[[int], None] | None = None,
) -> Scores:
    """The scores of rows.

    Args:
        rows: all are in memory at once.
        row_format: how they become conversations.
        measure: how conversations become scores.
        progress: called with the number of rows just done.
    """

    def prepare(start: int) -> list[Any]:
        numbered = enumerate(rows[start : start + _PART], start)
        return [_prepare(row, row_format, measure, remark=number < LOOKED_AT) for number, row in numbered]

    with closing(prefetched(prepare, range(0, len(rows), _PART))) as prepared:
        parts = [measure.score(part, progress) for part in prepared]
    return Scores.joined(measure.kinds, parts)


def _prepare(row: Row, row_format: RowFormat, measure: Measure, *, remark: bool) -> Any:
    """A row's conversation made ready, or why it is not; `remark` on marks of a chat template in it."""
    try:
        conversation = row_format.convert(plain_row(row, row_format.columns(row)))
        if remark:
            say_of_template(conversation)
        return measure.prepare(conversation)
    except Unscorable as error:
        return error.issue
