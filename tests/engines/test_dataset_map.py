"""`score_dataset`: any kind of dataset comes back with its rows and features, and the larf columns beside."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict, List, Value

import larf_curate
from larf_curate import score_dataset
from larf_curate.engines.dataset_map import larf_features
from larf_curate.errors import RowFormatError

pytestmark = pytest.mark.usefixtures("no_row_is_run")

FEATURES = Features(
    {
        "question": Value("large_string"),
        "answer": Value("string"),
        "kind": ClassLabel(names=["x", "y"]),
        "tags": List(Value("int8")),
    }
)
LARF = {
    "larf_score": Value("float32"),
    "larf_score_l1": Value("float32"),
    "larf_score_l3": Value("float32"),
    "larf_tokens": Value("int32"),
    "larf_issue": Value("string"),
}
ROWS = [
    {"question": f"What is {i}?", "answer": "It is " + "very " * (i % 5) + f"{i}.", "kind": i % 2, "tags": [i]}
    for i in range(11)
]
ROWS[4]["answer"] = None


@pytest.fixture
def dataset() -> Dataset:
    return Dataset.from_list(ROWS, features=FEATURES)


@pytest.fixture(scope="module")
def expected(tiny_scorer) -> np.ndarray:
    return tiny_scorer.score(ROWS, progress=False)


def check(found: list[dict], expected: np.ndarray) -> None:
    assert [{name: row[name] for name in FEATURES} for row in found] == ROWS
    np.testing.assert_allclose(np.array([row["larf_score"] for row in found], float), expected, atol=1e-5)
    assert [row["larf_issue"] for row in found] == [None] * 4 + ["empty_answer"] + [None] * 6
    assert [row["larf_tokens"] is None for row in found] == [row["answer"] is None for row in ROWS]


@pytest.mark.parametrize("options", [{}, {"batch_size": 3}, {"num_proc": 2}], ids=str)
def test_a_dataset(options, dataset, tiny_scorer, expected):
    found = score_dataset(dataset, tiny_scorer, **options)
    assert found.features == {**FEATURES, **LARF}
    check(found.to_list(), expected)
    assert dataset.column_names == list(FEATURES), "the one given stays as it was"


def test_a_streaming_dataset_keeps_its_features(dataset, tiny_scorer, expected):
    found = score_dataset(dataset.to_iterable_dataset(num_shards=2), tiny_scorer, batch_size=4)
    assert isinstance(found, IterableDataset)
    assert found.features == {**FEATURES, **LARF}
    check(list(found), expected)


def test_a_stream_of_unknown_features(tiny_scorer, expected):
    found = score_dataset(IterableDataset.from_generator(lambda: iter(ROWS)), tiny_scorer)
    check(list(found), expected)


@pytest.mark.parametrize("streaming", [False, True])
def test_every_split_of_a_dictionary(streaming, dataset, tiny_scorer, expected):
    splits = DatasetDict({"train": dataset, "test": dataset.select([4, 2])})
    if streaming:
        splits = IterableDatasetDict({name: part.to_iterable_dataset() for name, part in splits.items()})
    found = score_dataset(splits, tiny_scorer)
    assert type(found) is type(splits)
    assert list(found) == ["train", "test"]
    check(list(found["train"]), expected)
    assert [row["larf_issue"] for row in found["test"]] == ["empty_answer", None]


def test_an_empty_dataset_has_the_columns_with_their_types(dataset, tiny_scorer):
    found = score_dataset(dataset.select([]), tiny_scorer)
    assert len(found) == 0
    assert found.features == {**FEATURES, **LARF}


def test_scoring_again_replaces_what_was_there(dataset, tiny_scorer, expected):
    stale = dataset.add_column("larf_score", ["stale"] * len(ROWS)).add_column("larf_issue", [["stale"]] * len(ROWS))
    stale = stale.add_column("larf_score_l9", [0.5] * len(ROWS))  # of a scorer at other layers
    for kind in (stale, stale.with_format("numpy"), stale.to_iterable_dataset()):
        scored = score_dataset(kind, tiny_scorer)
        assert scored.features == {**FEATURES, **LARF}
        check(list(scored.with_format(None)), expected)
    assert score_dataset(stale.select([]), tiny_scorer).features == {**FEATURES, **LARF}


def test_a_column_that_is_null_at_first(tiny_scorer):
    """The first batch has no issue, the last one nothing else: the types are fixed before the first."""
    rows = [{"question": "q", "answer": answer} for answer in ("a", "b", None, " ")]
    found = score_dataset(Dataset.from_list(rows), tiny_scorer, batch_size=2)
    assert found["larf_issue"][:] == [None, None, "empty_answer", "empty_answer"]
    assert np.isnan(np.array(found["larf_score"][:], float)).tolist() == [False, False, True, True]


def test_features_for_a_plain_map(dataset, tiny_scorer, expected):
    features = larf_features(dataset.features, tiny_scorer)
    assert features == {**FEATURES, **LARF}
    check(dataset.map(tiny_scorer, batched=True, batch_size=5, features=features).to_list(), expected)


def test_the_example_of_the_package_runs_on_rows_without_a_score_too(tiny_scorer):
    lines = [line[4:] for line in larf_curate.__doc__.splitlines() if line.startswith("    ")]
    code = "\n".join(lines)
    assert 'LARFScorer.fit("demo", layer=14)' in code
    code = code.replace('LARFScorer.fit("demo", layer=14)', "tiny_scorer").replace("drop_top(1000)", "drop_top(1)")
    rows = [{"question": "q", "answer": answer} for answer in ("Yes.", "No.", " ", None)]
    names = {"ds": Dataset.from_list(rows), "tiny_scorer": tiny_scorer}
    exec(code, names)
    assert names["parts"].counts == {"kept": 1, "removed": 1, "unscorable": 2}


def test_two_scores_live_in_one_dataset(dataset, tiny_scorer, expected):
    """Whichever comes last; and each replaces what it has left before."""
    other = tiny_scorer.with_options(prefix="larf_b")
    beside = {name.replace("larf_", "larf_b_"): kind for name, kind in LARF.items()}
    stale = dataset.add_column("larf_b_score_l9", [0.5] * len(ROWS)).add_column("larf_b_score", [0.5] * len(ROWS))
    for name in ("larf_b_tokens", "larf_b_issue"):
        stale = stale.add_column(name, [None] * len(ROWS))
    for kind in (stale, stale.to_iterable_dataset(), stale.select([])):
        found = score_dataset(score_dataset(kind, tiny_scorer), other)
        assert found.features == {**FEATURES, **LARF, **beside}
        again = score_dataset(found, tiny_scorer)
        assert again.features == {**FEATURES, **beside, **LARF}
        if rows := list(again):
            check(rows, expected)
            for name, same in zip(beside, LARF, strict=True):
                assert [row[name] for row in rows] == [row[same] for row in rows]


def test_map_gives_the_columns_of_the_prefix_bit_for_bit(dataset, tiny_scorer):
    plain = dataset.map(tiny_scorer, batched=True)
    both = plain.map(tiny_scorer.with_options(prefix="influence"), batched=True)
    assert both.column_names == [*plain.column_names, *(name.replace("larf", "influence") for name in LARF)]
    for name in LARF:
        assert both[name][:] == plain[name][:] == both[name.replace("larf", "influence")][:]


@pytest.mark.parametrize("column", ["quality_score", "quality_weight", "quality_score_l3"])
def test_a_column_of_the_users_own_is_not_replaced(column, dataset, tiny_scorer):
    mine = dataset.add_column(column, [0.5] * len(ROWS))
    scorer = tiny_scorer.with_options(prefix="quality")
    ways = (
        lambda: mine.map(scorer, batched=True),
        lambda: mine.map(scorer),
        lambda: list(mine.to_iterable_dataset().map(scorer, batched=True)),
        lambda: score_dataset(mine, scorer),
        lambda: larf_features(mine.features, scorer),
    )
    for way in ways:
        with pytest.raises(RowFormatError, match=f"'{column}' would be replaced, and no scorer has written it"):
            way()
    check(list(score_dataset(mine, tiny_scorer)), expected=tiny_scorer.score(ROWS, progress=False))
