"""Datasets as people hold them: every format of `datasets`, every way to hand over rows. It works, or a line says how.

A table: kinds of rows, formats, and ways to score; what comes out is what the plain rows score.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, IterableDataset, Value

from larf_curate import LARFAnnotator, LARFFilter, LARFScorer, Threshold, score_dataset
from larf_curate.errors import RowFormatError, ThresholdError
from larf_curate.models import devices
from larf_curate.scoring import scorer as scorer_module
from larf_curate.scoring.plain_rows import plain_row

pytestmark = pytest.mark.usefixtures("no_row_is_run")

COUNT = 5


def turns(number: int, **more: Any) -> list[dict[str, Any]]:
    answer = "It is " + "very " * number + f"{number}."
    return [{"role": "user", "content": f"What is {number}?", **more}, {"role": "assistant", "content": answer, **more}]


ROWS: dict[str, list[dict[str, Any]]] = {
    "texts, numbers and no answer": [
        {"question": f"Add {n}.", "answer": f"It is {n}." if n != 1 else None, "n": n, "part": n / 3, "yes": n > 2}
        for n in range(COUNT)
    ],
    "a vector": [{"prompt": f"Say {n}.", "completion": "Well " * n + "so.", "v": [0.5] * 3} for n in range(COUNT)],
    "turns": [{"messages": turns(n), "n": n} for n in range(COUNT)],
    "turns with weights": [{"messages": turns(n, weight=1.0), "n": n} for n in range(COUNT)],
    "a choice": [{"question": f"Which {n}?", "choices": ["a", "b", str(n)], "answer": n % 3} for n in range(COUNT)],
    "preferences": [{"prompt": f"Say {n}.", "chosen": f"Yes {n}.", "rejected": "No."} for n in range(COUNT)],
}
ARRAYS, TABLES = ("numpy", "torch"), ("pandas", "arrow")


@pytest.fixture(scope="module")
def expected(tiny_scorer: LARFScorer) -> dict[str, np.ndarray]:
    return {kind: tiny_scorer.score(rows, progress=False) for kind, rows in ROWS.items()}


def make(kind: str, form: str | None, streaming: bool = False) -> Any:
    dataset = Dataset.from_list(ROWS[kind])
    return (dataset.to_iterable_dataset() if streaming else dataset).with_format(form)


def scores_in(dataset: Any) -> np.ndarray:
    return np.array([row["larf_score"] for row in dataset.with_format(None)], float)


WAYS: dict[str, Callable[[Any, LARFScorer], np.ndarray]] = {
    "map in batches": lambda dataset, scorer: scores_in(dataset.map(scorer, batched=True, batch_size=2)),
    "map row by row": lambda dataset, scorer: scores_in(dataset.map(scorer)),
    "score_dataset": lambda dataset, scorer: scores_in(score_dataset(dataset, scorer, batch_size=2)),
    "score": lambda dataset, scorer: scorer.score(dataset, progress=False),
    "score a list": lambda dataset, scorer: scorer.score(list(dataset), progress=False),
    "annotate": lambda dataset, scorer: scorer.annotate(dataset).score,
    "annotate a list": lambda dataset, scorer: scorer.annotate(list(dataset)).score,
}
BY_ROWS = ("map in batches", "map row by row", "score a list", "annotate a list")
"""Ways in which our code gets what the format makes of rows, and cannot ask the dataset for something else."""


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("streaming", [False, True], ids=["dataset", "stream"])
@pytest.mark.parametrize("form", [*ARRAYS, *TABLES])
@pytest.mark.slow
def test_every_format_scores_as_plain_rows_do_or_says_what_to_do(
    tiny_scorer: LARFScorer, expected: dict[str, np.ndarray], form: str, streaming: bool, way: str
) -> None:
    for kind in ROWS if form in ARRAYS else ["turns with weights"]:
        dataset = make(kind, form, streaming)
        if form in TABLES and way in BY_ROWS:
            with pytest.raises(RowFormatError, match=r"\.with_format\(None\)"):
                WAYS[way](dataset, tiny_scorer)
        else:
            np.testing.assert_allclose(WAYS[way](dataset, tiny_scorer), expected[kind], atol=1e-4, err_msg=kind)


@pytest.mark.parametrize("form", [None, *ARRAYS, *TABLES])
@pytest.mark.parametrize("streaming", [False, True], ids=["dataset", "stream"])
def test_a_scored_dataset_keeps_its_format(tiny_scorer: LARFScorer, form: str | None, streaming: bool) -> None:
    scored = score_dataset(make("turns", form, streaming), tiny_scorer)
    first = next(iter(scored))
    assert type(first) is type(next(iter(make("turns", form, streaming))))
    assert "larf_score" in (first.column_names if form == "arrow" else first)
    if not streaming:
        chosen = make("turns", form).with_format(form, columns=["messages"])
        assert set(score_dataset(chosen, tiny_scorer).format["columns"]) == {
            "messages",
            *(name for name in scored.column_names if name.startswith("larf_")),
        }
    empty = make("turns", form).select([])
    assert score_dataset(empty, tiny_scorer).format["type"] == form


@pytest.mark.parametrize("way", ["map in batches", "map row by row", "score_dataset", "score", "annotate"])
def test_a_transform_decides_what_the_rows_are(
    tiny_scorer: LARFScorer, expected: dict[str, np.ndarray], way: str
) -> None:
    raw = Dataset.from_list([{"number": row["n"]} for row in ROWS["turns"]])
    shown = raw.with_transform(lambda batch: {"messages": [turns(number) for number in batch["number"]]})
    np.testing.assert_allclose(WAYS[way](shown, tiny_scorer), expected["turns"], atol=1e-4)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("form", ["polars", "jax"])
def test_formats_of_libraries_that_few_have(
    tiny_scorer: LARFScorer, expected: dict[str, np.ndarray], form: str, way: str
) -> None:
    """Without the library `datasets` itself says, at the first row, that it is missing."""
    pytest.importorskip(form)
    dataset = make("turns", form)
    if form == "polars" and way in BY_ROWS:
        with pytest.raises(RowFormatError, match=r"\.with_format\(None\)"):
            WAYS[way](dataset, tiny_scorer)
    else:
        np.testing.assert_allclose(WAYS[way](dataset, tiny_scorer), expected["turns"], atol=1e-4)


def test_what_a_transform_raises_is_not_hidden(tiny_scorer: LARFScorer) -> None:
    def failing(_batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        raise ValueError("no such file")

    with pytest.raises(ValueError, match="no such file"):
        tiny_scorer.score(make("turns", None).with_transform(failing))


def test_arrays_at_any_depth_become_plain_values() -> None:
    import torch

    nested = {"turns": np.array([{"weight": np.float32(1), "ids": torch.tensor([[1, 2]])}], dtype=object)}
    assert plain_row({"a": nested, "b": torch.tensor(3), "c": ("x", np.str_("y"))}, "abc") == {
        "a": {"turns": [{"weight": 1.0, "ids": [[1, 2]]}]},
        "b": 3,
        "c": ["x", "y"],
    }


@pytest.mark.parametrize("depth", [150, 100_000])
def test_a_value_that_is_nested_deep_makes_one_row_unscorable(tiny_scorer: LARFScorer, depth: int) -> None:
    deep: Any = []
    for _ in range(depth):
        deep = [deep]
    rows = [{"messages": deep}, {"messages": turns(1)}, {"messages": [{"role": "user", "content": deep}]}]
    found = tiny_scorer.annotate(rows)
    assert found.issues == ["wrong_type", None, "wrong_type"]
    assert tiny_scorer.annotate([{"messages": turns(1), "tools": deep}]).issues == ["wrong_type"]
    assert tiny_scorer.annotate([{"messages": turns(1), "more": deep}]).issues == [None], "nobody reads that column"


# What is no rows ------------------------------------------------------------------------------------------------------


def no_rows() -> dict[str, tuple[Any, str]]:
    dataset = Dataset.from_list(ROWS["turns"])
    return {
        "splits": (DatasetDict({"train": dataset}), r"dictionary of splits.*score_dataset\(dataset, scorer\)"),
        "one row": (ROWS["turns"][0], r"this is one row.*\[row\]"),
        "a data frame": (dataset.to_pandas(), "this is DataFrame: pass a Dataset"),
        "a table": (dataset.data.table, r"this is Table: .*Dataset\(table\)"),
        "texts": (["a", "b"], "this is str"),
        "a text": ("a", "this is str"),
        "nothing": (None, "this is NoneType"),
    }


@pytest.mark.parametrize("kind", no_rows())
def test_what_is_no_rows_is_refused_with_what_to_pass(tiny_scorer: LARFScorer, kind: str) -> None:
    rows, message = no_rows()[kind]
    for method in (tiny_scorer.score, tiny_scorer.annotate):
        with pytest.raises(RowFormatError, match=message):
            method(rows)


# What `map` passes beside the rows ------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True], ids=["dataset", "stream"])
@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("columns", [["question", "answer"], ["question"], ["n"], ["answer", "n"]], ids=str)
@pytest.mark.parametrize("form", [None, "torch", "pandas"])
def test_columns_that_are_passed_by_themselves_are_refused_with_the_fix(
    tiny_scorer: LARFScorer, form: str | None, columns: list[str], batched: bool, streaming: bool
) -> None:
    dataset = make("texts, numbers and no answer", form, streaming)
    with pytest.raises(RowFormatError, match="leave input_columns= out of map"):
        list(dataset.map(tiny_scorer, input_columns=columns, batched=batched))


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("numbers", [("indices",), ("rank",), ("indices", "rank")], ids="+".join)
@pytest.mark.parametrize("form", [None, "torch"])
def test_an_index_never_chooses_a_device(
    tiny_scorer: LARFScorer,
    expected: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    form: str | None,
    numbers: tuple[str, ...],
    batched: bool,
) -> None:
    """Neither the rows' places nor, without workers, anything else says which of several devices to take."""
    asked: list[int | None] = []
    load = scorer_module.load_measure

    def spied(*arguments: Any) -> Any:
        asked.append(arguments[3])
        return load(*arguments)

    monkeypatch.setattr(scorer_module, "load_measure", spied)
    options = {f"with_{name}": True for name in numbers}
    scored = make("turns", form).map(tiny_scorer, batched=batched, batch_size=2, **options)
    np.testing.assert_allclose(scores_in(scored), expected["turns"], atol=1e-4)
    assert set(asked) <= {None, 0}


