"""datatrove's pipelines with our steps in them: every row arrives in one place, scored as the scorer scores it."""

from __future__ import annotations

import copy
import doctest
import importlib.metadata
import json
import os
import pickle
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import dill
import multiprocess
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.filters import LambdaFilter
from datatrove.pipeline.readers import JsonlReader, ParquetReader
from datatrove.pipeline.writers import JsonlWriter

from larf_curate import LARFFilter, LARFScorer, Threshold
from larf_curate.deciding.splitting import scored_schema
from larf_curate.encoding import runtime
from larf_curate.encoding.encoder import get_encoder
from larf_curate.engines import datatrove_annotator
from larf_curate.engines import datatrove_rows as documents
from larf_curate.engines.datatrove_annotator import LARFAnnotator
from larf_curate.engines.datatrove_files import RowWriter
from larf_curate.engines.datatrove_rows import ROW, SHARD, CarriedRow, carry_row, table_of
from larf_curate.errors import Issue, RowFormatError, ScorerError, ThresholdError
from larf_curate.models.devices import process_number
from larf_curate.scoring.formulas import FittedFormula
from larf_curate.scoring.scores import Scores
from larf_curate.scoring.separation import reference_quantiles
from larf_curate.sources.files import open_source

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("no_row_is_run")]

LARF = ["larf_score", "larf_score_l1", "larf_score_l3", "larf_tokens", "larf_issue"]
WORDS = ["bread", "salt", "river", "lamp", "cedar", "violin", "anchor", "maple", "copper", "lantern"]
SHORT = {4, 21}


def ask(i: int) -> dict[str, Any]:
    """Row i: each seventh has no answer, and two are too short for the filter before ours."""
    answer = None if i % 7 == 0 else " ".join(WORDS[: i % 9 + 1])
    question = "?" if i in SHORT else f"Tell me of {WORDS[i % 10]} no. {i}."
    return {"id": f"{i:03}", "rank": i, "question": question, "answer": answer, "tags": [{"at": i}] * (i % 3)}


COUNT, TASKS = 36, 3
ROWS = [ask(i) for i in range(COUNT)]
EMPTY = len(range(0, COUNT, 7))
DROPPED = {f"{i:03}" for i in SHORT}
UNSCORABLE = {f"{i:03}" for i in range(0, COUNT, 7)} - DROPPED


def xfail(reason: str) -> pytest.MarkDecorator:
    return pytest.mark.xfail(strict=True, reason=reason)


def long_enough(document: Document) -> bool:
    return document.metadata[ROW]["question"] != "?"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Several would only wait for each other on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def scores(tiny_scorer) -> dict[str, float]:
    found = tiny_scorer.score(ROWS, progress=False)
    return {row["id"]: float(score) for row, score in zip(ROWS, found, strict=True)}


@pytest.fixture(scope="module")
def median(scores) -> float:
    return float(np.nanmedian(list(scores.values())))


@pytest.fixture(scope="module")
def saved(tiny_scorer, tmp_path_factory) -> str:
    place = tmp_path_factory.mktemp("saved") / "scorer"
    tiny_scorer.save_pretrained(place)
    return str(place)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """The rows as three JSONL files and three Parquet files."""
    home = tmp_path_factory.mktemp("data")
    for kind in ("jsonl", "parquet"):
        (home / kind).mkdir()
    for part in range(TASKS):
        rows = ROWS[part * COUNT // TASKS : (part + 1) * COUNT // TASKS]
        (home / "jsonl" / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        pq.write_table(pa.Table.from_pylist(rows), home / "parquet" / f"{part}.parquet")
    return home


def reader(data: Path, kind: str = "jsonl") -> JsonlReader | ParquetReader:
    return {"jsonl": JsonlReader, "parquet": ParquetReader}[kind](str(data / kind), adapter=carry_row)


def documents_with(rows: list[dict[str, Any]], shards: str | None = None) -> list[Document]:
    found = [Document(**carry_row(None, row, "", 0)) for row in rows]
    for document, shard in zip(found, shards or "", strict=False):
        document.metadata[SHARD] = shard
    return found


def execute(steps: list[Any], logs: Path, tasks: int = TASKS, workers: int = 1, **options: Any) -> Any:
    return LocalPipelineExecutor(steps, tasks=tasks, workers=workers, logging_dir=str(logs), **options).run()


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.open()]


def table(folder: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob("*.parquet")))


def stats_of(logs: Path, step: str) -> dict[str, Any]:
    (found,) = (stats["stats"] for stats in json.loads((logs / "stats.json").read_text()) if step in stats["name"])
    return found


def total(value: Any) -> float:
    return value["total"] if isinstance(value, dict) else value


