"""What goes back to `Dataset.map`: types that do not hang on the first batch, and no columns of an earlier scorer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, Features, Value

from larf_curate.errors import Issue, RowFormatError
from larf_curate.rows.formats import resolve_format
from larf_curate.scoring.columns import ScoreColumns
from larf_curate.scoring.map_batches import map_result, require_mapping, rows_of_batch
from larf_curate.scoring.scores import Scores

LAYERS = (1, 3)
ROWS = [{"question": f"q{n}", "answer": "a" * n} for n in range(5)]
NEW = {
    "larf_score": [None, None, 2.0, 3.0, 4.0],
    "larf_score_l1": [None, None, 2.0, 3.0, 4.0],
    "larf_score_l3": [None, None, 2.0, 3.0, 4.0],
    "larf_tokens": [None, None, 2, 3, 4],
    "larf_issue": ["empty_answer", "empty_answer", None, None, "truncated"],
}


def scorer(batch: Any, prefix: str = "larf") -> Any:
    """Stands for a scorer: the length of the answer is the score, and the first rows have none."""
    rows, batched = rows_of_batch(batch, resolve_format("question-answer", ["question", "answer"]))
    lengths = [len(row["answer"]) for row in rows]
    score = np.array([length if length > 1 else np.nan for length in lengths], np.float32)
    scores = Scores(
        ScoreColumns(LAYERS, prefix=prefix),
        score,
        np.stack([score, score], axis=1),
        [length if length > 1 else None for length in lengths],
        [Issue.EMPTY_ANSWER if length < 2 else Issue.TRUNCATED if length == 4 else None for length in lengths],
    )
    return map_result(scores, batch, batched=batched)


def scored_before(scores: list[Any], dtype: str) -> Dataset:
    """Rows with the columns of an earlier scorer at the layers 2 and 3, and one of the user's."""
    columns: dict[str, Any] = {name: [row[name] for row in ROWS] for name in ("question", "answer")}
    kinds = {"question": Value("string"), "answer": Value("string")}
    for name in ("larf_score", "larf_score_l2", "larf_score_l3"):
        columns[name], kinds[name] = scores, Value(dtype)
    columns |= {"larf_issue": [None] * 5, "larf_mine": [1, 2, 3, 4, 5]}
    kinds |= {"larf_issue": Value("null"), "larf_mine": Value("int8")}
    return Dataset.from_dict(columns, features=Features(kinds))


WAYS: dict[str, Callable[[Dataset], Any]] = {
    "batched": lambda dataset: dataset.map(scorer, batched=True),
    "batches of 2": lambda dataset: dataset.map(scorer, batched=True, batch_size=2),
    "unbatched": lambda dataset: dataset.map(scorer),
    "two processes": lambda dataset: dataset.map(scorer, batched=True, num_proc=2),
}


EARLIER: dict[str, list[Any]] = {
    "float32": [9.5] * 5,
    "float64": [9.5] * 5,  # as JSON lines have it
    "float16": [9.5] * 5,
    "int64": [9] * 5,
    "string": ["9"] * 5,
    "null": [None] * 5,
}


@pytest.mark.parametrize(
    ("way", "dtype"),
    [
        *((way, dtype) for way in WAYS if way != "two processes" for dtype in EARLIER),
        *(("two processes", dtype) for dtype in ("float64", "string", "null")),  # each does what one does with numbers
    ],
)
@pytest.mark.slow
def test_columns_of_an_earlier_scorer_are_replaced_with_their_types(way: str, dtype: str) -> None:
    scored = WAYS[way](scored_before(EARLIER[dtype], dtype))
    assert set(scored.column_names) == {"question", "answer", "larf_mine", *NEW}
    assert {name: scored.data.schema.field(name).type for name in NEW} == ScoreColumns(LAYERS).arrow()
    assert {name: scored[name][:] for name in NEW} == NEW
    assert scored["larf_mine"][:] == [1, 2, 3, 4, 5]
    assert scored.features["larf_mine"] == Value("int8")


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("format_type", [None, "numpy"])
def test_in_a_stream_they_become_null(batched: bool, format_type: str | None) -> None:
    stream = scored_before([9.5] * 5, "float64").to_iterable_dataset().with_format(format_type)
    rows = list(stream.map(scorer, batched=batched).with_format(None))
    assert {name: [row[name] for row in rows] for name in NEW} == NEW
    assert [row["larf_score_l2"] for row in rows] == [None] * 5
    assert [row["larf_mine"] for row in rows] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("batched", [True, False])
def test_in_a_dataset_of_another_format_they_become_null(batched: bool) -> None:
    dataset = scored_before([9.5] * 5, "float32").with_format("numpy")
    scored = dataset.map(scorer, batched=batched).with_format(None)
    assert {name: scored[name][:] for name in NEW} == NEW
    assert scored["larf_score_l2"][:] == [None] * 5


def test_the_users_own_arguments_of_map_are_kept() -> None:
    before = scored_before([9.5] * 5, "float64")
    scored = before.map(scorer, batched=True, remove_columns=["question", "larf_mine", "larf_score_l2"])
    assert set(scored.column_names) == {"answer", *NEW}
    chosen = Dataset.from_list(ROWS).map(lambda batch: {**scorer(batch), "more": [1] * 5}, batched=True)
    assert {name: chosen[name][:] for name in NEW} == NEW
    assert chosen["more"][:] == [1] * 5


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("stream", [True, False])
def test_columns_of_another_prefix_stay_as_they_are(batched: bool, stream: bool) -> None:
    before = scored_before([9.5] * 5, "float64").add_column("larf_b_score", [1.5] * 5)
    dataset = before.to_iterable_dataset() if stream else before
    mapped = dataset.map(lambda batch: scorer(batch, "larf_b"), batched=batched)
    rows = list(mapped)
    assert {name: [row[name] for row in rows] for name in before.column_names if name != "larf_b_score"} == {
        name: before[name][:] for name in before.column_names if name != "larf_b_score"
    }
    added = {name.replace("larf_", "larf_b_", 1): values for name, values in NEW.items()}
    assert {name: [row[name] for row in rows] for name in added} == added
    assert set(rows[0]) == {*before.column_names, *added}
    again = mapped.map(scorer, batched=batched)
    assert {name: [row[name] for row in again] for name in NEW | added} == NEW | added


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_map_takes_a_value_after_a_batch_of_nulls(batch_size: int) -> None:
    scored = Dataset.from_list(ROWS).map(scorer, batched=True, batch_size=batch_size)
    assert {name: scored.data.schema.field(name).type for name in ScoreColumns(LAYERS).arrow()} == ScoreColumns(
        LAYERS
    ).arrow()
    assert {name: scored[name][:] for name in NEW} == NEW
    assert np.isnan(scored.with_format("numpy")["larf_score"][:2]).all()


def test_a_batch_gives_plain_lists_that_arrow_reads_with_their_types() -> None:
    batches: list[Any] = []
    Dataset.from_list(ROWS[:1]).map(lambda batch: batches.append(scorer(batch)), batched=True)
    (columns,) = batches
    assert {name: list(column) for name, column in columns.items()} == {
        name: values[:1] for name, values in NEW.items()
    }
    assert {name: pa.array(column).type for name, column in columns.items()} == ScoreColumns(LAYERS).arrow()
    assert pa.array(columns["larf_tokens"], pa.int64()).type == pa.int64()


def test_single_columns_are_refused_with_the_fix() -> None:
    for batch in (["a text", "another"], "a text", None):
        with pytest.raises(RowFormatError, match="leave input_columns= out"):
            require_mapping(batch, ())
