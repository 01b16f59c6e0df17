"""Names of the columns that scoring adds: of one prefix, and told apart from those of any other."""

from __future__ import annotations

import itertools

import pytest

from larf_curate.errors import RowFormatError
from larf_curate.rows.formats import FORMATS
from larf_curate.rows.notices import reading_note
from larf_curate.rows.score_columns import ColumnNames, score_columns

PREFIXES = ("larf", "larf_b", "larf_score", "larf_score_l1", "larf_score_sum", "larf_issue", "l", "b2", "score", "x_")
"""Such that each might be taken for a part of a name of another."""


def all_names(prefix: str) -> set[str]:
    names = ColumnNames(prefix)
    layers = {names.layer(layer) for layer in (0, 1, 11, 123)}
    return {*names.always, *layers, names.summed, names.turn, names.weight, names.spans}


def test_the_names_are_those_of_the_docs() -> None:
    ends = (
        "score",
        "score_l0",
        "score_l1",
        "score_l11",
        "score_l123",
        "score_sum",
        "turn",
        "tokens",
        "issue",
        "weight",
    )
    assert all_names("influence") == {f"influence_{end}" for end in (*ends, "spans")}
    assert ColumnNames().score == "larf_score"


@pytest.mark.parametrize(("own", "other"), [*itertools.product(PREFIXES, PREFIXES)])
def test_no_name_of_one_prefix_is_a_name_of_another(own: str, other: str) -> None:
    found = {name in ColumnNames(own) for name in all_names(other)}
    assert found == {own == other}


def test_other_names_are_nobodys() -> None:
    others = ["larf_row", "larf_score_l", "larf_score_lx", "larf_scores", "my_larf_score", "score", "larf_score\n", ""]
    assert not [name for name in others if name in ColumnNames()]
    assert None not in ColumnNames()


@pytest.mark.parametrize("prefix", ["", "Larf", "2nd", "_x", "in-fluence", "a b", "naïve", "a.b", "larf\n", None, 3])
def test_a_prefix_is_a_plain_lower_case_name(prefix: str) -> None:
    with pytest.raises(RowFormatError, match=r"lower-case letters \(a to z\), digits and underscores, and begins"):
        ColumnNames(prefix)


def test_columns_of_another_prefix_are_ours_where_every_scorer_would_have_them() -> None:
    ours = {"larf_score", "larf_score_l3", *all_names("larf_b")}
    users = {"text", "sample_weight", "reward_score", "reward_tokens", "in_turn", "b_issue", "larf_mine"}
    assert score_columns(ours | users) == ours
    assert score_columns(ours - {"larf_b_issue"} | users) == {"larf_score", "larf_score_l3"}


def test_a_users_column_is_not_replaced() -> None:
    with pytest.raises(RowFormatError, match=r"'quality_score' would be replaced.*quality_issue are not all there"):
        ColumnNames("quality").require_free(["text", "quality_score", "quality_tokens"])
    with pytest.raises(RowFormatError, match="'sample_weight'"):
        ColumnNames("sample").require_free(["text", "sample_weight"])
    ColumnNames("quality").require_free(["quality", "quality_scores", "my_quality_score", "larf_score"])
    ColumnNames("quality").require_free(["quality_score", "quality_tokens", "quality_issue", "quality_weight"])
    ColumnNames().require_free(["larf_score"])


def test_a_score_is_no_text_that_is_left_unread() -> None:
    columns = ["prompt", "completion", "mine_score", "mine_tokens", "mine_issue"]
    texts = ["prompt", "completion", "mine_issue"]
    assert reading_note(FORMATS["prompt-completion"], columns, texts) == ""
    alone = reading_note(FORMATS["prompt-completion"], [*texts], texts)
    assert alone == "read as prompt-completion (prompt, completion); not read: mine_issue"