# Pipelines -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("writer", ["lines", "rows"])
def test_every_row_arrives_in_one_place(kind, writer, data, saved, tiny_scorer, scores, median, tmp_path):
    schema = scored_schema(open_source(str(data / kind)).schema, tiny_scorer.spec)
    excluded = schema.append(pa.field("filter_reason", pa.string()))
    removed = {
        "lines": lambda: JsonlWriter(str(tmp_path / "removed"), compression=None),
        "rows": lambda: RowWriter(str(tmp_path / "removed"), excluded, batch_size=5),
    }[writer]()
    steps = [
        reader(data, kind),
        LambdaFilter(long_enough, exclusion_writer=JsonlWriter(str(tmp_path / "short"), compression=None)),
        LARFFilter(saved, median, exclusion_writer=removed, batch_size=5),
        RowWriter(str(tmp_path / "kept"), schema, batch_size=4),
    ]
    execute(steps, tmp_path / "logs")

    ending = {"lines": "jsonl", "rows": "parquet"}[writer]
    assert sorted(path.name for path in (tmp_path / "removed").iterdir()) == [f"0000{i}.{ending}" for i in range(TASKS)]
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [f"0000{i}.parquet" for i in range(TASKS)]

    kept = table(tmp_path / "kept")
    pq.write_table(schema.empty_table(), tmp_path / "empty.parquet")  # Parquet renames the items of lists
    assert kept.schema.equals(pq.read_schema(tmp_path / "empty.parquet"), check_metadata=True)
    gone = lines(tmp_path / "removed") if writer == "lines" else table(tmp_path / "removed").to_pylist()
    if writer == "lines":
        assert all(set(line["metadata"]) == {ROW, "file_path", "filter_reason", *LARF} for line in gone)
        gone = [line["metadata"][ROW] | {n: line["metadata"][n] for n in (*LARF, "filter_reason")} for line in gone]
    short = [line["metadata"][ROW] for line in lines(tmp_path / "short")]

    everywhere = {"kept": kept.to_pylist(), "removed": gone, "short": short}
    own = [{name: row[name] for name in ROWS[0]} for rows in everywhere.values() for row in rows]
    assert sorted(own, key=lambda row: row["id"]) == ROWS, "each once, as it was"
    assert {row["id"] for row in short} == DROPPED
    high = {name for name, score in scores.items() if score > median} - DROPPED
    assert {row["id"]: row["filter_reason"] for row in gone} == {
        **dict.fromkeys(high, "larf_score"),
        **dict.fromkeys(UNSCORABLE, "larf_unscorable"),
    }
    assert {row["id"] for row in everywhere["kept"]} == {row["id"] for row in ROWS} - high - UNSCORABLE - DROPPED
    assert len(high) > 5
    assert len(everywhere["kept"]) > 5
    for row in [*everywhere["kept"], *gone]:
        if row["id"] in UNSCORABLE:
            assert [row[name] for name in LARF] == [None, None, None, None, "empty_answer"]
        else:
            assert row["larf_score"] == pytest.approx(scores[row["id"]], abs=1e-6)
            assert (row["larf_score_l1"] + row["larf_score_l3"]) / 2 == pytest.approx(row["larf_score"], abs=1e-6)
            assert row["larf_issue"] is None
            assert row["larf_tokens"] > 10


@pytest.mark.parametrize("batch_size", [1, 2, 7, 1000])
def test_as_many_documents_come_out_as_go_in(batch_size, tiny_scorer, scores):
    given = documents_with(ROWS)
    found = list(LARFAnnotator(tiny_scorer, batch_size=batch_size).run(iter(given)))
    assert found == given
    assert [document.metadata[ROW] for document in found] == ROWS
    expected = [scores[row["id"]] for row in ROWS]
    np.testing.assert_allclose(
        np.array([document.metadata["larf_score"] for document in found], float), expected, atol=1e-6
    )

    excluded = Collect()
    step = LARFFilter(tiny_scorer, 0.0, exclusion_writer=excluded, batch_size=batch_size)
    kept = {document.metadata[ROW]["id"] for document in step.run(iter(documents_with(ROWS)))}
    assert kept == {name for name, score in scores.items() if score <= 0}
    assert sorted([*kept, *(document.metadata[ROW]["id"] for document in excluded.found)]) == [
        row["id"] for row in ROWS
    ]


class Collect:
    """An exclusion writer in memory."""

    def __init__(self) -> None:
        self.found: list[Document] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        pass

    def write(self, document: Document, rank: int = 0) -> None:
        self.found.append(document)


@pytest.mark.parametrize("more", [-1, 1])
@pytest.mark.parametrize("step", ["score", "filter"])
def test_more_or_fewer_scores_than_documents_fail_the_task(step, more, tiny_scorer, monkeypatch):
    """Whose score is whose would be a guess, and with fewer of them a document would be lost in silence."""
    annotate = LARFScorer.annotate

    def wrong_count(self, rows, columns, **options):
        return annotate(self, (rows * 2)[: len(rows) + more], columns, **options)

    monkeypatch.setattr(LARFScorer, "annotate", wrong_count)
    if step == "score":
        work = LARFAnnotator(tiny_scorer, batch_size=4)
    else:
        work = LARFFilter(tiny_scorer, 0.1, unscorable="keep", batch_size=4)
    with pytest.raises(
        ScorerError, match=f"4 documents were scored, and 'larf_score' came back with {4 + more} values"
    ):
        list(work.run(iter(documents_with(ROWS[1:7]))))


@pytest.mark.parametrize("order", ["scorable first", "unscorable first"])
@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_larf_keys_are_always_all_there_with_their_types(order, batch_size, tiny_scorer):
    rows = sorted(ROWS, key=lambda row: (row["answer"] is None) == (order == "scorable first"))
    found = list(LARFAnnotator(tiny_scorer, batch_size=batch_size).run(iter(documents_with(rows))))
    assert (found[0].metadata["larf_score"] is None) == (order == "unscorable first")
    kinds = [float, float, float, int, str]
    for document in found:
        assert list(document.metadata) == [ROW, *LARF]
        for name, kind in zip(LARF, kinds, strict=True):
            assert document.metadata[name] is None or type(document.metadata[name]) is kind
        scored = [document.metadata[name] is None for name in LARF]
        assert scored in ([False] * 4 + [True], [True] * 4 + [False])
    assert {document.metadata["larf_issue"] for document in found} == {None, "empty_answer"}


