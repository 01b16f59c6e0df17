"""Rows out of what `Dataset.map` hands to a function, and scores as what such a function may return."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, ValuesView
from typing import TYPE_CHECKING, Any

from ..errors import RowFormatError
from ..sources.json_values import rows_of, text_columns
from .plain_rows import is_list
from .scores import Scores

if TYPE_CHECKING:
    import pyarrow as pa

    from ..rows.conversions import Row
    from ..rows.formats import RowFormat


def rows_of_batch(batch: Mapping[str, Any], row_format: RowFormat) -> tuple[list[Row], bool]:
    """The rows, in the columns that the format reads; and whether it is a batch of rows, or one row."""
    names = row_format.columns(batch)
    columns = {name: _read_column(batch, name) for name in names}
    if not _is_batch(batch, row_format):
        return [columns], False
    return [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)], True


def require_mapping(batch: object, numbers: tuple[object, ...]) -> None:
    """Refuse what a dataset in the format of Arrow, pandas or polars hands over, and single columns.

    Args:
        batch: what `map` passes as the first argument.
        numbers: what it passes beside: with `input_columns=` the other columns too.

    Raises:
        RowFormatError: it is no mapping, or more than the indices and the rank stand beside it.
    """
    table = hasattr(batch, "column_names") or type(batch).__name__ == "DataFrame"
    if table and not isinstance(batch, Mapping):
        raise RowFormatError(f"rows come as {type(batch).__name__}, not as mappings: call .with_format(None) first")
    if not isinstance(batch, Mapping) or not all(map(_is_number, numbers)):
        raise RowFormatError("a scorer chooses the columns that it reads by itself: leave input_columns= out of map")


def _is_number(value: object) -> bool:
    """Whether `map` may pass this as an index, a list of indices, or a rank; without workers a rank is None."""
    return value is None or isinstance(value, int) or (isinstance(value, list) and all(type(i) is int for i in value))


def rank_of(numbers: tuple[object, ...], *, batched: bool) -> int | None:
    """The number of the worker process, among what `map` passes beside the rows; an index of a row is none.

    With `with_indices` and `with_rank` the rank comes last. One number alone beside a single row may be either; it is
    taken for an index, since an index must never choose a device.

    >>> rank_of(([5, 6], 1), batched=True), rank_of((1,), batched=True), rank_of(([5, 6],), batched=True)
    (1, 1, None)
    >>> rank_of((7, 1), batched=False), rank_of((7,), batched=False)
    (1, None)
    """
    if len(numbers) < 2 and not batched:
        return None
    last = numbers[-1] if numbers else None
    return last if isinstance(last, int) else None


def is_first(numbers: tuple[object, ...]) -> bool:
    """Whether these rows may be the first ones of the first process, by what `map` passes beside them."""
    return not numbers or not isinstance(numbers[-1], int) or numbers[-1] == 0


def text_names(batch: Any) -> list[str]:
    """The columns of a row or batch that hold text, as far as its types or its first values show."""
    if _is_lazy(batch) and hasattr(batch, "pa_table"):
        return text_columns(batch.pa_table.schema)
    return [name for name in batch if _is_text(batch[name])]


def _is_text(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_is_text(item) for item in value.values())
    return isinstance(value, str) or (is_list(value) and any(_is_text(item) for item in value[:1]))


def map_result(scores: Scores, batch: Mapping[str, Any], *, batched: bool) -> Mapping[str, Any]:
    """What to return to `map`, so that the rows have the columns of `scores` with their types, and no stale ones.

    Columns of an earlier scorer's layers are taken out. From streams, and from datasets in a format like numpy's, a
    function cannot take columns out: there they become null.
    """
    schema, names = scores.kinds.arrow(), scores.kinds.names
    stale = [name for name in batch if name in names and name not in schema]
    if not _is_lazy(batch):
        columns = scores.columns() | {name: [None] * len(scores.score) for name in stale}
        if not batched:
            return {name: values[0] for name, values in columns.items()}
        return {
            name: _TypedColumn(values, schema[name]) if name in schema else values for name, values in columns.items()
        }
    types = dict(zip(batch.pa_table.schema.names, batch.pa_table.schema.types, strict=True))  # type: ignore[attr-defined]
    for name in stale:
        del batch[name]  # type: ignore[attr-defined] # `map` keeps the columns that it finds in the batch afterwards
    arrays = scores.arrow()
    if not batched:
        return arrays  # of one element each: `map` joins them, with their types
    if any(name in types and types[name] != array.type for name, array in arrays.items()):
        return _ArrowColumns(arrays)
    return {name: _TypedColumn(values, schema[name]) for name, values in scores.columns().items()}


class _TypedColumn(list[Any]):
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


class _ArrowColumns(Mapping[str, Any]):
    """Columns for `Dataset.map` to write with their own types, in place of older ones of the same names.

    `map` converts a list to the older column's type where that is possible: float32 scores in place of float64 ones
    would become float64. It writes Arrow arrays as they are, but insists on lists when it checks what a function
    returns. It reads with `[]` and checks with `values()`, so `[]` gives arrays and `values()` lists.
    """

    def __init__(self, arrays: Mapping[str, pa.Array]) -> None:
        self._arrays = arrays

    def __getitem__(self, name: str) -> pa.Array:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def values(self) -> ValuesView[Any]:
        return {name: array.to_pylist() for name, array in self._arrays.items()}.values()


def _is_lazy(batch: Any) -> bool:
    """Whether this is `Dataset.map`'s own view of a row or batch (`datasets.formatting.LazyRow`, `LazyBatch`)."""
    return hasattr(batch, "keys_to_format") and hasattr(batch, "format")


