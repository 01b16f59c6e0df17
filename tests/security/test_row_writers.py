"""Whoever writes rows cannot make a score of what is none, nor stop a run by one row."""

from __future__ import annotations

import contextlib
import gc
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from support.commands import larf

from larf_curate import LARFScorer, Threshold, inert
from larf_curate.errors import Unscorable
from larf_curate.publishing.card import split_card
from larf_curate.rows import parts, transcripts, values, wording
from larf_curate.rows.formats import resolve_format
from larf_curate.rows.turns import turns_of
from larf_curate.sources.json_values import array_of, rows_of

pytestmark = pytest.mark.usefixtures("no_row_is_run")

# Scores that are none ------------------------------------------------------------------------------------------------

NO_SCORES = {
    "texts": ["0.1", "0.2", "0.3"],
    "truth values": [True, False, True],
    "infinite": [0.1, math.inf, 0.3],
    "infinite downwards": [0.1, -math.inf, 0.3],
}


@pytest.mark.parametrize("kind", NO_SCORES)
def test_scores_that_are_no_numbers_are_refused_with_column_and_row(tmp_path: Path, kind: str) -> None:
    rows = [{"question": "q", "answer": "a", "larf_score": score} for score in NO_SCORES[kind]]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    row = 1 if "infinite" in kind else 0
    done = larf("filter", tmp_path / "rows.parquet", "--out", tmp_path / "out", "--drop-top", 1)
    assert done.returncode == 1
    assert "'larf_score'" in done.stderr
    assert f"row {row}" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", NO_SCORES)
def test_a_report_refuses_them_too(plain_run: Path, kind: str) -> None:
    (path,) = (plain_run / "removed").iterdir()
    table = pq.read_table(path)
    values = (NO_SCORES[kind] * len(table))[: len(table)]
    place = table.schema.names.index("larf_score")
    pq.write_table(table.set_column(place, "larf_score", pa.array(values)), path)
    done = larf("report", plain_run)
    assert done.returncode == 1
    assert "a defect" not in done.stderr
    assert "'larf_score'" in done.stderr
    assert "row" in done.stderr