def test_keys_of_an_earlier_scorer_are_replaced(tiny_scorer):
    documents = documents_with(ROWS[:3])
    for document in documents:
        document.metadata |= {"larf_score": 9.0, "larf_score_l9": 9.0, "larf_issue": "too_long", "larf_own": 1}
    found = list(LARFAnnotator(tiny_scorer).run(iter(documents)))
    for document, fresh in zip(found, LARFAnnotator(tiny_scorer).run(iter(documents_with(ROWS[:3]))), strict=True):
        assert list(document.metadata) == [ROW, "larf_own", *LARF]
        assert {name: document.metadata[name] for name in LARF} == {name: fresh.metadata[name] for name in LARF}


def test_each_prefix_has_keys_of_its_own(saved, tiny_scorer):
    """Two steps score, a third decides by one of them; a fourth scores anew under a prefix that was there."""
    excluded = Collect()
    first, second = LARFAnnotator(saved, prefix="larf_b"), LARFAnnotator(tiny_scorer)
    decide = LARFFilter(None, 0.0, prefix="larf_b", exclusion_writer=excluded)
    again = LARFAnnotator(tiny_scorer.with_options(prefix="larf_b", turns="all"))
    documents = documents_with(ROWS)
    for step in (first, second):
        documents = list(step.run(iter(documents)))
    beside = [name.replace("larf", "larf_b") for name in LARF]
    assert all(list(document.metadata) == [ROW, *beside, *LARF] for document in documents)
    for document in documents:
        assert [document.metadata[name] for name in beside] == [document.metadata[name] for name in LARF]
        document.metadata["larf_score"] = 9.0
    assert first.stats["larf_b_tokens"].total == second.stats["larf_tokens"].total > 0

    kept = list(decide.run(iter(documents)))
    assert {document.metadata["filter_reason"] for document in excluded.found} == set(decide.reasons)
    assert decide.reasons == ("larf_b_score", "larf_b_unscorable")
    assert all(document.metadata["larf_b_score"] <= 0 for document in kept)
    assert len(kept) > 5
    (one,) = again.run(iter(kept[:1]))
    assert list(one.metadata) == [ROW, *LARF, *beside[:-2], "larf_b_turn", *beside[-2:]]
    assert one.metadata["larf_score"] == 9.0


def test_scores_of_each_prefix_are_written_and_others_stay_those_of_the_rows(tiny_scorer, tmp_path):
    """The rows bring scores of two prefixes, one of which is scored anew."""
    rows = [{**row, "old_score": 0.25, "old_tokens": 5, "old_issue": None} for row in ROWS[1:4]]
    before = [{**row, "mine_score": 0.5, "mine_tokens": 7, "mine_issue": "truncated"} for row in rows]
    source = pa.Table.from_pylist(before).schema
    schema = scored_schema(source, tiny_scorer.spec, "mine")
    step = LARFAnnotator(tiny_scorer, prefix="mine")
    with RowWriter(str(tmp_path), schema) as writer:
        for document in step.run(iter(documents_with(before))):
            writer.write(document)
    found = table(tmp_path)
    mine = [name.replace("larf", "mine") for name in LARF]
    assert found.column_names == [*rows[0], *mine]
    assert found.select(list(rows[0])).to_pylist() == rows
    np.testing.assert_array_equal(found["mine_score"].to_numpy(), tiny_scorer.score(rows, progress=False))
    assert found["mine_issue"].to_pylist() == [None] * 3


def test_scores_of_another_prefix_than_is_asked_for_are_not_lost(tiny_scorer, tmp_path):
    documents = list(LARFAnnotator(tiny_scorer, prefix="mine").run(iter(documents_with(ROWS[1:4]))))
    with pytest.raises(ThresholdError, match=r"no 'larf_score'.*or say which prefix= counts of mine_issue, mine_score"):
        list(LARFFilter(None, 0.1, unscorable="keep").run(iter(documents)))
    source = pa.Table.from_pylist(ROWS[1:4]).schema
    with pytest.raises(RowFormatError, match=r"the schema has 'larf_issue', and .* prefix=scorer.prefix"):
        table_of(documents, scored_schema(source, tiny_scorer.spec))
    assert table_of(documents, source).schema == source, "who asks for no score gets none"
    several = list(LARFAnnotator(tiny_scorer).run(iter(documents)))
    assert table_of(several, scored_schema(source, tiny_scorer.spec))["larf_score"].null_count == 0


@pytest.mark.parametrize("carried", [True, False])
def test_a_users_own_key_is_not_replaced(carried, tiny_scorer):
    row = {"question": "q", "answer": "a", "sample_weight": 0.5}
    documents = documents_with([row]) if carried else [Document("t", "1", metadata=row)]
    with pytest.raises(RowFormatError, match="'sample_weight' would be replaced"):
        list(LARFAnnotator(tiny_scorer, prefix="sample").run(iter(documents)))
    with pytest.raises(RowFormatError, match="a prefix of columns has lower-case letters"):
        LARFFilter(None, 0.1, unscorable="keep", prefix="Sample")


