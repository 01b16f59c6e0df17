"""Rows that were scored and split, as a run, `larf-curate filter` or `Threshold.split` leaves them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..deciding.datasets import Parts
from ..deciding.results import Results
from ..errors import DataError, Unscorable
from ..rows.formats import RowFormat, resolve_format
from ..rows.wording import holds_list
from ..scoring.columns import SCORE, scores_of
from ..sources.json_values import rows_of

Ints = NDArray[np.int64]
_SCORE, _TRAINED_WITH = "_score", ("_weight", "_spans")  # ends of names of columns
_TOKENS_A_CHARACTER = 0.25  # of English; lengths are compared with one another only


@dataclass(frozen=True, eq=False)
class ScoredRows:
    """Kept and removed rows, in memory as Arrow tables; those without a score are left out.

    Attributes:
        table: all of them, the kept ones first.
        scores: float64 [rows].
        kept, removed: numbers of rows.
        name: where they come from.
        format: how they are read; see `Reading`.
        digest: the digest of the run's summary, by which a validation is known to belong to these results; empty for a
            dataset.
    """

    table: pa.Table
    scores: NDArray[np.float64]
    kept: Ints
    removed: Ints
    name: str
    format: str = "auto"
    digest: str = ""

    @classmethod
    def open(cls, run: str | Path) -> ScoredRows:
        """Read the directory that `larf-curate run` or `larf-curate filter` has written.

        Raises:
            DataError: it holds no finished run, or its rows cannot be read.
        """
        results = Results.open(run)
        tables = [_whole(results, outcome) for outcome in ("kept", "removed")]
        rows = _of_tables(*tables, name=str(results.home), row_format=results.format)
        return replace(rows, digest=results.digest)

    @classmethod
    def of_parts(cls, parts: Parts[Any, Any], row_format: str = "auto") -> ScoredRows:
        """The same of what `Threshold.split` gives for a dataset; of one with several splits it takes them all.

        Raises:
            DataError: it is something else, or the parts are streams.
        """
        from datasets import Dataset

        if not isinstance(parts, Parts):
            raise DataError(
                "validate takes what Threshold.split gives for a dataset, or the directory of a run, not "
                f"{type(parts).__name__}"
            )

        def whole(part: Any) -> pa.Table:
            splits = list(part.values()) if isinstance(part, dict) else [part]
            for split in splits:
                if not isinstance(split, Dataset):
                    raise DataError(f"validate takes no {type(split).__name__}: load the dataset without streaming")
            tables = [_usual_names(split.with_format("arrow")[:], parts.column) for split in splits]
            return pa.concat_tables(tables, promote_options="permissive")

        kept, removed = whole(parts.kept), whole(parts.removed)
        return _of_tables(kept, removed, name="a dataset", row_format=row_format)

    @cached_property
    def row_format(self) -> RowFormat:
        """How a row becomes a conversation."""
        return resolve_format(self.format, self.table.column_names)

    def take(self, numbers: Sequence[int] | Ints) -> Sequence[dict[str, Any]]:
        """Some rows, in the order asked for."""
        return list(rows_of(self.table.take(pa.array(np.asarray(numbers, np.int64))), self.table.column_names))

    def shapes(self, numbers: Ints) -> NDArray[np.float64]:
        """Length in tokens, about, and whether it is a list, of the answers of some rows: [rows, 2]."""
        shapes = np.zeros((len(numbers), 2))
        for place, row in enumerate(self.take(numbers)):
            try:
                answer = self.row_format.convert(row).answer
            except Unscorable as error:
                raise DataError(f"{self.name}: a scored row cannot be read: {error}") from None
            shapes[place] = max(1, len(answer) * _TOKENS_A_CHARACTER), holds_list(answer)
        return shapes


def _whole(results: Results, outcome: str) -> pa.Table | None:
    tables = list(results.tables(outcome))
    return _usual_names(pa.concat_tables(tables), results.names.score) if tables else None


def _usual_names(table: pa.Table, column: str) -> pa.Table:
    """The columns of the score that rows were split by, under the names that they have without a prefix of the user's.

    What another score has left under these names does not count for this one.
    """
    if column == SCORE:
        return table
    prefix, usual = column.removesuffix(_SCORE), SCORE.removesuffix(_SCORE)
    own = {column: SCORE, **{prefix + end: usual + end for end in _TRAINED_WITH}}
    kept = [name for name in table.column_names if name not in own.values() or name in own]
    return table.select(kept).rename_columns([own.get(name, name) for name in kept])


def _of_tables(kept: pa.Table | None, removed: pa.Table | None, *, name: str, row_format: str) -> ScoredRows:
    tables = [table for table in (kept, removed) if table is not None and len(table)]
    if not tables or SCORE not in tables[0].column_names:
        raise DataError(f"{name} holds no scored rows")
    table = pa.concat_tables(tables, promote_options="permissive")
    scores = scores_of(table)
    rows = np.arange(len(table))
    was_kept = rows < (0 if kept is None else len(kept))
    scored = ~np.isnan(scores)
    return ScoredRows(table, scores, rows[was_kept & scored], rows[~was_kept & scored], name, row_format)
