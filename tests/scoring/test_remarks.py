"""What is said of a dataset while it is scored: once, and not by every process."""

from __future__ import annotations

import pytest
from datasets import Dataset

from larf_curate import LARFScorer
from larf_curate.errors import RowFormatError
from larf_curate.scoring import remarks

ROWS = {"instruction": ["Hi?"] * 3, "output": ["Hello."] * 3, "messages": [None] * 3, "note": ["x"] * 3, "n": [1, 2, 3]}
NOTE = "read as alpaca (instruction, output); not read: note"


@pytest.fixture(autouse=True)
def _nothing_said() -> None:
    remarks._said.clear()


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("streaming", [True, False])
def test_map_names_the_texts_that_it_does_not_read_once(batched, streaming, tiny_scorer: LARFScorer, capsys):
    rows = {name: values for name, values in ROWS.items() if name != "messages"}
    dataset = Dataset.from_dict(rows)
    scored = (dataset.to_iterable_dataset() if streaming else dataset).map(tiny_scorer, batched=batched, batch_size=2)
    assert len(list(scored)) == 3
    assert capsys.readouterr().err.count(NOTE) == 1


def test_other_processes_say_nothing(tiny_scorer: LARFScorer, capsys):
    tiny_scorer({"instruction": ["Hi?"], "output": ["Hello."], "note": ["x"]}, rank=1)
    assert "not read" not in capsys.readouterr().err


def test_a_template_inside_the_texts_is_said_once(tiny_scorer: LARFScorer, capsys):
    text = "Below is an instruction.\n\n### Instruction:\nAdd.\n\n### Response:\n"
    tiny_scorer.score([{"prompt": text, "completion": "3"}] * 3, progress=False)
    said = capsys.readouterr().err
    assert said.count("a template of their own (### Instruction: / ### Response:)") == 1
    assert "--format text" in said


def test_columns_and_join_are_options_of_a_scorer(tiny_scorer: LARFScorer, tmp_path):
    plain = tiny_scorer.annotate([{"instruction": "Add.", "input": "1 2", "output": "3"}])
    renamed = tiny_scorer.with_options(columns={"ask": "instruction", "about": "input", "say": "output"})
    row = {"ask": "Add.", "about": "1 2", "say": "3"}
    assert renamed.annotate([row]).score[0] == plain.score[0]
    apart = renamed.with_options(join="\n\n")
    apart.save_pretrained(tmp_path)
    again = LARFScorer.from_pretrained(tmp_path).with_options(
        columns={"ask": "instruction", "about": "input", "say": "output"}
    )
    wanted = tiny_scorer.annotate([{"instruction": "Add.\n\n1 2", "output": "3"}])
    assert again.annotate([row]).tokens == wanted.tokens
    assert again.annotate([row]).score[0] == pytest.approx(wanted.score[0], abs=1e-6)
    assert again.spec.join == "\n\n"
    with pytest.raises(RowFormatError, match="leave columns= out"):
        tiny_scorer.with_options(format=lambda row: None, columns={"ask": "instruction"})