def test_why_documents_are_unscorable_is_said_out_of_a_fixed_list(tiny_scorer):
    rows = [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        {"messages": [{"role": "user", "content": "q"}]},
        {"messages": []},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": " "}]},
        {"messages": "q"},
        {"messages": [{"role": "who", "content": "q"}]},
        {"messages": [{"role": "user", "content": "word " * 900}, {"role": "assistant", "content": "a"}]},
    ]
    excluded = Collect()
    step = LARFFilter(tiny_scorer, 2.0, exclusion_writer=excluded)
    kept = list(step.run(iter(documents_with(rows))))
    assert [document.metadata["larf_issue"] for document in kept] == [None, "truncated"]
    issues = [document.metadata["larf_issue"] for document in excluded.found]
    assert issues == ["no_assistant_turn", "empty_conversation", "empty_answer", "wrong_type", "unknown_role"]
    assert {document.metadata["filter_reason"] for document in excluded.found} == {"larf_unscorable"}
    labels = {label for label in step.stats.stats if label.startswith(("issue_", "dropped_"))}
    assert labels <= {f"issue_{issue}" for issue in Issue} | {f"dropped_{reason}" for reason in step.reasons}
    assert "dropped_larf_unscorable" in labels


def test_plain_documents_are_rows_of_their_text_and_metadata(tiny_scorer):
    pair = {"prompt": "Why?", "completion": "So."}
    (found,) = LARFAnnotator(tiny_scorer).run(iter([Document("any", "1", metadata=dict(pair))]))
    assert found.metadata["larf_score"] == pytest.approx(tiny_scorer.score([pair], progress=False)[0], abs=1e-6)
    assert list(found.metadata) == [*pair, *LARF]

    def own(row: Any) -> list[dict[str, str]]:
        return [{"role": "user", "content": row["asked"]}, {"role": "assistant", "content": row["text"]}]

    (found,) = LARFAnnotator(tiny_scorer, format=own).run(iter([Document("So.", "1", metadata={"asked": "Why?"})]))
    assert found.metadata["larf_score"] == pytest.approx(tiny_scorer.score([pair], progress=False)[0], abs=1e-6)
    with pytest.raises(RowFormatError, match="text, id, asked"):
        list(LARFAnnotator(tiny_scorer).run(iter([Document("So.", "1", metadata={"asked": "Why?"})])))


def answer_of_the_row(row: Any) -> list[dict[str, str]]:
    return [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"] or ""}]


@pytest.mark.parametrize("given", ["path", "scorer"])
def test_format_and_options_reach_the_scorer(given, saved, tiny_scorer, scores, monkeypatch):
    seen = []
    get = get_encoder
    monkeypatch.setattr(
        "larf_curate.scoring.load_measure.get_encoder", lambda config, *rest: seen.append(config) or get(config, *rest)
    )
    scorer = saved if given == "path" else tiny_scorer
    step = LARFAnnotator(scorer, format=answer_of_the_row, device="cpu", batch_tokens=99)
    found = [document.metadata for document in step.run(iter(documents_with(ROWS[1:4])))]
    np.testing.assert_allclose([m["larf_score"] for m in found], [scores[row["id"]] for row in ROWS[1:4]], atol=1e-6)
    assert {(config.device, config.batch_tokens) for config in seen} == {("cpu", 99)}
    with pytest.raises(RowFormatError, match="'alpaca' needs the column"):
        list(LARFAnnotator(scorer, format="alpaca").run(iter(documents_with(ROWS[1:4]))))
    with pytest.raises(ValueError, match="batch_size must be 1 or more"):
        LARFAnnotator(scorer, batch_size=0)


def test_a_scorer_that_is_not_there_fails_the_task(tmp_path):
    with pytest.raises(ScorerError):
        execute([documents_with(ROWS[:1]), LARFAnnotator(str(tmp_path / "none"))], tmp_path / "logs", tasks=1)
    assert not list((tmp_path / "logs").glob("completions/*"))


def test_a_scorer_fitted_anew_in_the_same_place_is_read_anew(tiny_scorer, tmp_path):
    turned = dict(tiny_scorer._tensors, unsafe=tiny_scorer._tensors["safe"], safe=tiny_scorer._tensors["unsafe"])
    quantiles = reference_quantiles(turned, FittedFormula("larf", turned["unsafe"], turned["safe"]))
    found = []
    for scorer in (tiny_scorer, LARFScorer(replace(tiny_scorer.spec, quantiles=quantiles), turned)):
        scorer.save_pretrained(tmp_path / "scorer")
        (document,) = LARFAnnotator(str(tmp_path / "scorer")).run(iter(documents_with(ROWS[1:2])))
        found.append(document.metadata["larf_score"])
    assert found[0] == pytest.approx(-found[1], abs=1e-6)


# What goes where -----------------------------------------------------------------------------------------------------


def scored(*values: float | None) -> list[Document]:
    return [Document("t", str(i), metadata={"larf_score": value, "larf_issue": None}) for i, value in enumerate(values)]


@pytest.mark.parametrize("writer", [True, False])
@pytest.mark.parametrize(
    ("unscorable", "kept", "gone"),
    [
        ("separate", [0, 4], {1: "larf_unscorable", 2: "larf_score", 3: "larf_unscorable"}),
        ("keep", [0, 1, 3, 4], {2: "larf_score"}),
        ("remove", [0, 4], {1: "larf_unscorable", 2: "larf_score", 3: "larf_unscorable"}),
    ],
)
@pytest.mark.parametrize("in_threshold", [True, False])
def test_documents_without_a_score_go_where_the_caller_says(unscorable, kept, gone, writer, in_threshold):
    excluded = Collect() if writer else None
    if in_threshold:
        options: dict[str, Any] = {"threshold": Threshold.max_score(0.5, unscorable=unscorable)}
    else:
        options = {"max_score": 0.5, "unscorable": unscorable}
    if unscorable == "separate" and not writer:
        with pytest.raises(ThresholdError, match=r"would vanish.*exclusion_writer.*keep.*remove"):
            LARFFilter(None, **options)
        with pytest.raises(ThresholdError, match="would vanish"):
            LARFFilter(None, 0.5)
        return
    step = LARFFilter(None, exclusion_writer=excluded, **options)
    found = list(step.run(iter(scored(0.1, None, 0.9, float("nan"), 0.5))))
    assert [int(document.id) for document in found] == kept
    if excluded is not None:
        assert {int(document.id): document.metadata["filter_reason"] for document in excluded.found} == gone
    assert step.stats["forwarded"].total == len(kept)
    assert step.stats["dropped"].total == 5 - len(kept)


def test_reasons_are_a_fixed_set(tiny_scorer):
    step = LARFFilter(tiny_scorer, 0.0, unscorable="remove")
    list(step.run(iter(documents_with(ROWS))))
    assert step.reasons == ("larf_score", "larf_unscorable")
    labels = {label for label in step.stats.stats if label.startswith("dropped_")}
    assert labels == {"dropped_larf_score", "dropped_larf_unscorable"}


FITTED = Threshold.drop_top(2).fit([0.1, 0.5, 0.9, 0.5])


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"max_score": 0.5}, [0, 1, 3]),
        ({"max_score": 0}, []),
        ({"max_score": -1}, []),
        ({"max_score": 0.9}, [0, 1, 2, 3]),
        ({"threshold": Threshold.max_score(0.4)}, [0]),
        ({"threshold": FITTED}, [0]),
        ({"threshold": Threshold.drop_fraction(0.25).fit([0.1, 0.5, 0.9, 0.5])}, [0, 1, 3]),
        ({"threshold": Threshold.calibrated(0.25, [0.1, 0.2, 0.5])}, [0, 1, 3]),
        ({"threshold": FITTED.with_unscorable("keep")}, [0]),
    ],
    ids=str,
)
def test_a_threshold_or_a_highest_score(given, kept):
    step = LARFFilter(None, **given, unscorable="remove")
    found = list(step.run(iter(scored(0.1, 0.5, 0.9, 0.5, None))))
    assert [int(document.id) for document in found] == kept


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "max_score or a fitted threshold, and not both"),
        ({"max_score": 0.1, "threshold": FITTED}, "and not both"),
        ({"threshold": Threshold.drop_top(3)}, "needs a fitted threshold"),
        ({"threshold": Threshold.drop_fraction(0.1)}, "needs a fitted threshold"),
        ({"max_score": float("nan")}, "finite"),
        ({"max_score": 0.1, "unscorable": "drop"}, "separate, keep or remove"),
    ],
    ids=str,
)
def test_thresholds_that_decide_nothing_are_refused(given, told):
    with pytest.raises(ThresholdError, match=told):
        LARFFilter(None, **{"unscorable": "remove", **given})