def test_scores_in_text_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("question,answer,larf_score\nq,a,0.5\n")
    rows = [{"question": "q", "answer": "a", "larf_score": score} for score in (0.5, "0.7")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, row in (("rows.csv", 0), ("rows.jsonl", 1)):
        done = larf("filter", tmp_path / name, "--out", tmp_path / "out", "--drop-top", 1)
        assert done.returncode == 1
        assert "'larf_score' holds " in done.stderr
        assert f"row {row}" in done.stderr


@pytest.mark.parametrize("scores", [["0.5", "0.7"], [True, False], [0.5, "0.7"]], ids=str)
def test_a_threshold_takes_numbers_alone(scores: list[object]) -> None:
    with pytest.raises(ValueError, match="numbers"):
        Threshold.drop_top(1).fit(scores)


# One row that stops everything ---------------------------------------------------------------------------------------

PIECES = [
    "\n", " ", "\t", "a", "- ", "1. ", "1", "* ", "`", "#", "\n- ", "\n1. ", "<|im_start|>user\n", "[INST]", "<s>",
    "'''", "\n### Instruction:\n", "\n### Input:\n", "\n\nHuman: ", "\n\nAssistant:", "### Human: ", "<<SYS>>",
    "<image>\n",
    "I'm sorry, ", "i can't ", "as an ai ", '"', ' "', ". ", "{", "[", "{instruction}", "-\n", "<image> ", "\r\n",
    "\u2028",
]  # fmt: skip
READERS: dict[str, Callable[[str], object]] = {
    "list items": wording.list_items,
    "ends": wording.ends_complete,
    "refusal": wording.refuses,
    "transcript": transcripts.turns_in_text,
    "template": transcripts.template_in,
    "placeholder": parts.has_placeholder,
    "structure": values.structure_of,
    "visible": lambda text: inert.visible(text, 300),
    "markdown": inert.markdown,
    "code span": inert.code_span,
    "card": lambda text: split_card(text[:100_000]),
}
SMALL, LARGE = 1 << 15, 1 << 19


def seconds(reader: Callable[[str], object], text: str, enough: float = 0.0) -> float:
    """Of a core, the fastest of three, since other processes slow some down; one that is fast `enough` is the last.

    Without collections of garbage: these walk through all that other tests have left, more often for the longer text.
    """
    fastest = math.inf
    gc.disable()
    try:
        for _ in range(3):
            start = time.process_time()
            with contextlib.suppress(ValueError):
                reader(text)
            fastest = min(fastest, time.process_time() - start)
            if fastest < enough:
                break
    finally:
        gc.enable()
    return fastest


@pytest.mark.parametrize("name", READERS)
@pytest.mark.slow
def test_half_a_megabyte_takes_as_long_as_its_parts(name: str) -> None:
    """Sixteen times the text may take 64 times as long on a busy machine; a quadratic reader would take 256 times."""
    start = "### Instruction:\n" if name == "transcript" else ""
    for piece in PIECES:
        small, large = ((start + piece * (size // len(piece) + 1))[:size] for size in (SMALL, LARGE))
        limit = 4 * LARGE / SMALL * max(seconds(READERS[name], small), 0.0005)
        assert seconds(READERS[name], large, enough=limit) < limit, (name, piece)


def conversation_of_calls(count: int) -> list[dict[str, Any]]:
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    turn = {"role": "assistant", "content": "", "tool_calls": [call] * count}
    results = [{"role": "tool", "content": "1"}] * count
    return [{"role": "user", "content": "q"}, turn, *results, {"role": "assistant", "content": "done"}]


def test_many_calls_take_as_long_as_few(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(count: int) -> float:
        return seconds(lambda _: turns_of(conversation_of_calls(count)), "")

    measured(10)
    assert measured(16_000) < 4 * 8 * max(measured(2_000), 0.01)
    results = [turn for turn in turns_of(conversation_of_calls(5)) if turn["role"] == "tool"]
    assert [turn["tool_call_id"] for turn in results] == [f"call{number:05d}" for number in range(5)]


UNREADABLE = {
    "deep": "[" * 150 + "]" * 150,
    "very deep": "[" * 100_000 + "]" * 100_000,
    "a large number": '[{"role": "user", "content": ' + "9" * 5_000 + "}]",
    "no JSON": '[{"role": ',
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_json_that_cannot_be_read_is_a_row_without_a_score_and_stays_as_it_is(kind: str) -> None:
    deep, plain = UNREADABLE[kind], json.dumps([{"role": "user", "content": "q"}])
    column = pa.ExtensionArray.from_storage(pa.json_(), pa.array([deep, plain]))
    rows = rows_of(pa.table({"messages": column}), ["messages"])
    row_format = resolve_format("auto", ["messages"])
    with pytest.raises(Unscorable, match="nested too deep"):
        row_format.convert(rows[0])
    assert rows[1]["messages"][0]["content"] == "q"
    assert array_of([row["messages"] for row in rows], pa.json_()).storage.to_pylist() == [deep, plain]
    with contextlib.suppress(Unscorable):  # a text in which the same stands
        row_format.convert({"messages": deep})


@pytest.mark.parametrize("way", ["score", "map", "map row by row"])
def test_json_that_datasets_cannot_read_costs_its_own_row_alone(tiny_scorer: LARFScorer, way: str) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    texts = pa.array([*UNREADABLE.values(), json.dumps(turns)])
    dataset = Dataset(pa.table({"messages": pa.ExtensionArray.from_storage(pa.json_(), texts)}))
    if way == "score":
        scores = tiny_scorer.score(dataset, progress=False)
    else:
        scored = dataset.map(tiny_scorer, batched=way == "map")
        scores = scored.with_format("numpy")["larf_score"][:]
        assert scored.data.column("messages").combine_chunks().storage.to_pylist() == texts.to_pylist()
    assert np.isnan(scores).tolist() == [True] * len(UNREADABLE) + [False]