def _read_column(batch: Any, name: str) -> Any:
    """One column. Leaves no trace: `LazyBatch[name]` would make `map` encode the user's data anew."""
    if not _is_lazy(batch) or name not in batch.keys_to_format:
        return batch[name]
    try:
        return batch.format(name)
    except ValueError:  # JSON that `datasets` cannot decode, in one row
        values = [row[name] for row in rows_of(batch.pa_table.select([name]), [name])]
        return values if "Batch" in type(batch).__name__ else values[0]


def _is_batch(batch: Mapping[str, Any], row_format: RowFormat) -> bool:
    """Whether `map` handed over many rows or one.

    It says so by class, but for streaming datasets only by shape: a batch is lists of one length, and so is, at times,
    a row (of turns, and of whatever else lies beside them). Then the format's own columns decide: in a row none of
    them holds lists, and the answer is a list of turns. A user's own function knows no such column, so for it any
    lists of one length are a batch, unless one of them is turns. One case stays open: a streaming batch of a single row
    whose prompt and completion are one turn each, not in a list, is taken for that row's turns.
    """
    if _is_lazy(batch):
        return "Batch" in type(batch).__name__
    columns = list(batch.values())
    if not columns or not all(map(is_list, columns)):
        return False
    if len({len(column) for column in columns}) > 1 or not len(columns[0]):
        return False
    if not row_format.required:
        return not any(all(_role(item) for item in column) for column in columns)
    if any(is_list(item) for name in row_format.columns(batch) for item in batch[name]):
        return True
    answers = list(batch[row_format.required[-1]])
    if not all(isinstance(item, Mapping) for item in answers):
        return True
    # Mappings alone: the turns of one row, or answers of one turn each; no row answers with two of these on end.
    single = row_format.required[-1] in ("completion", "rejected")
    return single and len(answers) > 1 and {_role(item) for item in answers} <= {"assistant", "gpt"}


def _role(item: Any) -> str | None:
    if not isinstance(item, Mapping):
        return None
    role = item.get("role") if item.get("role") is not None else item.get("from")
    return role if isinstance(role, str) else None