def test_scoring_and_filtering_can_be_two_steps(data, saved, scores, median, tmp_path):
    def peek(documents: Iterator[Document], rank: int, tasks: int) -> Iterator[Document]:
        for document in documents:
            between.append(document.metadata[ROW]["id"])
            yield document

    between: list[str] = []
    removed = JsonlWriter(str(tmp_path / "removed"), compression=None)
    kept = JsonlWriter(str(tmp_path / "kept"), compression=None)
    steps = [reader(data), LARFAnnotator(saved), peek, LARFFilter(None, median, exclusion_writer=removed), kept]
    execute(steps, tmp_path / "logs")
    assert sorted(between) == [row["id"] for row in ROWS]
    expected = {name for name, score in scores.items() if score <= median}
    assert {line["metadata"][ROW]["id"] for line in lines(tmp_path / "kept")} == expected
    assert len(lines(tmp_path / "removed")) == COUNT - len(expected)


def test_a_filter_without_any_score_fails_the_task(data, tmp_path):
    removed = JsonlWriter(str(tmp_path / "removed"), compression=None)
    with pytest.raises(ThresholdError, match="no 'larf_score': give a scorer, or put a LARFAnnotator step before"):
        execute([reader(data), LARFFilter(None, 0.1, exclusion_writer=removed)], tmp_path / "logs")
    assert not list((tmp_path / "logs").glob("completions/*"))
    with pytest.raises(ThresholdError, match="no 'larf_score'"):
        LARFFilter(None, 0.1, unscorable="keep").filter(Document("t", "1", metadata={"larf_issue": None}))


# Tasks that fail, and run again --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lines", "rows"])
def test_an_exclusion_writer_that_fails_fails_the_task(kind, data, tiny_scorer, scores, median, tmp_path):
    schema = scored_schema(open_source(str(data / "jsonl")).schema, tiny_scorer.spec)
    kept, removed, logs = tmp_path / "kept", tmp_path / "removed", tmp_path / "logs"

    def steps() -> list[Any]:
        if kind == "lines":
            writer = JsonlWriter(str(removed), compression=None)
        else:
            writer = RowWriter(str(removed), schema.append(pa.field("filter_reason", pa.string())))
        return [reader(data), LARFFilter(tiny_scorer, median, exclusion_writer=writer), RowWriter(str(kept), schema)]

    removed.mkdir()
    full = removed / ("00001.jsonl" if kind == "lines" else ".00001.parquet.part")
    full.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        execute(steps(), logs)
    assert [path.name for path in (logs / "completions").iterdir()] == ["00000"]
    assert [path.name for path in kept.iterdir()] == ["00000.parquet"], "nothing of the failed task looks done"
    assert full.is_symlink() == (kind == "lines"), "our writer leaves nothing; datatrove's its half file"
    full.unlink(missing_ok=True)

    execute(steps(), logs)
    assert sorted(path.name for path in (logs / "completions").iterdir()) == [f"0000{i}" for i in range(TASKS)]
    written = lines(removed)
    gone = [line["metadata"][ROW]["id"] for line in written] if written else table(removed)["id"].to_pylist()
    assert sorted([*gone, *table(kept)["id"].to_pylist()]) == [row["id"] for row in ROWS]
    assert {*gone} == {name for name, score in scores.items() if np.isnan(score) or score > median}


