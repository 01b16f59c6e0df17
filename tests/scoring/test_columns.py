"""The larf columns: names, order, types."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from larf_curate.errors import ThresholdError
from larf_curate.scoring.columns import ScoreColumns, is_larf_column, scores_of


def test_schema_of_one_layer() -> None:
    expected = {"larf_score": pa.float32(), "larf_tokens": pa.int32(), "larf_issue": pa.string()}
    assert list(ScoreColumns((7,)).arrow().items()) == list(expected.items())


def test_schema_of_several_layers_has_a_column_beside_for_each() -> None:
    schema = ScoreColumns(
        (
            11,
            3,
        )
    ).arrow()
    assert list(schema) == ["larf_score", "larf_score_l11", "larf_score_l3", "larf_tokens", "larf_issue"]
    assert schema["larf_score_l11"] == schema["larf_score_l3"] == pa.float32()


def test_columns_of_any_layers_are_ours() -> None:
    assert all(
        map(
            is_larf_column,
            [
                *ScoreColumns(
                    (
                        0,
                        11,
                        123,
                    )
                ).arrow(),
                "larf_score_l7",
            ],
        )
    )
    others = ["larf_row", "larf_score_l", "larf_score_lx", "larf_scores", "my_larf_score", "score", "larf_score\n", ""]
    assert not any(map(is_larf_column, others))


def test_scores_of_a_table() -> None:
    table = pa.table({"larf_score": pa.array([0.5, None], pa.float32()), "text": ["a", "b"]})
    np.testing.assert_array_equal(scores_of(table), [0.5, np.nan])
    with pytest.raises(ThresholdError, match="'text' holds string, not numbers"):
        scores_of(table, "text")
