"""Rows become scores: rendered in a thread of their own while the ones before them are run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, Protocol

from ..encoding.threads import prefetched
from ..errors import Unscorable
from ..rows.conversions import Row
from ..rows.formats import RowFormat, columns_of
from ..rows.turns import Conversation
from .columns import ScoreColumns
from .remarks import LOOKED_AT, say_of_template
from .scores import Scores

if TYPE_CHECKING:
    from datasets import Dataset

_WINDOW = 4096
"""Rows of a `Dataset` in memory at a time. Other iterables are listed whole: their columns decide the row format."""
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
        conversation = row_format.convert(row)
        if remark:
            say_of_template(conversation)
        return measure.prepare(conversation)
    except Unscorable as error:
        return error.issue