# One model a process -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["path", "scorer"])
def test_the_model_is_loaded_once_whatever_the_number_of_tasks(given, data, saved, tiny_scorer, tmp_path, monkeypatch):
    calls = []
    load = runtime.load_model
    monkeypatch.setattr(runtime, "load_model", lambda *args: calls.append(args) or load(*args))
    runtime.unload_models()
    scorer = saved if given == "path" else tiny_scorer
    steps = [reader(data), LARFAnnotator(scorer), LARFFilter(scorer, 0.0, unscorable="remove")]
    execute(steps, tmp_path / "logs", tasks=5)
    assert len(list((tmp_path / "logs" / "completions").iterdir())) == 5
    assert len(calls) == 1


def noted(log: Path, rank: int | None, **what: Any) -> None:
    with log.open("a") as file:
        file.write(json.dumps({"pid": os.getpid(), "rank": rank, **what}) + "\n")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_workers_load_one_model_each_and_keep_their_device(data, saved, tiny_scorer, tmp_path, monkeypatch):
    log, load, find = tmp_path / "log.jsonl", runtime.load_model, runtime.find_device
    monkeypatch.setattr(runtime, "load_model", lambda *args: noted(log, None, load=True) or load(*args))
    monkeypatch.setattr(
        runtime, "find_device", lambda device, number=None: noted(log, None, number=number) or find(device, number)
    )
    runtime.unload_models()  # else the workers would have them from this process
    datatrove_annotator._load.cache_clear()

    def spy(documents: Iterator[Document], rank: int, tasks: int) -> Iterator[Document]:
        noted(log, rank, start=True)
        time.sleep(0.1)  # so that no worker takes all the tasks
        yield from documents

    with multiprocess.get_context("fork").Pool(1) as pool:  # so that the workers' numbers do not begin at 0
        pool.map(abs, [1])
    written = str(tmp_path / "out")
    filtered = LARFFilter(tiny_scorer, 0.0, exclusion_writer=JsonlWriter(written, compression=None))
    kept = JsonlWriter(written, "kept-${rank}.jsonl", compression=None)
    steps = [reader(data), spy, LARFAnnotator(saved), filtered, kept]
    execute(steps, tmp_path / "logs", tasks=6, workers=2, start_method="fork")
    notes = [json.loads(line) for line in log.open()]
    assert sorted(note["rank"] for note in notes if "start" in note) == list(range(6))
    loads = Counter(note["pid"] for note in notes if "load" in note)
    assert 1 <= len(loads) <= 2
    assert os.getpid() not in loads
    assert set(loads.values()) == {1}, "one a process, whatever the number of its tasks and steps"
    numbers = {(note["pid"], note["number"]) for note in notes if "number" in note}
    assert len(numbers) == len(dict(numbers)), "one device a process, whatever the rank"
    assert len({number % 2 for _, number in numbers}) == len(numbers), "two processes on two devices"
    assert sorted(line["metadata"][ROW]["id"] for line in lines(tmp_path / "out")) == [row["id"] for row in ROWS]


SENT = """
import sys
import dill
from datatrove.executor import LocalPipelineExecutor
from larf_curate import LARFFilter, LARFScorer
from larf_curate.engines.datatrove_annotator import LARFAnnotator

saved = sys.argv[1]
steps = [LARFAnnotator(saved), LARFFilter(LARFScorer.from_pretrained(saved), 0.0, unscorable="remove")]
dill.dumps(LocalPipelineExecutor(steps, tasks=6, workers=2))
assert "torch" not in sys.modules
"""


def test_a_process_that_sends_steps_to_workers_loads_no_torch(saved):
    """A CUDA context in it would be what no worker could undo."""
    subprocess.run([sys.executable, "-c", SENT, saved], check=True, timeout=110)


def numbers_in(processes: Any) -> list[int | None]:
    with processes.Pool(3, initializer=set_barrier, initargs=(processes.Barrier(3),)) as pool:
        return pool.map(number_together, range(3), chunksize=1)


def set_barrier(barrier: Any) -> None:
    number_together.barrier = barrier


def number_together(_: int) -> int | None:
    number_together.barrier.wait(60)  # each worker takes one
    return process_number()


@pytest.mark.parametrize("library", ["multiprocess", "multiprocessing"])
def test_the_workers_of_a_pool_are_numbered(library):
    import multiprocessing

    assert process_number() is None
    processes = {"multiprocess": multiprocess, "multiprocessing": multiprocessing}[library].get_context("fork")
    found = sorted(numbers_in(processes))
    assert found == list(range(found[0], found[0] + 3)), "in a row: modulo any count of devices they spread evenly"
    assert found[0] >= 0
    assert process_number() is None


