"""What scoring gives for some rows: as columns, joined, and in one line."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from larf_curate.errors import Issue
from larf_curate.scoring.columns import ScoreColumns
from larf_curate.scoring.scores import Scores

NAN = float("nan")


def make_scores(
    score: list[float],
    by_layer: list[list[float]] | None = None,
    tokens: list[int | None] | None = None,
    issues: list[Issue | None] | None = None,
    layers: tuple[int, ...] = (2,),
) -> Scores:
    return Scores(
        ScoreColumns(layers),
        np.array(score, np.float32),
        np.array([[one] * len(layers) for one in score] if by_layer is None else by_layer, np.float32).reshape(
            len(score), len(layers)
        ),
        [None] * len(score) if tokens is None else tokens,
        [None] * len(score) if issues is None else issues,
        "float32 on cpu",
    )


@pytest.fixture
def scores() -> Scores:
    return make_scores(
        [NAN, 0.5], [[NAN, NAN], [0.25, 0.75]], [None, 9], [Issue.EMPTY_ANSWER, Issue.TRUNCATED], layers=(11, 3)
    )


def test_unscored_rows_are_null_and_not_nan(scores: Scores) -> None:
    assert scores.columns() == {
        "larf_score": [None, 0.5],
        "larf_score_l11": [None, 0.25],
        "larf_score_l3": [None, 0.75],
        "larf_tokens": [None, 9],
        "larf_issue": ["empty_answer", "truncated"],
    }
    assert list(scores.columns()) == list(
        ScoreColumns(
            (
                11,
                3,
            )
        ).arrow()
    )
    assert type(scores.columns()["larf_issue"][0]) is str


@pytest.mark.parametrize("count", [0, 1, 3])
def test_arrow_columns_have_their_types_however_empty(count: int) -> None:
    arrays = make_scores([NAN] * count).arrow()
    assert {name: column.type for name, column in arrays.items()} == ScoreColumns((2,)).arrow()
    assert all(column.null_count == len(column) == count for column in arrays.values())


def test_arrow_columns_hold_the_values(scores: Scores) -> None:
    arrays = scores.arrow()
    assert arrays["larf_score"].to_pylist() == [None, 0.5]
    assert arrays["larf_score"].type == pa.float32()
    assert arrays["larf_issue"].to_pylist() == ["empty_answer", "truncated"]


def test_parts_are_joined_in_their_order(scores: Scores) -> None:
    one = make_scores([0.1], [[0.0, 0.2]], [4], [None], layers=(11, 3))
    joined = Scores.joined(ScoreColumns((11, 3)), [scores, one])
    assert joined.columns() == {name: values + one.columns()[name] for name, values in scores.columns().items()}
    assert joined.execution == "float32 on cpu"
    assert Scores.joined(ScoreColumns((11, 3)), []).columns() == {
        name: []
        for name in ScoreColumns(
            (
                11,
                3,
            )
        ).arrow()
    }


def test_scores_are_shown_in_one_line(scores: Scores) -> None:
    assert repr(scores) == "<Scores of 2 rows: 1 scored, from 0.5 to 0.5; 1 empty_answer; 1 truncated>"
    assert repr(make_scores([NAN] * 3)) == "<Scores of 3 rows: 0 scored>"
