"""A step of datatrove changes the text of documents that carry rows: nobody overlooks it, and either may count."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from datatrove.data import Document
from datatrove.pipeline.filters import LambdaFilter
from datatrove.pipeline.formatters.base import BaseFormatter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.logging import logger

from larf_curate import LARFAnnotator, LARFFilter, LARFScorer
from larf_curate.datatrove import RowReader, RowWriter, carry_row
from larf_curate.engines.changed_texts import StepsBefore, row_with_text
from larf_curate.engines.datatrove_rows import ROW, has_changed_text
from larf_curate.rows.formats import resolve_format

ROWS = [
    {"question": f"What of {name}?\n\nSay it.", "answer": f"Write to {name}@example.org."} for name in ("ann", "bob")
]
ROWS.append({"question": "And now?", "answer": "Nothing."})


class HideNames(BaseFormatter):
    """As datatrove's own formatters work: on the text alone."""

    name = "hide names"

    def format(self, text: str) -> str:
        return text.replace("ann", "someone").replace("bob", "someone")


class JoinLines(BaseFormatter):
    name = "join lines"

    def format(self, text: str) -> str:
        return text.replace("\n\n", " ") if "bob" in text else text


def with_names_hidden(row: dict[str, str]) -> dict[str, str]:
    return {key: HideNames().format(value) for key, value in row.items()}


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What datatrove's logger warns of."""
    found: list[str] = []
    handler = logger.add(lambda message: found.append(str(message)), level="WARNING", format="{message}")
    yield found
    logger.remove(handler)


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "in" / "rows.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


def piped(*steps: Any) -> list[Document]:
    data: Any = None
    for step in steps:
        data = step(data, 0, 1)
    return list(data)


def scores_of(documents: list[Document]) -> list[float]:
    return [document.metadata["larf_score"] for document in documents]


def keep_all(document: Document) -> bool:
    return True


@pytest.mark.parametrize("kind", ["annotator", "filter"])
@pytest.mark.parametrize("reader", ["ours", "datatrove's"])
def test_the_row_counts_with_a_warning_that_names_the_step(
    tiny_scorer: LARFScorer, source: str, lines: list[str], reader: str, kind: str
) -> None:
    read = RowReader(source) if reader == "ours" else JsonlReader(source, adapter=carry_row)
    step = LARFAnnotator(tiny_scorer) if kind == "annotator" else LARFFilter(tiny_scorer, 9.0, unscorable="keep")
    found = piped(read, LambdaFilter(keep_all), HideNames(), step)
    np.testing.assert_allclose(scores_of(found), tiny_scorer.score(ROWS, progress=False), atol=1e-5)
    (line,) = lines
    assert line.startswith("HideNames has changed the text of document")
    assert 'changed_text="document"' in line
    assert step.stats["changed_text"].total == 2


def test_by_choice_the_changed_text_counts(tiny_scorer: LARFScorer, source: str, lines: list[str]) -> None:
    step = LARFAnnotator(tiny_scorer, changed_text="document")
    found = piped(RowReader(source), HideNames(), step)
    expected = tiny_scorer.score([with_names_hidden(row) for row in ROWS], progress=False)
    np.testing.assert_allclose(scores_of(found), expected, atol=1e-5)
    assert np.abs(expected - tiny_scorer.score(ROWS, progress=False)).max() > 1e-4, "it makes a difference"
    assert lines == []
    assert step.stats["changed_text"].total == 2


def test_a_text_whose_turns_cannot_be_told_apart_any_more_is_unscorable(tiny_scorer: LARFScorer, source: str) -> None:
    found = piped(RowReader(source), JoinLines(), LARFAnnotator(tiny_scorer, changed_text="document"))
    assert [document.metadata["larf_issue"] for document in found] == [None, "wrong_type", None]


@pytest.mark.parametrize("changed_text", ["row", "document"])
def test_texts_that_nobody_changed_need_no_choice(
    tiny_scorer: LARFScorer, source: str, lines: list[str], changed_text: Any
) -> None:
    through = [pickle.loads(pickle.dumps(document)) for document in RowReader(source).run()]
    through = [copy.deepcopy(document) for document in through]
    assert not any(map(has_changed_text, through))
    found = list(LARFAnnotator(tiny_scorer, changed_text=changed_text).run(iter(through)))
    np.testing.assert_allclose(scores_of(found), tiny_scorer.score(ROWS, progress=False), atol=1e-5)
    own = [Document("a text", "1", metadata={"question": "q", "answer": "a"})]
    assert not has_changed_text(own[0]), "it carries no row"
    assert lines == []