@pytest.mark.parametrize("number", [None, 0, 5])
def test_a_tasks_rank_never_chooses_the_device(number, tiny_scorer, monkeypatch):
    import torch

    seen = []
    find = runtime.find_device

    def found(device: str | None, rank: int | None = None) -> torch.device:
        with monkeypatch.context() as patch:
            patch.setattr(torch.cuda, "is_available", lambda: True)
            patch.setattr(torch.cuda, "device_count", lambda: 4)
            seen.append(str(find(device, rank)))
        return torch.device("cpu")

    monkeypatch.setattr(runtime, "find_device", found)
    monkeypatch.setattr(datatrove_annotator, "process_number", lambda: number)
    for rank in (0, 1, 2, 3, 5):
        for step in (LARFAnnotator(tiny_scorer), LARFFilter(tiny_scorer, 0.1, unscorable="keep")):
            assert len(list(step.run(iter(documents_with(ROWS[:3])), rank, 6))) > 0
    assert set(seen) == {f"cuda:{(number or 0) % 4}"}
    assert len(seen) == 10


# Batches -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def batches(monkeypatch) -> list[list[str]]:
    """The ids of the rows that were scored together."""
    seen: list[list[str]] = []
    annotate = LARFScorer.annotate

    def note(self: LARFScorer, rows: Any, *args: Any, **options: Any) -> Scores:
        seen.append([row["id"] for row in rows])
        return annotate(self, rows, *args, **options)

    monkeypatch.setattr(LARFScorer, "annotate", note)
    return seen


def test_a_batch_never_joins_two_shards(batches, tiny_scorer):
    step = LARFAnnotator(tiny_scorer, batch_size=3)
    found = list(step.run(iter(documents_with(ROWS[:10], "aaaabbcddd"))))
    assert [document.metadata[ROW] for document in found] == ROWS[:10]
    assert batches == [["000", "001", "002"], ["003"], ["004", "005"], ["006"], ["007", "008", "009"]]


@pytest.mark.parametrize("size", [1, 4, 10, 11])
def test_a_batch_holds_at_most_so_many_documents(size, batches, tiny_scorer):
    list(LARFAnnotator(tiny_scorer, batch_size=size).run(iter(documents_with(ROWS[:10]))))
    ids = [row["id"] for row in ROWS[:10]]
    assert batches == [ids[i : i + size] for i in range(0, 10, size)]


def test_a_batch_holds_at_most_so_many_characters(batches, tiny_scorer, monkeypatch):
    monkeypatch.setattr(datatrove_annotator, "_MAX_CHARACTERS", 100)
    given = documents_with(ROWS[:7])
    for document, length in zip(given, [40, 60, 1, 99, 101, 300, 1], strict=True):
        document.text = "x" * length
    found = list(LARFAnnotator(tiny_scorer).run(iter(given)))
    assert batches == [["000", "001"], ["002", "003"], ["004"], ["005"], ["006"]]
    assert found == given


def test_no_more_than_a_batch_is_read_ahead(tiny_scorer):
    taken = []

    def watched() -> Iterator[Document]:
        for document in documents_with(ROWS[:9]):
            taken.append(document)
            yield document

    found = LARFAnnotator(tiny_scorer, batch_size=3).run(watched())
    next(found)
    assert len(taken) <= 4


@pytest.mark.parametrize("first", [{"question": "q"}, {"answer": "a"}], ids=str)
@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_column_once_seen_is_remembered(first, batch_size, tiny_scorer):
    """JSON lines leave out what is null: which format it is shows in all the rows so far, not in each batch."""
    rows = [{"question": "q", "answer": "a"}, first, {"question": "q", "answer": "b"}]
    step = LARFAnnotator(tiny_scorer, batch_size=batch_size)
    found = [document.metadata["larf_issue"] for document in step.run(iter(documents_with(rows)))]
    assert found == [None, None if "answer" in first else "empty_answer", None]


# Threads -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def threads() -> Iterator[Callable[[], int]]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield torch.get_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [(0, "2", 2), (0, "-1", 4), (0, None, 4), (0, "8", 4), (1, None, 1), (3, "2", 3), (1, "2", 1), (9, "-1", 4)],
)
@pytest.mark.parametrize("kind", [LARFAnnotator, LARFFilter])
def test_threads_are_limited_to_what_the_task_was_given(
    given, environment, expected, kind, threads, tiny_scorer, monkeypatch
):
    monkeypatch.delenv("DATATROVE_CPUS_PER_TASK", raising=False)
    if environment:
        monkeypatch.setenv("DATATROVE_CPUS_PER_TASK", environment)
    options: dict[str, Any] = {} if kind is LARFAnnotator else {"max_score": 0.1, "unscorable": "keep"}
    step = kind(tiny_scorer, threads=given, **options)
    scoring = step if kind is LARFAnnotator else step.annotator
    seen = []
    monkeypatch.setattr(scoring, "rows_done", lambda _: seen.append(threads()))
    list(step.run(iter(documents_with(ROWS[:1]))))
    assert seen == [expected]
    assert threads() == 4, "a notebook in which the step ran goes on with its own number"


# What travels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", [pickle, dill])
def test_steps_travel_light(library, saved, tiny_scorer, scores):
    list(tiny_scorer.annotate(ROWS[:2]).columns())
    for scorer, limit in ((saved, 2_000), (tiny_scorer, 1_500_000)):
        for step in (LARFAnnotator(scorer), LARFFilter(scorer, 0.1, unscorable="keep", batch_size=7)):
            before = library.dumps(step)
            assert len(before) < limit
            list(step.run(iter(documents_with(ROWS[:9]))))
            after = library.dumps(step)
            assert len(after) < limit
            found = list(library.loads(after).run(iter(documents_with(ROWS[1:4]))))
            assert [document.metadata["larf_score"] for document in found] == pytest.approx(
                [scores[document.metadata[ROW]["id"]] for document in found], abs=1e-6
            )


