"""Score a whole dataset of the `datasets` library with `Dataset.map`: in memory, on disk or streaming."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from ..deciding.datasets import AnyDataset
from ..scoring.columns import is_larf_column
from ..scoring.plain_rows import unformatted
from ..scoring.scorer import LARFScorer

if TYPE_CHECKING:
    from datasets import Features


def larf_features(features: Features, scorer: LARFScorer) -> Features:
    """`features` with the larf columns of `scorer` in place of those of an earlier scorer."""
    from datasets import Features

    added = Features.from_dict(scorer.spec.kinds.features())
    return Features({**{name: feature for name, feature in features.items() if not is_larf_column(name)}, **added})


def score_dataset(
    dataset: AnyDataset, scorer: LARFScorer, *, batch_size: int = 1024, num_proc: int | None = None
) -> AnyDataset:
    """Score every row of a dataset: `dataset.map(scorer, batched=True)`, and four things that `map` alone does not do.

    An empty dataset gets the larf columns too, with their types. A streaming dataset keeps its features. Larf columns
    of an earlier scorer are removed first. A dataset may be in any format (`with_format`), tables too, and keeps it.

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
        dataset = dataset.remove_columns([name for name in dataset.column_names if is_larf_column(name)])
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
    shown, names = dataset.format, dataset.column_names  # the larf columns are shown beside those that were shown
    hidden = set(names) - set(shown["columns"] or names)
    columns = [name for name in scored.column_names if name not in hidden]
    return cast("AnyDataset", scored.with_format(**{**shown, "columns": columns}))
