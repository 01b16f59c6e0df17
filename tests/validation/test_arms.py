"""Arms hold the rows that they are named after, in equal numbers, and never a row that is held back."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest

from larf_curate.errors import DataError
from larf_curate.validation.arms import count_rows, draw_arm, held_back_rows
from larf_curate.validation.matching import match_rows
from larf_curate.validation.scored_rows import ScoredRows
from larf_curate.validation.words import BINS, parse_arms


@pytest.fixture
def scored() -> ScoredRows:
    """200 rows; the 40 with the highest scores are removed. Lists are rarer among the kept, and answers shorter."""
    generator = np.random.default_rng(0)
    scores = generator.permutation(200) / 200
    removed = scores >= 0.8
    answers = []
    for gone in removed:
        words = "word " * int(generator.integers(20, 60) if gone else generator.integers(1, 60))
        listed = generator.random() < (0.5 if gone else 0.25)
        answers.append(f"1. {words}\n2. {words}" if listed else words)
    table = pa.table({"question": [f"q{n}" for n in range(200)], "answer": answers, "larf_score": scores})
    numbers = np.arange(200)
    return ScoredRows(table, scores, numbers[~removed], numbers[removed], "made")


def test_rows_of_each_arm(scored):
    counts = count_rows(scored, ["removed", "matched", "random", "kept", "all", *BINS], 20)
    assert counts.held_back == 16
    held_back = set(held_back_rows(scored, counts.held_back).tolist())
    assert held_back <= set(scored.kept.tolist())
    drawn = {name: draw_arm(name, 0, scored, counts).rows for name in ("removed", "matched", "random", "kept", "all")}
    for name, rows in drawn.items():
        assert len(set(rows)) == len(rows) == 20, name
        assert not set(rows) & held_back, name
    assert set(drawn["removed"]) <= set(scored.removed.tolist())
    assert set(drawn["matched"]) <= set(scored.kept.tolist())
    assert set(drawn["kept"]) <= set(scored.kept.tolist())
    assert set(drawn["random"]) & set(scored.removed.tolist())
    assert draw_arm("none", 0, scored, counts).rows == ()
    bins = [scored.scores[list(draw_arm(name, 0, scored, counts).rows)] for name in BINS]
    for lower, higher in itertools.pairwise(bins):
        assert lower.max() < higher.min()
    # Another seed draws other rows, and an arm is the same whichever arms stand beside it.
    assert draw_arm("random", 1, scored, counts).rows != drawn["random"]
    assert draw_arm("random", 0, scored, counts).rows == drawn["random"]


def test_matched_rows_have_the_length_and_the_form_of_the_removed(scored):
    counts = count_rows(scored, ["removed", "matched", "random"], 20)
    shapes = {
        name: scored.shapes(np.array(draw_arm(name, 0, scored, counts).rows))
        for name in ("removed", "matched", "random")
    }
    wanted, matched, control = (shapes[name].mean(axis=0) for name in ("removed", "matched", "random"))
    assert matched[0] == pytest.approx(wanted[0], rel=0.05)
    assert matched[1] == wanted[1]
    assert abs(control[0] - wanted[0]) > abs(matched[0] - wanted[0])


def test_matching_never_takes_a_row_twice_and_prefers_the_form():
    offered = np.array([[10, 0], [10, 1], [11, 0], [40, 1]], float)
    found = match_rows(np.array([[10, 0], [10, 0], [10, 1]], float), offered, np.arange(4))
    assert sorted(found.tolist()) == [0, 1, 2]
    assert found[2] == 1
    with pytest.raises(DataError, match="2 rows are too few to match 3"):
        match_rows(np.zeros((3, 2)), np.zeros((2, 2)), np.arange(2))


def test_as_many_rows_as_were_removed_by_default(scored):
    counts = count_rows(scored, ["removed", "kept"], None)
    assert (counts.removed, counts.kept, counts.held_back) == (40, 144, 16)


@pytest.mark.parametrize(
    ("arms", "rows", "small", "large"),
    [
        (["removed", "matched", "random"], 50, 40, 50),
        (["removed", "bins"], 50, 36, 50),
        (["random", "kept", "all"], 150, 150, 144),
        (["removed", "kept"], 10, 10, 10),
    ],
)
def test_fewer_rows_than_asked_for_are_fewer_for_all_arms_that_are_compared(scored, arms, rows, small, large):
    counts = count_rows(scored, parse_arms(arms), rows)
    assert (counts.removed, counts.kept) == (small, large)


def test_nothing_removed_and_next_to_nothing_kept(scored):
    nothing = ScoredRows(scored.table, scored.scores, scored.kept, scored.removed[:0], "made")
    with pytest.raises(DataError, match="the arm removed needs removed rows, and none were removed"):
        count_rows(nothing, ["removed"], None)
    with pytest.raises(DataError, match="the arm matched needs removed rows, and none"):
        count_rows(nothing, ["matched"], 5)
    three = ScoredRows(scored.table, scored.scores, scored.kept, scored.removed[:3], "made")
    with pytest.raises(DataError, match="the arm removed needs 4 rows or more, and there are 3 removed rows"):
        count_rows(three, ["removed"], None)
    few = ScoredRows(scored.table, scored.scores, scored.kept[:9], scored.removed, "made")
    with pytest.raises(DataError, match="9 kept rows are too few to hold some back"):
        count_rows(few, ["removed"], None)
