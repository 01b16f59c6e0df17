"""`turns="all"`: each assistant turn is scored by itself, and the worst counts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from support.commands import larf

from larf_curate import LARFScorer
from larf_curate.encoding.encoder import States, get_encoder
from larf_curate.errors import Issue, ModelError, ScorerError
from larf_curate.rows.rendering import Rendered
from larf_curate.scoring.columns import ScoreColumns
from larf_curate.scoring.formulas import FittedFormula
from larf_curate.scoring.state_measure import RenderedTurns, StateMeasure

SAID = ["Hello?", "Good day.", "And now?", "Now we count: 1, 2, 3.", "Stop.", "As you wish, I stop."]


def turns(*said: str) -> list[dict]:
    return [{"role": "assistant" if n % 2 else "user", "content": text} for n, text in enumerate(said)]


ROWS = [
    {"messages": turns(*SAID)},
    {"messages": turns(*SAID[:2])},
    {"messages": [{"role": "system", "content": "Be brief."}, *turns(*SAID[:4])]},
    {"messages": turns("Hello?", " \u200b")},
    {"messages": turns("Hello?", "", "And now?", "Now.")},  # a turn that says nothing has no state of its own
]


@pytest.fixture(scope="module")
def by_turn(tiny_scorer: LARFScorer) -> LARFScorer:
    return tiny_scorer.with_options(turns="all")


def test_the_worst_turn_counts_and_is_named(tiny_scorer: LARFScorer, by_turn: LARFScorer) -> None:
    found = by_turn.annotate(ROWS)
    assert found.turns is not None
    for place, row in enumerate(ROWS):
        said = row["messages"]
        cuts = {end: said[: end + 1] for end, turn in enumerate(said) if turn["role"] == "assistant"}
        cuts = {end: cut for end, cut in cuts.items() if cut[-1]["content"].strip(" \u200b")}
        if not cuts:
            assert np.isnan(found.score[place])
            assert found.turns[place] is None
            continue
        alone = tiny_scorer.annotate([{"messages": cut} for cut in cuts.values()])
        worst = int(np.argmax(alone.score))
        np.testing.assert_allclose(found.score[place], alone.score[worst], atol=1e-5)
        np.testing.assert_allclose(found.by_layer[place], alone.by_layer[worst], atol=1e-5)
        assert found.turns[place] == list(cuts)[worst]
        assert found.tokens[place] == alone.tokens[-1]
    assert {turn for turn in found.turns if turn is not None} - {1}, "some row's worst turn is not its first"


def test_a_row_has_no_score_where_one_of_its_turns_has_none(by_turn: LARFScorer) -> None:
    """That turn might be the worst."""
    before = by_turn.score(ROWS[:2])
    loaded = get_encoder(by_turn.spec.model_options({}), 3).loaded
    weights, token = loaded.model.get_input_embeddings().weight, loaded.tokenizer.encode("~")[-1]
    kept = weights[token].clone()
    with torch.no_grad():
        weights[token] = torch.nan
        try:
            found = by_turn.annotate([{"messages": turns(*SAID[:5], "As you wish ~ I stop.")}, ROWS[1]])
        finally:
            weights[token] = kept
    assert found.issues == ["non_finite_state", None]
    np.testing.assert_array_equal(found.score, [np.nan, before[1]])
    assert found.turns == [None, 1]


@pytest.mark.parametrize(
    ("states", "issues", "issue"),
    [
        ([[1.0, 0], [0.0, 0]], [None, None], Issue.NON_FINITE),  # a state of length zero points nowhere
        ([[np.nan, 0], [0.0, 1]], [Issue.OUT_OF_MEMORY, Issue.TRUNCATED], Issue.OUT_OF_MEMORY),
        ([[1.0, 0], [0.0, 1]], [None, Issue.TRUNCATED], Issue.TRUNCATED),
    ],
)
def test_the_issue_of_a_row_is_that_for_which_it_has_no_score(states: Any, issues: list[Any], issue: Issue) -> None:
    found = States(np.array(states, np.float32)[:, None], issues, [9, 9], "")
    formula = FittedFormula("larf", np.array([[[1.0, 0]]]), np.array([[[0.0, 1]]]))
    encoder: Any = SimpleNamespace(states_of=lambda *_: found)
    prepared = RenderedTurns([Rendered([1], 9, None), Rendered([1], 9, None)], [1, 3])
    scores = StateMeasure(encoder, formula, ScoreColumns(layers=(0,), turn=True)).score([prepared], None)
    assert scores.issues == [issue]
    assert np.isnan(scores.score[0]) == issue.unscorable


@pytest.mark.slow
def test_so_many_turns_that_each_alone_would_take_minutes_are_unscorable(
    tiny_scorer: LARFScorer, by_turn: LARFScorer
) -> None:
    row = {"messages": turns(*["Go on.", "Yes."] * 2_000)}
    assert by_turn.annotate([row, ROWS[1]]).issues == ["too_long", None]
    assert tiny_scorer.annotate([row]).issues == ["truncated"], "the last turn alone is one rendering"


def test_turns_that_are_not_trained_do_not_count(tiny_scorer: LARFScorer, by_turn: LARFScorer) -> None:
    for number in (1, 3):
        said = turns(*SAID[:4])
        said[number]["weight"] = 0
        found = by_turn.annotate([{"messages": said}])
        assert found.turns == [4 - number]
        cut = said[:2] if number == 3 else said
        np.testing.assert_allclose(found.score, tiny_scorer.score([{"messages": cut}]), atol=1e-5)


def test_a_system_text_in_a_column_of_its_own_is_no_turn(by_turn: LARFScorer) -> None:
    apart = by_turn.annotate([{"system": "Be brief.", "messages": turns(*SAID)}])
    within = by_turn.annotate([{"messages": [{"role": "system", "content": "Be brief."}, *turns(*SAID)]}])
    assert apart.score == pytest.approx(within.score, abs=1e-6)
    assert apart.turns is not None
    assert within.turns == [apart.turns[0] + 1]


def test_columns_progress_and_artifact(by_turn: LARFScorer, tmp_path: Path) -> None:
    scored = Dataset.from_list(ROWS).map(by_turn, batched=True)
    names = scored.column_names[1:]
    assert names == ["larf_score", "larf_score_l1", "larf_score_l3", "larf_turn", "larf_tokens", "larf_issue"]
    assert scored.data.schema.field("larf_turn").type == pa.int32()
    assert scored["larf_turn"][:][3] is None
    told: list[int] = []
    by_turn.annotate(ROWS, progress=told.append)
    assert sum(told) == len(ROWS)
    by_turn.save_pretrained(tmp_path)
    again = LARFScorer.from_pretrained(tmp_path)
    assert again.spec == by_turn.spec
    assert scored.map(again.with_options(turns="last"), batched=True).column_names[1:] == [
        name for name in names if name != "larf_turn"
    ]


def test_the_command_line_takes_it(tiny_scorer: LARFScorer, by_turn: LARFScorer, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    Dataset.from_list(ROWS).to_json(tmp_path / "rows.jsonl")
    tiny_scorer.save_pretrained(tmp_path / "scorer")
    arguments = ("score", "rows.jsonl", "--scorer", "scorer", "--out", "out.parquet", "--turns", "all")
    assert larf(*arguments, cwd=tmp_path).returncode == 0
    assert pq.read_table(tmp_path / "out.parquet")["larf_turn"].to_pylist() == by_turn.annotate(ROWS).turns


@pytest.mark.parametrize("wrong", ["first", "", 1])
def test_other_turns_are_refused(wrong: object, tiny_scorer: LARFScorer) -> None:
    with pytest.raises(ModelError, match="turns is last or all"):
        tiny_scorer.with_options(turns=wrong)  # type: ignore[arg-type]


def test_a_scorer_of_another_reading_is_refused(tiny_scorer: LARFScorer, tmp_path: Path) -> None:
    import json

    tiny_scorer.save_pretrained(tmp_path)
    path = tmp_path / "larf_scorer.json"
    fields = json.loads(path.read_text())
    for change in ({"reading_version": 2}, None):
        changed = {**fields, **(change or {})}
        if change is None:
            del changed["reading_version"]
        path.write_text(json.dumps(changed))
        with pytest.raises(ScorerError, match=r"read rows in another way.*fit it again"):
            LARFScorer.from_pretrained(tmp_path)