@pytest.mark.parametrize("through", [copy.deepcopy, lambda step: dill.loads(dill.dumps(step))], ids=["copy", "dill"])
def test_a_copied_filter_still_counts_as_one_step(through, tiny_scorer):
    """The executor copies each step for each task, and reads the figures off the copy."""
    step = LARFFilter(tiny_scorer, 0.0, unscorable="remove")
    copied = through(step)
    list(copied.run(iter(documents_with(ROWS))))
    assert copied.stats["issue_empty_answer"].total == copied.stats["dropped_larf_unscorable"].total == EMPTY
    assert not step.stats.stats


@pytest.mark.parametrize("given", ["path", "scorer"])
def test_nothing_private_or_large_is_written_down(given, data, saved, tiny_scorer, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    scorer = saved if given == "path" else tiny_scorer
    tiny_scorer.annotate(ROWS[:2])
    schema = scored_schema(open_source(str(data / "jsonl")).schema, tiny_scorer.spec)
    steps = [
        reader(data),
        LARFAnnotator(scorer, format=answer_of_the_row),
        LARFFilter(scorer, threshold=FITTED, exclusion_writer=JsonlWriter(str(tmp_path / "removed"))),
        RowWriter(str(tmp_path / "kept"), schema),
    ]
    list(steps[1].run(iter(documents_with(ROWS[:2]))))
    assert b"hf_secret" not in pickle.dumps(steps[1:3])
    execute(steps, tmp_path / "logs", tasks=1)
    told = json.loads((tmp_path / "logs" / "executor.json").read_text())
    assert len(json.dumps(told)) < 20_000
    assert told["pipeline"][2]["threshold"]["value"] == FITTED.value
    for path in (tmp_path / "logs").rglob("*"):
        if path.is_file():
            content = path.read_text()
            for word in ("hf_secret", "tensor(", "array(", "Llama", "Parameter containing"):
                assert word not in content, (path, word)


# Figures -------------------------------------------------------------------------------------------------------------


def three_tasks(data: Path, scorer: Any, median: float, tmp_path: Path) -> Path:
    removed = JsonlWriter(str(tmp_path / "removed"))
    steps = [reader(data), LARFFilter(scorer, median, exclusion_writer=removed, batch_size=5)]
    execute(steps, tmp_path / "logs")
    return tmp_path / "logs"


def test_counts_add_up_over_tasks(data, tiny_scorer, scores, median, tmp_path):
    found = stats_of(three_tasks(data, tiny_scorer, median, tmp_path), "FILTER: 🧭 LARF")
    high = sum(score > median for score in scores.values())
    assert {label: total(value) for label, value in found.items() if label not in ("total", "doc_len")} == {
        "forwarded": COUNT - high - EMPTY,
        "dropped": high + EMPTY,
        "dropped_larf_score": high,
        "dropped_larf_unscorable": EMPTY,
        "issue_empty_answer": EMPTY,
        "larf_tokens": sum(token or 0 for token in tiny_scorer.annotate(ROWS).tokens),
    }


def test_a_filter_counts_each_document_once(data, tiny_scorer, median, tmp_path):
    found = stats_of(three_tasks(data, tiny_scorer, median, tmp_path), "FILTER: 🧭 LARF")
    assert total(found["total"]) == COUNT == total(found["forwarded"]) + total(found["dropped"])


def test_scores_are_no_statistic(data, saved, tiny_scorer, median, tmp_path):
    """datatrove writes 0 for figures that sum to zero, as scores can."""
    execute([reader(data), LARFAnnotator(saved)], tmp_path / "logs")
    found = stats_of(tmp_path / "logs", "SCORER: 🧭 LARF")
    assert total(found["total"]) == COUNT
    assert set(found) == {"total", "issue_empty_answer", "larf_tokens"}
    assert found["larf_tokens"]["min"] >= 0
    step = LARFFilter(tiny_scorer, median, unscorable="remove")
    list(step.run(iter(documents_with(ROWS))))
    assert all(figure.min >= 0 and type(figure.total) is int for figure in step.stats.stats.values())


# Documentation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [datatrove_annotator, documents])
def test_the_examples_hold(module):
    found = doctest.testmod(module)
    assert found.failed == 0
    assert found.attempted >= (module is datatrove_annotator)


def test_the_example_of_the_adapter(data):
    assert 'JsonlReader("data/", adapter=carry_row)' in carry_row.__doc__
    found = list(reader(data).run())
    assert [document.metadata[ROW] for document in found] == ROWS
    assert all(type(document.metadata[ROW]) is CarriedRow for document in found)


def test_what_datatroves_steps_need_is_declared():
    """Each step asks for its packages by name when it is made, and raises where one is not installed."""
    declared = {re.split(r"[^\w.-]", line)[0] for line in importlib.metadata.requires("larf-curate") or ()}
    for step in (LARFAnnotator, LARFFilter, RowWriter, LambdaFilter, JsonlReader, JsonlWriter, ParquetReader):
        needed = {name for kind in step.mro() for name in getattr(kind, "_requires_dependencies", ())}
        assert needed <= declared, step
