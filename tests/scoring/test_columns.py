"""The larf columns: names, order, types, and nulls that do not spoil the type."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from larf_curate.errors import Issue
from larf_curate.scoring.columns import Scores, TypedColumn, larf_schema


def test_schema_of_one_layer() -> None:
    expected = {"larf_score": pa.float32(), "larf_tokens": pa.int32(), "larf_issue": pa.string()}
    assert list(larf_schema([7]).items()) == list(expected.items())


def test_schema_of_several_layers_has_a_column_beside_for_each() -> None:
    schema = larf_schema([11, 3])
    assert list(schema) == ["larf_score", "larf_score_l11", "larf_score_l3", "larf_tokens", "larf_issue"]
    assert schema["larf_score_l11"] == schema["larf_score_l3"] == pa.float32()


@pytest.fixture
def scores() -> Scores:
    found = Scores([11, 3], 2)
    found.score[1], found.by_layer[1], found.tokens[1] = 0.5, [0.25, 0.75], 9
    found.issues = [Issue.EMPTY_ANSWER, Issue.TRUNCATED]
    return found


def test_unscored_rows_are_null_and_not_nan(scores: Scores) -> None:
    assert scores.columns() == {
        "larf_score": [None, 0.5],
        "larf_score_l11": [None, 0.25],
        "larf_score_l3": [None, 0.75],
        "larf_tokens": [None, 9],
        "larf_issue": ["empty_answer", "truncated"],
    }
    assert list(scores.columns()) == list(larf_schema([11, 3]))
    assert type(scores.columns()["larf_issue"][0]) is str


def test_scores_are_shown_in_one_line(scores: Scores) -> None:
    assert repr(scores) == "<Scores of 2 rows: 1 scored, from 0.5 to 0.5; 1 empty_answer; 1 truncated>"
    assert repr(Scores([1], 3)) == "<Scores of 3 rows: 0 scored>"


@pytest.mark.parametrize("count", [0, 1, 3])
def test_arrow_columns_have_their_types_however_empty(count: int) -> None:
    found = Scores([2], count).arrow()
    assert {name: column.type for name, column in found.items()} == larf_schema([2])
    assert all(column.null_count == len(column) == count for column in found.values())


def test_arrow_columns_hold_the_values(scores: Scores) -> None:
    found = scores.arrow()
    assert found["larf_score"].to_pylist() == [None, 0.5]
    assert found["larf_score"].null_count == 1
    assert found["larf_issue"].to_pylist() == ["empty_answer", "truncated"]


def test_a_typed_column_is_a_list_that_arrow_reads_as_its_type() -> None:
    column = TypedColumn([None, None], pa.string())
    assert column == [None, None]
    assert pa.array(column).type == pa.string()
    assert pa.array(TypedColumn([1, None], pa.int32())).equals(pa.array([1, None], pa.int32()))
    assert pa.array(TypedColumn([1, None], pa.int32()), pa.int64()).type == pa.int64()


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_map_takes_a_value_after_a_batch_of_nulls(batch_size: int) -> None:
    from datasets import Dataset

    def annotate(batch: dict[str, list[int]]) -> dict[str, Any]:
        found = Scores([0], len(batch["n"]))
        for place, n in enumerate(batch["n"]):
            if n >= 3:
                found.score[place], found.tokens[place], found.issues[place] = n, n, Issue.TRUNCATED
        schema = larf_schema([0])
        return {name: TypedColumn(values, schema[name]) for name, values in found.columns().items()}

    scored = Dataset.from_dict({"n": [0, 1, 2, 3, 4]}).map(annotate, batched=True, batch_size=batch_size)
    assert {name: scored.data.schema.field(name).type for name in larf_schema([0])} == larf_schema([0])
    assert scored["larf_score"][:] == [None, None, None, 3.0, 4.0]
    assert scored["larf_issue"][:] == [None, None, None, "truncated", "truncated"]
    assert np.isnan(scored.with_format("numpy")["larf_score"][:3]).all()