@pytest.mark.parametrize("numbers", [(), (7,), (7, None)], ids=str)
def test_a_worker_takes_its_device_by_its_number_where_map_passes_none(
    tiny_scorer: LARFScorer, monkeypatch: pytest.MonkeyPatch, numbers: tuple[Any, ...]
) -> None:
    asked: list[int | None] = []
    load = scorer_module.load_measure
    monkeypatch.setattr(scorer_module, "load_measure", lambda *args: asked.append(args[3]) or load(*args))
    monkeypatch.setattr(scorer_module, "process_number", lambda: 2)
    tiny_scorer(ROWS["turns"][0], *numbers)
    tiny_scorer(ROWS["turns"][0], *numbers, rank=1)
    assert asked == [2, 1]
    assert devices.process_number() is None


# Steps of datatrove, and thresholds -----------------------------------------------------------------------------------


def test_steps_of_datatrove_say_that_they_are_none_of_map(tiny_scorer: LARFScorer) -> None:
    steps = LARFAnnotator(tiny_scorer), LARFFilter(tiny_scorer, 0.1, unscorable="keep")
    for step in steps:
        for options in ({}, {"batched": True}):
            with pytest.raises(RowFormatError, match=r"datatrove.*dataset\.map\(scorer, batched=True\)"):
                make("turns", None).map(step, **options)
            with pytest.raises(RowFormatError, match=r"threshold\.split\(dataset\)"):
                make("turns", None).filter(step, **options)


