"""The columns that scoring adds to a dataset: which ones a scorer adds, and their types."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import NoneType
from typing import TYPE_CHECKING, Any

from ..errors import ThresholdError
from ..rows.score_columns import PREFIX, ColumnNames
from .weights import WeightRange

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

SCORE = ColumnNames().score
"""The column of the scores that runs, and all that reads their results, decide by."""
_SPAN = {"turn": "int32", "start": "int32", "end": "int32", "score": "float32"}


@dataclass(frozen=True)
class ScoreColumns:
    """Which columns a scorer adds.

    Attributes:
        layers: the blocks that are read; each has a column of its own if there are several.
        summed: whether there is a score summed over the trained tokens beside their mean.
        turn: whether each assistant turn is scored by itself, so that a column says which one the score is of.
        spans: whether a column says which characters do most of the damage.
        weight: the scores between which training weights fall; None for no such column.
        prefix: what their names begin with.

    >>> list(ScoreColumns(layers=(9, 12)).dtypes())
    ['larf_score', 'larf_score_l9', 'larf_score_l12', 'larf_tokens', 'larf_issue']
    """

    layers: tuple[int, ...] = ()
    summed: bool = False
    turn: bool = False
    spans: bool = False
    weight: WeightRange | None = None
    prefix: str = PREFIX

    @property
    def names(self) -> ColumnNames:
        """What they are called."""
        return ColumnNames(self.prefix)

    def dtypes(self) -> dict[str, str]:
        """Name and dtype, as `datasets` and Arrow both call it, of every column, in order.

        The dtype of spans is a word that stands for a list of `turn`, `start`, `end` and `score`.
        """
        names = self.names
        of_layers = [names.layer(layer) for layer in self.layers] if len(self.layers) > 1 else []
        return {
            names.score: "float32",
            **dict.fromkeys(of_layers, "float32"),
            **({names.summed: "float32"} if self.summed else {}),
            **({names.turn: "int32"} if self.turn else {}),
            names.tokens: "int32",
            names.issue: "string",
            **({names.spans: "spans"} if self.spans else {}),
            **({names.weight: "float32"} if self.weight is not None else {}),
        }

    def arrow(self) -> dict[str, pa.DataType]:
        """The same with Arrow's types."""
        import pyarrow as pa

        spans = pa.list_(pa.struct([(name, pa.type_for_alias(dtype)) for name, dtype in _SPAN.items()]))
        dtypes = self.dtypes().items()
        return {name: spans if dtype == "spans" else pa.type_for_alias(dtype) for name, dtype in dtypes}

    def features(self) -> dict[str, Any]:
        """The same as `datasets` writes features in JSON (`Features.from_dict` reads it)."""
        spans = {"_type": "List", "feature": {name: _value(dtype) for name, dtype in _SPAN.items()}}
        return {name: spans if dtype == "spans" else _value(dtype) for name, dtype in self.dtypes().items()}


def _value(dtype: str) -> dict[str, str]:
    return {"dtype": dtype, "_type": "Value"}


def scores_of(table: pa.Table, column: str = SCORE, first_row: int = 0) -> NDArray[np.float64]:
    """A column of scores, NaN where null: float64 [rows].

    Args:
        table: scored rows.
        column: the column that holds the scores.
        first_row: the number of the table's first row in its dataset, for errors.

    Raises:
        ThresholdError: it holds anything else than finite numbers, NaN and null.
    """
    import numpy as np
    import pyarrow as pa

    from ..sources.json_values import is_json

    scores, kind = table[column], table[column].type
    if is_json(kind):  # where a JSON file mixes whole numbers with others, or with what is no number
        listed = [json.loads(value) if value is not None else None for value in scores.cast(pa.string()).to_pylist()]
        first = next((place for place, value in enumerate(listed) if type(value) not in (int, float, NoneType)), None)
        if first is not None:
            shown = repr(listed[first])[:60]
            where = f"row {first_row + first}: {shown}"
            raise ThresholdError(f"the column {column!r} holds something that is not a number ({where})")
        scores, kind = pa.chunked_array([pa.array(listed, pa.float64())]), pa.float64()
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        first = next((place for place, value in enumerate(table[column]) if value.is_valid), 0)
        shown = repr(table[column][first].as_py())[:60] if len(table) else ""
        raise ThresholdError(f"the column {column!r} holds {kind}, not numbers (row {first_row + first}: {shown})")
    values: NDArray[np.float64] = scores.cast(pa.float64()).to_numpy()
    if np.isinf(values).any():
        place = int(np.argmax(np.isinf(values)))
        raise ThresholdError(
            f"the column {column!r} holds {values[place]} in row {first_row + place}: a score is finite"
        )
    return values
