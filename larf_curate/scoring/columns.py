"""The columns that scoring adds to a dataset: their names and types."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ThresholdError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

SCORE, SUM, TOKENS, ISSUE = "larf_score", "larf_score_sum", "larf_tokens", "larf_issue"
_ANY = re.compile(rf"{SCORE}(_l\d+|_sum)?|{TOKENS}|{ISSUE}")


@dataclass(frozen=True)
class ScoreColumns:
    """Which columns a scorer adds.

    Attributes:
        layers: the blocks that are read; each has a column of its own if there are several.
        summed: whether there is a score summed over the trained tokens beside their mean.

    >>> list(ScoreColumns(layers=(9, 12)).dtypes())
    ['larf_score', 'larf_score_l9', 'larf_score_l12', 'larf_tokens', 'larf_issue']
    """

    layers: tuple[int, ...] = ()
    summed: bool = False

    def dtypes(self) -> dict[str, str]:
        """Name and dtype, as `datasets` and Arrow both call it, of every column, in order."""
        of_layers = [layer_column(layer) for layer in self.layers] if len(self.layers) > 1 else []
        return {
            SCORE: "float32",
            **dict.fromkeys(of_layers, "float32"),
            **({SUM: "float32"} if self.summed else {}),
            TOKENS: "int32",
            ISSUE: "string",
        }

    def arrow(self) -> dict[str, pa.DataType]:
        """The same with Arrow's types."""
        import pyarrow as pa

        return {name: pa.type_for_alias(dtype) for name, dtype in self.dtypes().items()}

    def features(self) -> dict[str, Any]:
        """The same as `datasets` writes features in JSON (`Features.from_dict` reads it)."""
        return {name: {"dtype": dtype, "_type": "Value"} for name, dtype in self.dtypes().items()}


def layer_column(layer: int) -> str:
    return f"{SCORE}_l{layer}"


def is_larf_column(name: str) -> bool:
    """Whether scoring adds a column of this name, with whatever scorer.

    Rows that are scored again lose all these columns before they get the new ones: the score of an earlier scorer's
    layer would pass for one of the new scorer.

    >>> [is_larf_column(name) for name in ("larf_score", "larf_score_l12", "larf_row", "score")]
    [True, True, False, False]
    """
    return _ANY.fullmatch(name) is not None


def scores_of(table: pa.Table, column: str = SCORE) -> NDArray[np.float64]:
    """A column of scores, NaN where null: float64 [rows].

    Raises:
        ThresholdError: it holds no numbers.
    """
    import pyarrow as pa

    try:
        scores = table[column].cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise ThresholdError(f"the column {column!r} holds {table[column].type}, not numbers") from None
    values: NDArray[np.float64] = scores.to_numpy()
    return values