SCORED = Dataset.from_dict({"n": [0, 1, 2, 3], "larf_score": [0.1, 0.3, 0.2, 0.4], "larf_issue": [None] * 4})
SCORED = SCORED.cast_column("larf_score", Value("float32"))


@pytest.mark.parametrize("form", [None, *ARRAYS, *TABLES])
def test_a_threshold_fits_a_column_in_any_format(form: str | None) -> None:
    column = SCORED.with_format(form)["larf_score"]
    for scores in (column, column[:]):
        threshold = Threshold.drop_top(1).fit(scores)
        assert (threshold.rows, threshold.removed) == (4, 1)


@pytest.mark.parametrize("form", [None, *ARRAYS, *TABLES])
@pytest.mark.parametrize("streaming", [False, True], ids=["dataset", "stream"])
@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("columns", [None, "larf_score", ["larf_score"]], ids=str)
@pytest.mark.parametrize("indices", [False, True])
def test_filter_with_keep_works_or_says_what_to_do(
    form: str | None, streaming: bool, batched: bool, columns: Any, indices: bool
) -> None:
    threshold = Threshold.drop_top(2).fit(SCORED["larf_score"])
    dataset = (SCORED.to_iterable_dataset() if streaming else SCORED).with_format(form)
    options = {"input_columns": columns, "batched": batched, "with_indices": indices}
    if form == "arrow" and columns is None and not (batched or streaming):
        # `datasets` fails before it calls anybody: docs/troubleshooting.md has the words of this, and what to write.
        with pytest.raises(AttributeError, match=r"'pyarrow\.lib\.Table' object has no attribute 'keys'"):
            dataset.filter(threshold.keep, **options)
        return
    tables_at_once = form in TABLES and streaming
    refused = pytest.raises(ThresholdError, match=r'input_columns="larf_score".*threshold\.split\(dataset\)')
    with refused if columns is None or batched or tables_at_once else nullcontext():
        kept = list(dataset.filter(threshold.keep, **options).with_format(None))
        assert [row["n"] for row in kept] == [0, 2]


@pytest.mark.parametrize("form", [None, *ARRAYS, *TABLES])
@pytest.mark.parametrize("streaming", [False, True], ids=["dataset", "stream"])
def test_split_takes_every_format(form: str | None, streaming: bool) -> None:
    dataset = (SCORED.to_iterable_dataset() if streaming else SCORED).with_format(form)
    parts = Threshold.drop_top(2).split(dataset)
    assert isinstance(parts.kept, IterableDataset if streaming else Dataset)
    assert [row["n"] for row in parts.kept.with_format(None)] == [0, 2]
    assert [row["n"] for row in parts.removed.with_format(None)] == [1, 3]


@pytest.mark.parametrize("streaming", [False, True], ids=["dataset", "stream"])
def test_fit_refuses_datasets_with_the_fix(streaming: bool) -> None:
    dataset = SCORED.to_iterable_dataset() if streaming else SCORED
    for given in (dataset, DatasetDict({"train": dataset}), {"train": dataset}):
        with pytest.raises(ThresholdError, match=r"threshold\.split\(dataset\)"):
            Threshold.drop_top(1).fit(given)
