"""The larf columns: names, order, types."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from larf_curate.errors import ThresholdError
from larf_curate.scoring.columns import ScoreColumns, scores_of
from larf_curate.scoring.weights import WeightRange


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


def test_a_prefix_is_that_of_every_column() -> None:
    plain = ScoreColumns((0, 11), summed=True, turn=True, spans=True, weight=WeightRange(0, 1))
    other = replace(plain, prefix="influence")
    wanted = {name.replace("larf_", "influence_", 1): kind for name, kind in plain.arrow().items()}
    assert list(other.arrow().items()) == list(wanted.items())
    assert list(other.features().values()) == list(plain.features().values())
    assert list(other.features()) == list(wanted)
    assert len(wanted) == 9


def test_scores_of_a_table() -> None:
    table = pa.table({"larf_score": pa.array([0.5, None], pa.float32()), "text": ["a", "b"]})
    np.testing.assert_array_equal(scores_of(table), [0.5, np.nan])
    with pytest.raises(ThresholdError, match="'text' holds string, not numbers"):
        scores_of(table, "text")
