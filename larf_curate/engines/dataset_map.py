"""Score a whole dataset of the `datasets` library with `Dataset.map`: in memory, on disk or streaming."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from ..deciding.datasets import AnyDataset
from ..scoring.plain_rows import unformatted
from ..scoring.scorer import LARFScorer

if TYPE_CHECKING:
    from datasets import Features


def larf_features(features: Features, scorer: LARFScorer) -> Features:
    """`features` with the columns of `scorer` in place of those of an earlier scorer of its prefix.

    Raises:
        RowFormatError: one of these is the user's own; see `ColumnNames.require_free`.
    """
    from datasets import Features

    kinds = scorer.kinds
    kinds.names.require_free(features)
    added = Features.from_dict(kinds.features())
    return Features({**{name: feature for name, feature in features.items() if name not in kinds.names}, **added})


def score_dataset(
    dataset: AnyDataset, scorer: LARFScorer, *, batch_size: int = 1024, num_proc: int | None = None
) -> AnyDataset:
    """Score every row of a dataset: `dataset.map(scorer, batched=True)`, and four things that `map` alone does not do.

    An empty dataset gets the scorer's columns too, with their types. A streaming dataset keeps its features. Columns of
    an earlier scorer of the same prefix are removed first. A dataset may be in any format (`with_format`), tables too,
    and keeps it.

    >>> # Not run by doctest: scoring needs a model in memory.
    >>> splits = score_dataset(load_dataset("yahma/alpaca-cleaned"), scorer)  # doctest: +SKIP
    >>> splits["train"].features["larf_score"]  # doctest: +SKIP
    Value('float32')

    Args:
        dataset: a `Dataset`, an `IterableDataset`, or a dictionary of splits of either.
        scorer: a fitted scorer.
        batch_size: rows that are sorted by length and scored together.
        num_proc: worker processes; each loads the model, on the CUDA device of its rank. CUDA needs
            `multiprocess.set_start_method("spawn")` first. Not for streaming datasets.

    Raises:
        RowFormatError: the columns fit no format, or one that would be replaced is the user's own.
    """
    if isinstance(dataset, dict):
        splits = {
            name: score_dataset(split, scorer, batch_size=batch_size, num_proc=num_proc)
            for name, split in dataset.items()
        }
        return cast("AnyDataset", type(dataset)(splits))
    from datasets import IterableDataset

    options: dict[str, Any] = {"batched": True, "batch_size": batch_size}
    if dataset.column_names is not None:
        names = scorer.kinds.names
        names.require_free(dataset.column_names)
        dataset = dataset.remove_columns([name for name in dataset.column_names if name in names])
    if dataset.features is not None:
        options["features"] = larf_features(dataset.features, scorer)
    plain = unformatted(dataset)
    if isinstance(dataset, IterableDataset):
        scored = plain.map(scorer, **options)
        formatting = dataset._formatting  # no public name says in which format a stream is
        return cast("AnyDataset", scored if formatting is None else scored.with_format(formatting.format_type))
    if not len(dataset):
        from datasets import Dataset

        features = options["features"]
        scored = Dataset.from_dict({name: [] for name in features}, features=features)
    else:
        scored = plain.map(scorer, desc="scoring", num_proc=num_proc, with_rank=True, **options)
    shown, before = dataset.format, dataset.column_names  # the added columns are shown beside those that were shown
    hidden = set(before) - set(shown["columns"] or before)
    columns = [name for name in scored.column_names if name not in hidden]
    return cast("AnyDataset", scored.with_format(**{**shown, "columns": columns}))