def test_a_change_between_two_pipelines_is_found_too(
    tiny_scorer: LARFScorer, source: str, lines: list[str], tmp_path: Path
) -> None:
    """Between them lie JSON lines, in which a row is a plain object."""
    for name, steps in {"same": [], "changed": [HideNames()]}.items():
        writer = JsonlWriter(str(tmp_path / name), compression=None)
        piped(RowReader(source), *steps, writer)
        found = piped(JsonlReader(str(tmp_path / name)), LARFAnnotator(tiny_scorer))
        np.testing.assert_allclose(scores_of(found), tiny_scorer.score(ROWS, progress=False), atol=1e-5)
        assert [line.partition(" has changed")[0] for line in lines] == (["another step"] if steps else [])


def test_a_writer_of_rows_warns_too(source: str, lines: list[str], tmp_path: Path) -> None:
    reader = RowReader(source)
    writer = RowWriter(str(tmp_path / "out"), reader.source.schema)
    piped(reader, HideNames(), writer)
    assert pq.read_table(tmp_path / "out" / "00000.parquet").to_pylist() == ROWS
    (line,) = lines
    assert line.startswith("HideNames has changed the text")
    assert "rows are written as they were read" in line


def by_a_function(data: Iterator[Document], rank: int, tasks: int) -> Iterator[Document]:
    for document in data:
        document.text = document.text.upper()
        yield document


def test_who_may_have_changed_a_text(source: str) -> None:
    def before(*steps: Any) -> str:
        data: Any = RowReader(source)(None, 0, 1)
        for step in steps:
            data = step(data, 0, 1)
        return str(StepsBefore.of(data))

    assert before() == "another step"
    assert before(by_a_function) == "by_a_function"
    assert before(LambdaFilter(keep_all), by_a_function) == "one of LambdaFilter, by_a_function"
    assert before(LambdaFilter(keep_all), HideNames(), JoinLines()) == "one of HideNames, JoinLines"
    assert str(StepsBefore.of(iter([]))) == "another step"


def test_a_changed_text_goes_to_the_turns_that_it_came_from() -> None:
    turns = [
        {"role": "system", "content": "Be\n\nkind."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1", "train": False},
        {"role": "user", "content": "Two?\n\n\n\nPlease."},
        {"role": "assistant", "content": "2\n\nand more"},
    ]
    row_format = resolve_format("auto", ["messages"])
    text = "\n\n".join(turn["content"] for turn in turns)
    found = row_with_text({"messages": turns}, text.upper(), row_format)["messages"]
    assert found == [{**turn, "content": turn["content"].upper()} for turn in turns]
    calls = [{"name": "f", "arguments": {}}]
    calling = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": calls}]
    answer = row_format.convert({"messages": calling}).answer
    found = row_with_text({"messages": calling}, f"Q\n\n{answer}", row_format)["messages"]
    assert found[0]["content"] == "Q"
    assert found[1]["tool_calls"][0]["function"]["name"] == "f"
    assert row_with_text({"messages": calling}, "q\n\nnone", row_format)["messages"] == 0


def test_another_word_is_refused(tiny_scorer: LARFScorer) -> None:
    with pytest.raises(ValueError, match="row or document"):
        LARFAnnotator(tiny_scorer, changed_text="text")  # type: ignore[arg-type]


def test_ids_of_documents_hold_no_directories(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (source, f"{Path(source).parent}/*.jsonl", str(Path(source).parent)):
        ids = [document.id for document in RowReader(name).run()]
        assert [identity.rpartition("/")[2] for identity in ids] == ["0", "1", "2"]
        assert not any(part in identity for identity in ids for part in Path(source).parts[1:-2])
    monkeypatch.chdir(Path(source).parent)
    assert next(iter(RowReader("rows.jsonl").run())).id == "rows.jsonl/0"
    assert ROW in next(iter(RowReader("rows.jsonl").run())).metadata
