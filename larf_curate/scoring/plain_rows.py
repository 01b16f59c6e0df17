"""Rows as plain Python values, whatever holds them: a dataset in any format, or mappings with arrays in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import RowFormatError
from ..json_fields import Undecoded, is_deep
from ..rows.formats import columns_of
from ..sources.json_values import rows_of

if TYPE_CHECKING:
    from datasets import Dataset

    from ..rows.conversions import Row

_WINDOW = 4096
"""Rows of a `Dataset` in memory at a time. Other iterables are listed whole: their columns decide the row format."""


def in_windows(rows: Iterable[Row] | Dataset) -> tuple[int, list[str], Iterator[Sequence[Row]]]:
    """How many rows there are, their columns, and the rows themselves in windows that fit in memory.

    Raises:
        RowFormatError: these are no rows; the message says what they are, and what to pass instead.
    """
    require_rows(rows)
    if hasattr(rows, "with_format") and hasattr(rows, "__len__"):  # a Dataset; a streaming one has no length
        plain: Any = unformatted(rows)
        windows = _windows_of(plain)
        first = next(windows, [])
        # A transform may give other columns than the dataset has.
        columns = list(first[0]) if first else list(plain.column_names)
        return len(plain), columns, chain([first], windows)
    listed = list(unformatted(rows))
    columns = columns_of(map(require_row, listed))
    return len(listed), columns, (listed[i : i + _WINDOW] for i in range(0, len(listed), _WINDOW))


def _windows_of(dataset: Any) -> Iterator[Sequence[Row]]:
    for start in range(0, len(dataset), _WINDOW):
        try:
            window = dataset[start : start + _WINDOW]
        except ValueError:  # JSON that `datasets` cannot decode, in one row
            if dataset.format["type"] == "custom":
                raise
            table = dataset.with_format("arrow")[start : start + _WINDOW]
            yield rows_of(table, table.column_names)
        else:
            yield [dict(zip(window, values, strict=True)) for values in zip(*window.values(), strict=True)]


def unformatted(dataset: Any) -> Any:
    """A dataset that gives plain values, without the format of arrays or tables that it has; anything else as it is.

    A transform of the user's stays, since it decides what the rows are.
    """
    if not hasattr(dataset, "with_format"):
        return dataset
    in_format = getattr(dataset, "format", None)
    if isinstance(in_format, Mapping) and in_format.get("type") == "custom":
        return dataset
    return dataset.with_format(None)


def require_rows(rows: object) -> None:
    """Refuse what holds rows but is no iterable of them.

    Raises:
        RowFormatError: it is such a thing.
    """
    if isinstance(rows, Mapping):
        if any(hasattr(part, "column_names") for part in rows.values()):
            raise RowFormatError(
                "this is a dictionary of splits: score one of them, scorer.score(dataset['train']), or all, "
                "score_dataset(dataset, scorer)"
            )
        raise RowFormatError("this is one row: rows are a list of them, [row], or a Dataset")
    if not isinstance(rows, Iterable) or isinstance(rows, str | bytes):
        _refuse(rows)
    if hasattr(rows, "to_pandas") and not hasattr(rows, "with_format"):
        _refuse(rows)
    if type(rows).__name__ == "DataFrame":  # pandas'; polars' has `to_pandas`
        _refuse(rows)


def require_row(row: Any) -> Row:
    """The row as it is.

    Raises:
        RowFormatError: it is no mapping of column to value.
    """
    if not isinstance(row, Mapping):
        _refuse(row)
    return row


def _refuse(rows: object) -> NoReturn:
    raise RowFormatError(
        f"rows are mappings of column to value, and this is {type(rows).__name__}: pass a Dataset (of a table, "
        "Dataset(table); of a data frame, Dataset.from_pandas or from_polars; one in another format, "
        ".with_format(None)) or a list of dictionaries"
    )


def plain_row(row: Row, columns: Iterable[str]) -> dict[str, Any]:
    """Some columns of a row, without arrays; what is nested too deep to be read is marked so.

    >>> import numpy as np
    >>> plain_row({"prompt": "Add.", "answer": np.int64(3), "id": 7}, ["prompt", "answer"])
    {'prompt': 'Add.', 'answer': 3}
    """
    return {name: plain_value(row[name]) for name in columns if name in row}


def plain_value(value: Any) -> Any:
    """A value without the arrays and scalars of numpy, torch or jax in it, at any depth.

    >>> import numpy as np
    >>> plain_value({"turns": np.array([{"weight": np.float32(1)}], dtype=object)})
    {'turns': [{'weight': 1.0}]}
    """
    if isinstance(value, str):
        return value
    if is_deep(value):
        return Undecoded()
    try:
        return _plain(value)
    except RecursionError:  # by tuples or arrays, which are not counted
        return Undecoded()


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | bytes):
        return value
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def is_list(value: Any) -> bool:
    """Whether this is a list, a tuple or an array of one dimension or more.

    >>> import numpy as np
    >>> is_list([]), is_list(np.zeros(2)), is_list(np.float32(0)), is_list("a")
    (True, True, False, False)
    """
    return isinstance(value, list | tuple) or getattr(value, "ndim", 0) > 0
