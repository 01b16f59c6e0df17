"""The columns that scoring adds to a dataset: their names and types."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import ThresholdError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

SCORE, TOKENS, ISSUE = "larf_score", "larf_tokens", "larf_issue"
_ANY_LAYERS = re.compile(rf"{SCORE}(_l\d+)?|{TOKENS}|{ISSUE}")


def layer_column(layer: int) -> str:
    return f"{SCORE}_l{layer}"


def is_larf_column(name: str) -> bool:
    """Whether scoring adds a column of this name, at whatever layers.

    Rows that are scored again lose all these columns before they get the new ones: the score of an earlier scorer's
    layer would pass for one of the new scorer.

    >>> [is_larf_column(name) for name in ("larf_score", "larf_score_l12", "larf_row", "score")]
    [True, True, False, False]
    """
    return _ANY_LAYERS.fullmatch(name) is not None


def larf_dtypes(layers: Sequence[int]) -> dict[str, str]:
    """Name and dtype, as `datasets` and Arrow both call it, of every column that scoring at `layers` adds, in order."""
    of_layers = [layer_column(layer) for layer in layers] if len(layers) > 1 else []
    return {SCORE: "float32", **dict.fromkeys(of_layers, "float32"), TOKENS: "int32", ISSUE: "string"}


def larf_schema(layers: Sequence[int]) -> dict[str, pa.DataType]:
    """The same with Arrow's types."""
    import pyarrow as pa

    return {name: pa.type_for_alias(dtype) for name, dtype in larf_dtypes(layers).items()}


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
