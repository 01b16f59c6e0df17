"""`Threshold.split` against a table by hand: every kind of dataset, ties, formats, rows without a score."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict, Value

from larf_curate import Threshold
from larf_curate.errors import DataError, ThresholdError

SCORES = [0.4, None, 0.9, 0.4, -0.2, 0.4, float("nan"), 0.1]
DROP_TWO = {"kept": [3, 4, 5, 7], "removed": [0, 2], "unscorable": [1, 6]}
"""Row numbers, by hand: 0.9 goes, and of the three rows that tie at 0.4 the first."""
FEATURES = Features({"row": Value("int64"), "text": Value("string"), "larf_score": Value("float32")})


def make_dataset(scores: list[float | None] = SCORES, first: int = 0, column: str = "larf_score") -> Dataset:
    rows = list(range(first, first + len(scores)))
    features = Features({column if name == "larf_score" else name: kind for name, kind in FEATURES.items()})
    return Dataset.from_dict({"row": rows, "text": [f"t{row}" for row in rows], column: scores}, features=features)


def stream_of(dataset: Dataset, kind: str) -> IterableDataset:
    if kind == "shards":
        return dataset.to_iterable_dataset(num_shards=3)
    if kind == "mapped":  # knows neither its features nor its columns, as after `stream.map(scorer)`
        without = dataset.remove_columns("larf_score").to_iterable_dataset()
        scores = dataset["larf_score"][:]
        return without.map(lambda row: {"larf_score": scores[row["row"]]})
    return IterableDataset.from_generator(lambda: iter(dataset.to_list()))


def rows_of(part: Any) -> list[int]:
    return [int(row["row"]) for row in part.with_format(None)]


def parts_of(parts: Any) -> dict[str, list[int]]:
    return {name: rows_of(getattr(parts, name)) for name in ("kept", "removed", "unscorable")}


def test_every_row_is_in_one_part_with_all_it_has() -> None:
    dataset = make_dataset()
    parts = Threshold.drop_top(2).split(dataset)
    assert parts_of(parts) == DROP_TWO
    assert parts.counts == {name: len(rows) for name, rows in DROP_TWO.items()}
    assert parts.threshold == Threshold.drop_top(2).fit(dataset["larf_score"])
    assert parts.removed.to_list() == [dataset[0], dataset[2]]
    for part in (parts.kept, parts.removed, parts.unscorable):
        assert isinstance(part, Dataset)
        assert part.features == FEATURES


@pytest.mark.parametrize("other", [[{"larf_score": 0.5}], "scored.parquet", {"train": [0.5]}, None])
def test_what_is_no_dataset_is_refused(other: Any) -> None:
    with pytest.raises(DataError, match=r"splits a scored Dataset.*Dataset\.from_list"):
        Threshold.drop_top(2).split(other)


@pytest.mark.parametrize("rule", ["max_score", "drop_top", "drop_fraction"])
@pytest.mark.parametrize("amount", ["3", None, True])
def test_an_amount_that_is_no_number_is_refused(rule: str, amount: Any) -> None:
    with pytest.raises(ThresholdError, match=f"{rule} needs a number, not {amount!r}"):
        getattr(Threshold, rule)(amount)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("separate", DROP_TWO),
        ("keep", {"kept": [1, 3, 4, 5, 6, 7], "removed": [0, 2], "unscorable": []}),
        ("remove", {"kept": [3, 4, 5, 7], "removed": [0, 1, 2, 6], "unscorable": []}),
    ],
)
@pytest.mark.parametrize("kind", ["dataset", "shards", "mapped", "generator"])
def test_rows_without_a_score_go_where_the_threshold_says(policy: Any, expected: Any, kind: str) -> None:
    dataset: Any = make_dataset() if kind == "dataset" else stream_of(make_dataset(), kind)
    parts = Threshold.drop_top(2, unscorable=policy).split(dataset)
    assert parts_of(parts) == expected
    assert parts.counts == {name: len(rows) for name, rows in expected.items()}
    assert type(parts.kept) is type(dataset)


@pytest.mark.parametrize(
    ("threshold", "removed"),
    [
        (Threshold.drop_top(0), []),
        (Threshold.drop_top(3), [0, 2, 3]),
        (Threshold.drop_top(99), [0, 2, 3, 4, 5, 7]),
        (Threshold.drop_fraction(0.5), [0, 2, 3]),
        (Threshold.max_score(0.3), [0, 2, 3, 5]),
        (Threshold.calibrated(0.25, [0.1, 0.2, 0.5]), [2]),
    ],
    ids=repr,
)
@pytest.mark.parametrize("streaming", [False, True])
def test_each_rule_splits_as_it_fits(threshold: Threshold, removed: list[int], streaming: bool) -> None:
    dataset: Any = stream_of(make_dataset(), "shards") if streaming else make_dataset()
    parts = threshold.split(dataset)
    assert parts_of(parts)["removed"] == removed
    assert parts_of(parts)["unscorable"] == [1, 6]
    assert parts.threshold.removed == len(removed)


@pytest.mark.parametrize("streaming", [False, True])
def test_splits_share_one_threshold(streaming: bool) -> None:
    first, second = make_dataset([0.4, None, 0.1]), make_dataset([0.4, 0.9, 0.4, -0.2], first=3)
    splits: Any = DatasetDict({"train": first, "test": second})
    if streaming:
        splits = IterableDatasetDict({name: split.to_iterable_dataset() for name, split in splits.items()})
    parts = Threshold.drop_top(3).split(splits)
    expected = {
        "kept": {"train": [2], "test": [5, 6]},
        "removed": {"train": [0], "test": [3, 4]},
        "unscorable": {"train": [1], "test": []},
    }
    for outcome, rows in expected.items():
        part = getattr(parts, outcome)
        assert type(part) is type(splits)
        assert {name: rows_of(split) for name, split in part.items()} == rows
    assert parts.threshold.rows == 7
    assert parts.counts == {"kept": 3, "removed": 3, "unscorable": 1}


@pytest.mark.parametrize("row_format", [None, "numpy", "torch", "arrow", "pandas"])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_format_changes_no_decision_and_stays(row_format: str | None, streaming: bool) -> None:
    # 0.1 as float64 is less than as float32, in which numpy's and torch's formats would read it.
    features = Features({"row": Value("int64"), "larf_score": Value("float64")})
    dataset: Any = Dataset.from_dict(
        {"row": [0, 1, 2], "larf_score": [0.1, 0.10000000000000001, 0.2]}, features=features
    )
    dataset = dataset.to_iterable_dataset().with_format(row_format) if streaming else dataset.with_format(row_format)
    parts = Threshold.max_score(0.1).split(dataset)
    assert parts_of(parts) == {"kept": [0, 1], "removed": [2], "unscorable": []}
    one, other = next(iter(parts.kept)), next(iter(dataset))
    assert type(one) is type(other)
    if isinstance(other, dict):
        assert hasattr(one["row"], "dtype") == hasattr(other["row"], "dtype")


def test_a_selection_is_split_in_its_own_order() -> None:
    dataset = make_dataset().select([5, 3, 2, 1, 0])
    assert parts_of(Threshold.drop_top(2).split(dataset)) == {
        "kept": [3, 0],
        "removed": [5, 2],
        "unscorable": [1],
    }


def test_many_ties_across_batches_and_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("larf_curate.deciding.datasets._ROWS_AT_ONCE", 1_000)
    scores = (np.random.default_rng(0).integers(0, 9, 7_000) / 7).astype(np.float32)
    dataset = make_dataset([float(score) for score in scores])
    expected = np.sort(np.lexsort((np.arange(7_000), -scores))[:3_456]).tolist()
    threshold = Threshold.drop_top(3_456)
    assert threshold.fit(scores).tied > 0
    assert threshold.split(dataset).removed["row"][:] == expected
    assert rows_of(threshold.split(dataset.to_iterable_dataset(num_shards=7)).removed) == expected


def test_a_stream_is_read_once_to_fit_and_lazily_after() -> None:
    passes: list[int] = []

    def rows() -> Iterator[dict[str, Any]]:
        passes.append(1)
        yield from make_dataset().to_list()

    stream = IterableDataset.from_generator(rows)
    parts = Threshold.drop_top(2).split(stream)
    assert len(passes) == 1
    assert rows_of(parts.removed) == [0, 2]
    assert len(passes) == 2


def test_parts_of_a_stream_go_to_other_processes() -> None:
    parts = Threshold.drop_top(2).split(stream_of(make_dataset(), "shards"))
    assert rows_of(pickle.loads(pickle.dumps(parts.kept))) == DROP_TWO["kept"]


def test_the_column_may_have_another_name() -> None:
    dataset = make_dataset(column="safety")
    assert parts_of(Threshold.drop_top(2).split(dataset, column="safety")) == DROP_TWO
    assert parts_of(Threshold.drop_top(2).split(dataset.to_iterable_dataset(), "safety")) == DROP_TWO


@pytest.mark.parametrize("kind", ["dataset", "dictionary", "shards", "generator", "mapped"])
def test_data_without_scores_is_refused(kind: str) -> None:
    dataset: Any = make_dataset()
    if kind == "dictionary":
        dataset = DatasetDict({"train": dataset})
    elif kind != "dataset":
        dataset = stream_of(dataset, kind)
    with pytest.raises(DataError, match=r"no column 'other'.*dataset.map\(scorer"):
        Threshold.drop_top(1).split(dataset, "other")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_column_without_numbers_is_refused(streaming: bool) -> None:
    dataset: Any = stream_of(make_dataset(), "shards") if streaming else make_dataset()
    with pytest.raises(ThresholdError, match="numbers"):
        Threshold.drop_top(1).split(dataset, "text")


def test_an_empty_dataset_has_empty_parts() -> None:
    parts = Threshold.drop_top(2).split(make_dataset([]))
    assert parts_of(parts) == {"kept": [], "removed": [], "unscorable": []}
    assert parts.kept.features == FEATURES


def test_a_fitted_threshold_is_fitted_to_the_dataset_at_hand() -> None:
    elsewhere = Threshold.drop_top(2).fit([7.0, 8.0, 9.0])
    assert parts_of(elsewhere.split(make_dataset())) == DROP_TWO


def test_parts_are_shown_in_one_line() -> None:
    assert repr(Threshold.drop_top(2).split(stream_of(make_dataset(), "shards"))) == (
        "<4 kept, 2 removed, 2 unscorable; Threshold.drop_top(2): 2 of 8 rows, above 0.1>"
    )


# What people pass by mistake -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"with_indices": True}, {"batched": True}], ids=str)
@pytest.mark.parametrize("columns", [None, "larf_score"])
def test_a_filter_by_keep_works_or_says_how(options: dict[str, bool], columns: str | None) -> None:
    dataset = Dataset.from_dict({"larf_score": [0.1, 0.3, 0.2]})
    threshold = Threshold.drop_top(1).fit(dataset["larf_score"][:])
    if columns and not options.get("batched"):
        assert dataset.filter(threshold.keep, input_columns=columns, **options)["larf_score"][:] == [0.1, 0.2]
        return
    with pytest.raises(ThresholdError, match=r'input_columns="larf_score".*threshold\.split\(dataset\)'):
        dataset.filter(threshold.keep, input_columns=columns, **options)


def test_fit_takes_scores_and_says_so() -> None:
    dataset = Dataset.from_dict({"larf_score": [0.1, 0.3, 0.2]})
    for given in (dataset, DatasetDict({"train": dataset})):
        with pytest.raises(ThresholdError, match=r"threshold\.split\(dataset\)"):
            Threshold.drop_top(1).fit(given)  # type: ignore[arg-type]
