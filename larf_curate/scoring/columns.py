"""The columns that scoring adds to a dataset: their names, types, and the way into `Dataset.map` and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import Issue, ThresholdError

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from ..rows.formats import RowFormat

SCORE, TOKENS, ISSUE = "larf_score", "larf_tokens", "larf_issue"


def layer_column(layer: int) -> str:
    return f"{SCORE}_l{layer}"


def larf_dtypes(layers: Sequence[int]) -> dict[str, str]:
    """Name and dtype, as `datasets` and Arrow both call it, of every column that scoring at `layers` adds, in order."""
    beside = [layer_column(layer) for layer in layers] if len(layers) > 1 else []
    return {SCORE: "float32", **dict.fromkeys(beside, "float32"), TOKENS: "int32", ISSUE: "string"}


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

    from ..sources.json_values import is_json, rows_of

    try:
        scores = table[column]
        if is_json(scores.type):  # JSON lines with 0 beside 0.5
            scores = pa.array([row[column] for row in rows_of(table, [column])])
        scores = scores.cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        raise ThresholdError(f"the column {column!r} holds {table[column].type}, not numbers") from None
    values: NDArray[np.float64] = scores.to_numpy()
    return values


class Scores:
    """What scoring gives for some rows, in their order.

    Attributes:
        layers: the blocks that were read.
        score: float32 [rows], NaN where a row is unscorable.
        by_layer: float32 [rows, layers], NaN likewise.
        tokens: of each rendered conversation before truncation; None where it could not be rendered.
        issues: why a row is unscorable, or that it was truncated; None where there is nothing to say.
        execution: how the states were computed, in words: precision, device, batch size, shortcuts.
    """

    def __init__(self, layers: Sequence[int], count: int) -> None:
        self.layers = tuple(layers)
        self.score: NDArray[np.float32] = np.full(count, np.nan, np.float32)
        self.by_layer: NDArray[np.float32] = np.full((count, len(self.layers)), np.nan, np.float32)
        self.tokens: list[int | None] = [None] * count
        self.issues: list[Issue | None] = [None] * count
        self.execution = ""

    def __repr__(self) -> str:
        scored = self.score[~np.isnan(self.score)]
        span = f", from {scored.min():.4g} to {scored.max():.4g}" if len(scored) else ""
        issues = Counter(issue.value for issue in self.issues if issue is not None)
        counted = "".join(f"; {count} {issue}" for issue, count in sorted(issues.items()))
        return f"<Scores of {len(self.score)} rows: {len(scored)} scored{span}{counted}>"

    def columns(self) -> dict[str, list[Any]]:
        """Plain lists by column name, with null for NaN, in the order of `larf_schema`."""
        issues = [issue.value if issue else None for issue in self.issues]
        values: dict[str, list[Any]] = {SCORE: _nullable(self.score), TOKENS: list(self.tokens), ISSUE: issues}
        for place, layer in enumerate(self.layers):
            values[layer_column(layer)] = _nullable(self.by_layer[:, place])
        return {name: values[name] for name in larf_schema(self.layers)}

    def arrow(self) -> dict[str, pa.Array]:
        import pyarrow as pa

        schema = larf_schema(self.layers)
        return {name: pa.array(values, schema[name]) for name, values in self.columns().items()}


def _nullable(values: NDArray[np.float32]) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


class TypedColumn(list[Any]):
    """A list that tells Arrow its type.

    `Dataset.map` fixes a column's type from the first batch it writes; where that batch is all null (as `larf_issue` is
    on clean data), the first value in a later one would raise.
    """

    def __init__(self, values: Iterable[Any], arrow_type: pa.DataType) -> None:
        super().__init__(values)
        self.arrow_type = arrow_type

    def __arrow_array__(self, type: pa.DataType | None = None) -> pa.Array:  # noqa: A002 - pyarrow's protocol
        import pyarrow as pa

        return pa.array(list(self), type or self.arrow_type)


# What Dataset.map hands over -----------------------------------------------------------------------------------------


def is_lazy(batch: Any) -> bool:
    """Whether this is `Dataset.map`'s own view of a row or batch (`datasets.formatting.LazyRow`, `LazyBatch`)."""
    return hasattr(batch, "keys_to_format") and hasattr(batch, "format")


def read_column(batch: Any, name: str) -> Any:
    """One column as plain lists. Leaves no trace: `LazyBatch[name]` would make `map` re-encode the user's data."""
    return _plain(batch.format(name) if is_lazy(batch) and name in batch.keys_to_format else batch[name])


def _plain(value: Any) -> Any:
    """Without the arrays that `set_format("numpy")` makes of lists."""
    if isinstance(value, str | bytes) or value is None:
        return value
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def text_names(batch: Any) -> list[str]:
    """The columns of a row or batch that hold text, as far as its types or its first values show."""
    if is_lazy(batch) and hasattr(batch, "pa_table"):
        from ..sources.json_values import text_columns

        return text_columns(batch.pa_table.schema)
    return [name for name in batch if _is_text(batch[name])]


def _is_text(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_is_text(item) for item in value.values())
    if isinstance(value, list | tuple):
        return any(_is_text(item) for item in value[:1])
    return isinstance(value, str)


def is_batch(batch: Mapping[str, Any], form: RowFormat) -> bool:
    """Whether `map` handed over many rows or one.

    It says so by class, but for streaming datasets only by shape: a batch is lists of one length, and so is, at times,
    a row (of turns, and of whatever else lies beside them). Then the format's own columns decide: in a row none of
    them holds lists, and the answer is a list of turns. A user's own function knows no such column, so for it any
    lists of one length are a batch, unless one of them is turns. One case stays open: a streaming batch of a single row
    whose prompt and completion are one turn each, not in a list, is taken for that row's turns.
    """
    if is_lazy(batch):
        return "Batch" in type(batch).__name__
    columns = list(batch.values())
    if not columns or not all(isinstance(column, list | tuple | np.ndarray) for column in columns):
        return False
    if len({len(column) for column in columns}) > 1 or not len(columns[0]):
        return False
    if not form.required:
        return not any(all(_role(item) for item in column) for column in columns)
    if any(isinstance(item, list) for name in form.columns(batch) for item in _plain(batch[name])):
        return True
    answers = _plain(batch[form.required[-1]])
    if not all(isinstance(item, Mapping) for item in answers):
        return True
    # Mappings alone: the turns of one row, or answers of one turn each; no row answers with two of these on end.
    single = form.required[-1] in ("completion", "rejected")
    return single and len(answers) > 1 and {_role(item) for item in answers} <= {"assistant", "gpt"}


def _role(item: Any) -> str | None:
    if not isinstance(item, Mapping):
        return None
    role = item.get("role") if item.get("role") is not None else item.get("from")
    return role if isinstance(role, str) else None
