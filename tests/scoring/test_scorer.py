"""The scorer on a tiny random model: its numbers, its columns, and every way of `Dataset.map`."""

from __future__ import annotations

import datetime
import gc
import hashlib
import json
import os
import pickle
import pickletools
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats
from datasets import Dataset, load_from_disk
from datasets.fingerprint import Hasher
from support.models import WIDE, make_model
from transformers import LlamaConfig

from larf_curate import LARFScorer, Threshold
from larf_curate.encoding import runtime
from larf_curate.errors import Issue, ModelError, ReferencesError, RowFormatError, ScorerError
from larf_curate.rows.rendering import Renderer
from larf_curate.scoring import annotating
from larf_curate.scoring.model_check import least_cosine
from larf_curate.scoring.records import Separation
from larf_curate.scoring.scores import Scores

Rows = list[dict[str, Any]]
COLUMNS = ["larf_score", "larf_score_l1", "larf_score_l3", "larf_tokens", "larf_issue"]
TYPES = [pa.float32(), pa.float32(), pa.float32(), pa.int32(), pa.string()]


def turns(*said: str) -> list[dict[str, str]]:
    return [{"role": "assistant" if n % 2 else "user", "content": text} for n, text in enumerate(said)]


def shared(*said: str) -> list[dict[str, str]]:
    return [{"from": "gpt" if n % 2 else "human", "value": text} for n, text in enumerate(said)]


EXCHANGES = [
    ("How deep is the lake?", "Twelve metres at the pier."),
    ("Name a bird that cannot fly.", "The kiwi. It lives in New Zealand, and sleeps by day."),
    ("Say hello.", "Hello!"),
    ("Explain how to tie a bow.", "1. Cross the ends.\n2. Make two loops.\n3. Tie them."),
    ("Who wrote the letter?", "   "),
]
CALL = [{"id": "x", "type": "function", "function": {"name": "find", "arguments": '{"what": "key"}'}}]
ROWS: dict[str, Rows] = {
    "alpaca": [{"instruction": ask, "input": "", "output": answer} for ask, answer in EXCHANGES],
    "dolly": [{"instruction": ask, "context": "By the sea.", "response": answer} for ask, answer in EXCHANGES],
    "question-answer": [{"question": ask, "answer": answer} for ask, answer in EXCHANGES],
    "prompt-completion": [{"prompt": ask, "completion": answer} for ask, answer in EXCHANGES],
    "prompt-completion turns": [{"prompt": turns(a), "completion": turns("", b)[1:]} for a, b in EXCHANGES],
    "messages": [{"messages": turns(ask, answer)} for ask, answer in EXCHANGES],
    "messages with calls": [
        {"messages": [*turns(ask), {"role": "assistant", "content": "", "tool_calls": CALL}]} for ask, _ in EXCHANGES
    ],
    "messages without any": [{"messages": []}, *({"messages": turns(*pair)} for pair in EXCHANGES[:3])],
    "sharegpt": [{"conversations": shared("Hi", "Hello.", *pair), "system": "Be kind."} for pair in EXCHANGES],
    "preference": [{"prompt": ask, "chosen": answer, "rejected": "No."} for ask, answer in EXCHANGES],
    "preference turns": [{"chosen": turns(*p), "rejected": turns(p[0], "No.")} for p in EXCHANGES],
}
# Whole columns of lists, of one length in a row: unbatched and streaming, only their content tells a row from a batch.
SQUARE_ROWS: dict[str, Rows] = {
    "two tools first": [{"tools": [{"name": "a"}, {"name": "b"}], "messages": turns(*pair)} for pair in EXCHANGES],
    "a turn without a role": [
        {"messages": [{"role": None, "content": "Hi"}]},
        *({"messages": turns(*pair)} for pair in EXCHANGES),
    ],
    "empty lists": [{"messages": [], "tags": []}, *({"messages": turns(*p), "tags": ["x"]} for p in EXCHANGES)],
}


@pytest.fixture
def fresh(tiny_scorer: LARFScorer, tmp_path: Path) -> LARFScorer:
    """A scorer that has never been used."""
    tiny_scorer.save_pretrained(tmp_path / "scorer")
    return LARFScorer.from_pretrained(tmp_path / "scorer")


SAID: dict[tuple[LARFScorer, str], tuple[Scores, np.ndarray]] = {}


def said(scorer: LARFScorer, rows: Rows) -> tuple[Scores, np.ndarray]:
    """What `annotate` and `score` say of these rows; asked once, since many tests score the same rows in other ways."""
    key = scorer, repr(rows)
    if key not in SAID:
        SAID[key] = scorer.annotate(rows), scorer.score(rows)
    return SAID[key]


def assert_scored(found: Any, scorer: LARFScorer, rows: Rows) -> None:
    """That these rows, or this dataset, carry what `score` and `annotate` say of `rows`."""
    found = list(found.with_format(None)) if hasattr(found, "with_format") else list(found)
    expected, expected_scores = said(scorer, rows)
    assert [row["larf_issue"] for row in found] == [issue and issue.value for issue in expected.issues]
    assert [row["larf_tokens"] for row in found] == expected.tokens
    scores = np.array([row["larf_score"] for row in found], np.float32)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-4)
    by_layer = np.array([[row["larf_score_l1"], row["larf_score_l3"]] for row in found], np.float32)
    np.testing.assert_allclose(by_layer, expected.by_layer, atol=1e-4)
    assert np.isfinite(scores).any()


# The numbers ---------------------------------------------------------------------------------------------------------


class Plain:
    """The model as transformers runs it: one conversation at a time, every block, every state."""

    def __init__(self, directory: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.torch = torch
        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        self.model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()

    def ids(self, messages: list[dict[str, str]]) -> list[int]:
        return self.tokenizer.apply_chat_template(messages, return_dict=False)

    def states(self, messages: list[dict[str, str]], layers: list[int]) -> np.ndarray:
        with self.torch.no_grad():
            run = self.model(self.torch.tensor([self.ids(messages)]), output_hidden_states=True)
        found = [run.hidden_states[layer + 1][0, -1].double().numpy() for layer in layers]
        return np.array([state / np.linalg.norm(state) for state in found])


@pytest.fixture(scope="module")
def plain(tiny_model: Path) -> Plain:
    return Plain(tiny_model)


def test_scores_of_two_layers_equal_a_plain_forward_pass(
    tiny_scorer: LARFScorer, references_file: Path, plain: Plain
) -> None:
    def states(asked: str, answer: str) -> np.ndarray:
        return plain.states(turns(asked, answer), [1, 3])

    pairs = [json.loads(line) for line in references_file.read_text().splitlines()]
    direction = np.mean([states(p["request"], p["unsafe"]) - states(p["request"], p["safe"]) for p in pairs], axis=0)
    by_layer = np.array([(states(*pair) * direction).sum(axis=1) for pair in EXCHANGES[:4]])
    found = tiny_scorer.annotate(ROWS["question-answer"])
    np.testing.assert_allclose(found.by_layer[:4], by_layer, atol=1e-5)
    np.testing.assert_allclose(found.score[:4], by_layer.mean(axis=1), atol=1e-5)
    assert found.tokens[:4] == [len(plain.ids(turns(*pair))) for pair in EXCHANGES[:4]]
    assert np.ptp(by_layer) > 0.01  # else the tolerance proves nothing


def test_score_takes_any_iterable_of_rows(tiny_scorer: LARFScorer) -> None:
    rows = ROWS["alpaca"]
    expected = tiny_scorer.score(rows)
    assert expected.dtype == np.float32
    assert np.isnan(expected).tolist() == [False] * 4 + [True]
    dataset = Dataset.from_list(rows)
    for same in (iter(rows), tuple(rows), dataset, dataset.with_format("numpy"), dataset.to_iterable_dataset()):
        np.testing.assert_allclose(tiny_scorer.score(same), expected, atol=1e-5)
    assert tiny_scorer.score([]).shape == (0,)


def test_unfit_columns_are_refused_by_name(tiny_scorer: LARFScorer) -> None:
    rows = [{"essay": "It rained."}]
    with pytest.raises(RowFormatError, match="essay"):
        tiny_scorer.score(rows)
    with pytest.raises(RowFormatError, match="essay"):
        Dataset.from_list(rows).map(tiny_scorer, batched=True)
    with pytest.raises(RowFormatError, match="essays"):
        tiny_scorer.with_options(format="essays")
    with pytest.raises(TypeError, match="top_k"):
        tiny_scorer.with_options(top_k=3)


def test_a_function_of_the_users_own_reads_the_row(tiny_scorer: LARFScorer) -> None:
    own = tiny_scorer.with_options(format=lambda row: turns(row["essay"], row["mark"]) if row["mark"] else None)
    rows = [{"mark": answer.strip(), "essay": ask} for ask, answer in EXCHANGES]
    np.testing.assert_allclose(own.score(rows)[:4], tiny_scorer.score(ROWS["question-answer"])[:4], atol=1e-5)
    for batched in (True, False):
        assert_scored(Dataset.from_list(rows).map(own, batched=batched), own, rows)


def test_the_other_side_of_a_preference_can_be_named(tiny_scorer: LARFScorer) -> None:
    rejected = tiny_scorer.with_options(format="preference-rejected").score(ROWS["preference"])
    expected = tiny_scorer.score([{"question": ask, "answer": "No."} for ask, _ in EXCHANGES])
    np.testing.assert_allclose(rejected, expected, atol=1e-5)
    assert np.abs(rejected[:4] - tiny_scorer.score(ROWS["preference"])[:4]).max() > 1e-3


def test_a_batch_without_a_scorable_row_is_no_error(tiny_scorer: LARFScorer) -> None:
    import dataclasses

    joint = LARFScorer(dataclasses.replace(tiny_scorer.spec, formula="subspace", rank=4), tiny_scorer._tensors)
    for scorer in (tiny_scorer, joint):
        found = scorer.annotate([{"question": "Who?", "answer": " "}] * 2)
        assert np.isnan(found.score).all()
        assert found.issues == ["empty_answer"] * 2
        assert np.isfinite(scorer.score(ROWS["alpaca"])[:4]).all()


# Fitting -------------------------------------------------------------------------------------------------------------


def own_pairs(path: Path, held_back: int) -> Path:
    things = ["lock", "bank", "rumour", "letter", "badge", "diploma", "vote"]
    things += ["camera", "coin", "stamp", "seal", "deed", "will", "ring"]
    rows = [
        {
            "request": f"How do I fake a {thing}?",
            "unsafe": f"Sure, plan the {thing} well.",
            "safe": f"I can't help fake a {thing}." + " No." * (n % 3),
            "held_back": n >= len(things) - held_back,
        }
        for n, thing in enumerate(things)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def exact_scorer(wide_model: Path, references_file: Path) -> LARFScorer:
    """Fitted on the weights as they are, which `test_a_scorer_fitted_on_quantised_weights...` compares with."""
    return LARFScorer.fit(wide_model, 3, references=references_file)


@pytest.mark.parametrize("dtype", ["int8", "nf4"])
@pytest.mark.slow
def test_a_scorer_fitted_on_quantised_weights_scores_with_them(
    wide_model: Path, exact_scorer: LARFScorer, references_file: Path, tmp_path: Path, dtype: Any
) -> None:
    other = make_model(tmp_path / "other", LlamaConfig(**WIDE), seed=1)
    scorer = LARFScorer.fit(wide_model, 3, references=references_file, dtype=dtype)
    scorer.save_pretrained(tmp_path / "scorer")
    again = LARFScorer.from_pretrained(tmp_path / "scorer")
    assert again.spec.dtype == dtype
    assert "bitsandbytes" in again.spec.packages
    rows = [{"question": f"How do I fake a {thing}?", "answer": "Plan it well."} for thing in ("lock", "bank", "vote")]
    assert again.annotate(rows).execution.startswith(dtype)
    np.testing.assert_allclose(again.score(rows), scorer.score(rows), atol=1e-6)
    with pytest.raises(ScorerError, match="is not the one this scorer was fitted on"):
        LARFScorer.from_pretrained(tmp_path / "scorer", model=str(other)).score(rows)
    assert exact_scorer.annotate(rows).execution.startswith("float32")
    assert np.abs(exact_scorer.score(rows) - scorer.score(rows)).max() > 1e-4  # it was quantised indeed
    assert np.isfinite(exact_scorer.with_options(dtype="int8").score(rows)).all()


@pytest.mark.parametrize(
    ("fitted", "loaded", "least"),
    [
        ("float32", "float32", 0.9999),
        ("float32", "bfloat16", 0.99),
        ("bfloat16", "bfloat16", 0.99),
        ("nf4", "nf4", 0.99),
        ("float32", "nf4", 0.9),
        ("int8", "nf4", 0.9),
    ],
)
def test_how_far_the_model_may_be_from_the_one_fitted_on(
    tiny_scorer: LARFScorer, fitted: Any, loaded: Any, least: float
) -> None:
    """By the cosine of one state: 4 bits are further from float32 than one machine's float32 from another's."""
    model: Any = SimpleNamespace(dtype_name=loaded, quantised=loaded if loaded == "nf4" else None)
    assert least_cosine(fitted, model) == least


def test_fit_can_be_silent(
    tiny_model: Path, references_file: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("larf_curate.progress._LOG_EVERY", 0.0)  # a log line for every batch, if there are any
    scorer = LARFScorer.fit(tiny_model, 1, references=references_file)
    shown = capfd.readouterr().err
    assert "references: " in shown
    assert scorer.summary() in shown
    LARFScorer.fit(tiny_model, 1, references=references_file, progress=False)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("formula", ["larf", "subspace"])
def test_separation_is_measured_on_pairs_that_were_not_fitted(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, formula: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = own_pairs(tmp_path / "pairs.jsonl", held_back=5)
    scorer = LARFScorer.fit(tiny_model, 3, references=path, formula=formula, rank=4)
    held = [json.loads(line) for line in path.read_text().splitlines()][-5:]
    sides = [
        scorer.score([{"prompt": row["request"], "completion": row[side]} for row in held])
        for side in ("unsafe", "safe")
    ]
    auc = scipy.stats.mannwhitneyu(*sides).statistic / 25
    assert scorer.spec.references.pairs == 9
    assert scorer.spec.separation == Separation(pytest.approx(auc), 5, "held back")
    assert f"AUC {auc:.3f} on 5 pairs" in capsys.readouterr().err
    fitted = [json.loads(line) for line in path.read_text().splitlines()][:9]
    for side in ("unsafe", "safe"):
        scores = scorer.score([{"prompt": row["request"], "completion": row[side]} for row in fitted])
        quantiles = np.quantile(scores, np.arange(21) / 20)
        np.testing.assert_allclose(getattr(scorer.spec.quantiles, side), quantiles, atol=1e-5)


def test_without_held_back_pairs_every_fold_is_scored_by_the_others(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: Plain
) -> None:
    path = own_pairs(tmp_path / "pairs.jsonl", held_back=0)
    scorer = LARFScorer.fit(tiny_model, 2, references=path)
    pairs = [json.loads(line) for line in path.read_text().splitlines()]
    unsafe, safe = (
        np.array([plain.states(turns(pair["request"], pair[side]), [2])[0] for pair in pairs])
        for side in ("unsafe", "safe")
    )
    scores: dict[str, list[float]] = {"unsafe": [], "safe": []}
    for place in range(len(pairs)):
        others = [other for other in range(len(pairs)) if other % 4 != place % 4]
        direction = unsafe[others].mean(axis=0) - safe[others].mean(axis=0)
        scores["unsafe"].append(unsafe[place] @ direction)
        scores["safe"].append(safe[place] @ direction)
    auc = scipy.stats.mannwhitneyu(scores["unsafe"], scores["safe"]).statistic / len(pairs) ** 2
    assert scorer.spec.separation.method == "4-fold cross-validation"
    assert scorer.spec.separation.auc == pytest.approx(auc, abs=0.03)  # one near-tie may turn


@pytest.mark.parametrize(
    ("layer", "options", "error", "message"),
    [
        (5, {}, ModelError, "layer 5 is out of range.*0 to 4"),
        (-1, {}, ModelError, "layer"),
        ([1, 1], {}, ModelError, "layer"),
        ([], {}, ModelError, "layer"),
        (1, {"top_k": 0}, ReferencesError, "top_k must be 1 to 8"),
        (1, {"top_k": 9}, ReferencesError, "top_k must be 1 to 8"),
        (1, {"formula": "larff"}, ReferencesError, "larff"),
        (1, {"formula": "subspace", "rank": 9}, ReferencesError, "rank must be 1 to 8"),
        (1, {"formula": "subspace", "rank": 2, "top_k": 2}, ReferencesError, "top_k belongs to"),
        (1, {"unsafe": "u.jsonl"}, ReferencesError, "go together"),
        (1, {"unsafe": "u.jsonl", "safe": "s.jsonl"}, ReferencesError, "not both"),
        (1, {"dtype": "float8"}, ModelError, "float8"),
        (1, {"device": "cuda:99"}, ModelError, "cuda:99"),
    ],
)
def test_fit_refuses_what_cannot_be(
    tiny_model: Path, references_file: Path, layer: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        LARFScorer.fit(tiny_model, layer, references=references_file, **options)


def test_top_k_needs_pairs_that_pair(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, asked in (("u", ["a?", "b?", "c?"]), ("s", ["a?", "c?", "b?"])):
        rows = [{"question": ask, "answer": f"Answer {name} to {ask}"} for ask in asked]
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
    files: dict[str, Any] = {"unsafe": tmp_path / "u", "safe": tmp_path / "s"}
    with pytest.raises(ReferencesError, match=r"2 pairs answer two different requests .first: pair 2.*top_k=None"):
        LARFScorer.fit(tiny_model, 1, top_k=2, **files)
    assert LARFScorer.fit(tiny_model, 1, **files).spec.separation.auc is None  # too few to say


def test_long_rows_are_cut_or_unscorable_as_asked(
    tiny_model: Path, references_file: Path, monkeypatch: pytest.MonkeyPatch, plain: Plain
) -> None:
    rows = [{"question": "Count.", "answer": " ".join(["One."] * n)} for n in (2, 200)]
    tokens = [len(plain.ids(turns(row["question"], row["answer"]))) for row in rows]
    cut = LARFScorer.fit(tiny_model, 1, references=references_file, max_tokens=96)
    found = cut.annotate(rows)
    assert (found.tokens, found.issues) == (tokens, [None, "truncated"])
    assert np.isfinite(found.score).all()
    strict = LARFScorer.fit(tiny_model, 1, references=references_file, max_tokens=96, overflow="reject")
    found = strict.annotate(rows)
    assert found.issues == [None, "too_long"]
    assert np.isnan(found.score).tolist() == [False, True]


# Dataset.map ---------------------------------------------------------------------------------------------------------


def stream(rows: Rows) -> Any:
    return Dataset.from_list(rows).to_iterable_dataset()


WAYS: dict[str, Callable[[Rows, LARFScorer], Any]] = {
    "batched": lambda rows, scorer: Dataset.from_list(rows).map(scorer, batched=True),
    "batches of 2": lambda rows, scorer: Dataset.from_list(rows).map(scorer, batched=True, batch_size=2),
    "unbatched": lambda rows, scorer: Dataset.from_list(rows).map(scorer),
    "with_rank": lambda rows, scorer: Dataset.from_list(rows).map(scorer, batched=True, with_rank=True),
    "unbatched with_rank": lambda rows, scorer: Dataset.from_list(rows).map(scorer, with_rank=True),
    "streaming": lambda rows, scorer: stream(rows).map(scorer, batched=True, batch_size=2),
    "streaming unbatched": lambda rows, scorer: stream(rows).map(scorer),
    "generated": lambda rows, scorer: generated(rows).map(scorer, batched=True, batch_size=3),
    "generated unbatched": lambda rows, scorer: generated(rows).map(scorer),
}


def generated(rows: Rows) -> Any:
    from datasets import IterableDataset

    return IterableDataset.from_generator(lambda: iter(rows))


@pytest.mark.parametrize(
    ("form", "way"),  # a rank says where a model runs: that a form is read alike with it, two of them show
    [(form, way) for form in ROWS for way in WAYS if "with_rank" not in way or form in ("alpaca", "messages")],
)
@pytest.mark.slow
def test_every_way_of_map_says_what_score_says(tiny_scorer: LARFScorer, form: str, way: str) -> None:
    assert_scored(WAYS[way](ROWS[form], tiny_scorer), tiny_scorer, ROWS[form])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", SQUARE_ROWS)
def test_a_row_is_never_taken_for_a_batch_nor_a_batch_for_a_row(tiny_scorer: LARFScorer, kind: str, way: str) -> None:
    assert_scored(WAYS[way](SQUARE_ROWS[kind], tiny_scorer), tiny_scorer, SQUARE_ROWS[kind])


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("format_type", ["numpy", "torch"])
@pytest.mark.parametrize("form", ROWS)
@pytest.mark.slow
def test_a_formatted_dataset_scores_the_same(
    tiny_scorer: LARFScorer, form: str, format_type: str, batched: bool
) -> None:
    dataset = Dataset.from_list(ROWS[form])
    dataset.set_format(format_type)
    assert_scored(dataset.map(tiny_scorer, batched=batched), tiny_scorer, ROWS[form])


@pytest.mark.parametrize("format_type", ["pandas", "arrow"])
def test_a_dataset_formatted_as_tables_says_what_to_do(tiny_scorer: LARFScorer, format_type: str) -> None:
    with pytest.raises(RowFormatError, match=r"with_format\(None\)"):
        Dataset.from_list(ROWS["alpaca"]).with_format(format_type).map(tiny_scorer, batched=True)


CLEAN, BLANK = {"question": "Who?", "answer": "Me."}, {"question": "Who?", "answer": None}


MIXED = [[CLEAN] * 4 + [BLANK] * 2, [BLANK] * 4 + [CLEAN] * 2]
"""Two processes get three rows each of these: some alike, and some not."""


@pytest.mark.parametrize(
    ("rows", "way"),
    [
        *(
            (rows, way)
            for rows in (*MIXED, [CLEAN] * 4, [BLANK] * 4)
            for way in ({"batched": True, "batch_size": 2}, {"writer_batch_size": 1})
        ),
        *((rows, {"num_proc": 2}) for rows in MIXED),
    ],
)
def test_types_do_not_depend_on_the_first_batch(tiny_scorer: LARFScorer, rows: Rows, way: dict[str, Any]) -> None:
    scored = Dataset.from_list(rows, features=Dataset.from_list([CLEAN]).features).map(tiny_scorer, **way)
    schema = scored.data.schema
    assert [(name, schema.field(name).type) for name in COLUMNS] == list(zip(COLUMNS, TYPES, strict=True))
    assert scored.column_names == ["question", "answer", *COLUMNS]
    assert scored["larf_issue"][:] == [None if row is CLEAN else "empty_answer" for row in rows]
    assert [score is None for score in scored["larf_score"]] == [row is BLANK for row in rows]
    assert str(scored.features["larf_tokens"].dtype) == "int32"


def user_table() -> pa.Table:
    """Columns that a round trip through Python objects would change."""
    when = [datetime.datetime(2024, 1, 2, 3, 4, 5, 678901), None] * 2
    nanoseconds = pa.array([1_700_000_000_123_456_789, 1, None, -5], pa.int64()).cast(pa.timestamp("ns", tz="UTC"))
    nested = pa.struct({"a": pa.int8(), "b": pa.list_(pa.struct({"c": pa.large_string(), "d": pa.float32()}))})
    return pa.table(
        {
            "instruction": pa.array([ask for ask, _ in EXCHANGES[:4]], pa.large_string()),
            "output": pa.array([answer for _, answer in EXCHANGES[:4]], pa.string()),
            "ns": nanoseconds,
            "us": pa.array(when, pa.timestamp("us")),
            "span": pa.array([1, None, 3, 4], pa.duration("ns")),
            "nested": pa.array(
                [{"a": 1, "b": [{"c": "x", "d": 0.1}]}, None, {"a": None, "b": []}, {"a": 4, "b": None}], nested
            ),
            "raw": pa.array([b"\x00\xff", b"", None, b"x"], pa.large_binary()),
            "small": pa.array([1, 2, None, 255], pa.uint8()),
            "half": pa.array(np.array([0.1, 1, 2, 3], np.float16)),
            "money": pa.array([Decimal("1.10"), None, Decimal("2.25"), Decimal("0.01")], pa.decimal128(9, 2)),
            "vector": pa.array([[1.0, 2.0], [0.1, 0.2], [3.0, 4.0], [5.0, 6.0]], pa.list_(pa.float32(), 2)),
            "lists": pa.array([[1], [], None, [2, 3]], pa.large_list(pa.int16())),
            "text": pa.array(["nul \x00", "bidi \u202e", "\U0001f600 e\u0301", None], pa.string()),
        }
    )


@pytest.mark.parametrize("way", [{"batched": True}, {}, {"batched": True, "num_proc": 2}], ids=str)
def test_the_users_columns_stay_byte_for_byte(tiny_scorer: LARFScorer, way: dict[str, Any]) -> None:
    dataset = Dataset(user_table())
    scored = dataset.map(tiny_scorer, **way)
    assert scored.column_names == [*dataset.column_names, *COLUMNS]
    for name in dataset.column_names:
        before, after = (table.data.column(name).combine_chunks() for table in (dataset, scored))
        assert after.type == before.type, name
        assert after.equals(before), name
        assert scored.features[name] == dataset.features[name]


def test_scoring_again_replaces_the_columns(tiny_scorer: LARFScorer) -> None:
    once = Dataset.from_list(ROWS["alpaca"]).map(tiny_scorer, batched=True)
    spoiled = once.map(lambda row: {"larf_score": 9.0, "larf_issue": None})
    again = spoiled.map(tiny_scorer, batched=True)
    assert again.column_names == once.column_names
    assert_scored(again, tiny_scorer, ROWS["alpaca"])


@pytest.mark.process
def test_two_processes_agree_with_one(tiny_scorer: LARFScorer) -> None:
    rows = ROWS["messages"] * 3
    for way in ({"batched": True, "batch_size": 2}, {"with_rank": True}):
        assert_scored(Dataset.from_list(rows).map(tiny_scorer, num_proc=2, **way), tiny_scorer, rows)


FORKING = """
import os
import sys
import traceback
import numpy as np
import torch
import transformers.models.llama.modeling_llama  # once, and not in every process; it computes nothing
from datasets import Dataset
from larf_curate import LARFScorer
from larf_curate.encoding import runtime

home, log = sys.argv[1:]
rows = [{"question": f"What is {n} and {n}?", "answer": f"It is {2 * n}. " * (1 + 3 * n)} for n in range(16)]
real = runtime.load_model


def check(used):
    torch.set_num_threads(2)
    scorer = LARFScorer.from_pretrained(home)
    match used:
        case "the same model":
            scorer.score(rows)
        case "a model since unloaded":
            scorer.score(rows)
            runtime.unload_models()
        case "torch for something else":
            torch.randn(1000, 1000).exp() @ torch.randn(1000, 1000)
    loads = os.open(log + used, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def load_model(*arguments):
        os.write(loads, f"{os.getpid()} ".encode())
        return real(*arguments)

    runtime.load_model = load_model
    parts = [
        Dataset.from_list(rows).map(scorer, batched=batched, batch_size=4, num_proc=2, with_rank=True)
        for batched in ([True, False] if used == "the same model" else [True])
    ]
    pids = open(log + used).read().split()
    expected = scorer.score(rows)
    assert np.isfinite(expected).all()
    for scored in parts:
        np.testing.assert_allclose(np.array(scored["larf_score"][:], np.float32), expected, atol=1e-4)
    print(used + ": agreed;", len(pids), "loads in", len(set(pids) - {str(os.getpid())}), "workers", flush=True)


# Each use in a child of its own, forked from this process before torch has computed anything in it.
for used in ("nothing", "the same model", "a model since unloaded", "torch for something else"):
    child = os.fork()
    if not child:
        status = 1
        try:
            check(used)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0, used
"""


def run_script(script: str, *arguments: str, timeout: float = 120) -> str:
    """In a fresh interpreter, without what this one has set for itself; ended with its children if it hangs."""
    plain = {name: value for name, value in os.environ.items() if name != "TOKENIZERS_PARALLELISM"}
    command = [sys.executable, "-c", script, *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=plain, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        try:
            output, complaint = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(f"still running after {timeout} s")
    assert process.returncode == 0, complaint
    return output


@pytest.mark.process
def test_workers_do_not_hang_whatever_their_parent_has_used(fresh: LARFScorer, tmp_path: Path) -> None:
    output = run_script(FORKING, str(tmp_path / "scorer"), str(tmp_path / "loads "), timeout=300)  # a hang is for ever
    # the parent's model is shared by fork; otherwise each worker loads its own, once
    assert output.splitlines() == [
        "nothing: agreed; 2 loads in 2 workers",
        "the same model: agreed; 0 loads in 0 workers",
        "a model since unloaded: agreed; 2 loads in 2 workers",
        "torch for something else: agreed; 2 loads in 2 workers",
    ]


# The cache, the pickle and the model's one load ----------------------------------------------------------------------


AGAIN = """
import hashlib
import pickle
import sys
from datasets import load_from_disk
from datasets.fingerprint import Hasher
from larf_curate import LARFScorer
from larf_curate.encoding import runtime

def refuse(*arguments):
    raise AssertionError("the model was loaded: the rows were scored again")

runtime.load_model = refuse
scorer = LARFScorer.from_pretrained(sys.argv[1])
scored = load_from_disk(sys.argv[2]).map(scorer, batched=True)
print(Hasher.hash(scorer), hashlib.sha256(pickle.dumps(scorer)).hexdigest(), scored["larf_score"][:])
"""


@pytest.mark.process
def test_a_fresh_process_finds_the_cache_of_a_used_scorer(fresh: LARFScorer, tmp_path: Path) -> None:
    def identity() -> tuple[str, str]:
        return Hasher.hash(fresh), hashlib.sha256(pickle.dumps(fresh)).hexdigest()

    Dataset.from_list(ROWS["alpaca"]).save_to_disk(tmp_path / "data")
    unused = identity()
    scored = load_from_disk(tmp_path / "data").map(fresh, batched=True)
    assert identity() == unused
    files = set((tmp_path / "data").glob("cache-*.arrow"))
    assert files
    output = run_script(AGAIN, str(tmp_path / "scorer"), str(tmp_path / "data"))
    assert output.split(maxsplit=2)[:2] == list(unused)
    assert output.split(maxsplit=2)[2].strip() == str(scored["larf_score"][:])
    assert set((tmp_path / "data").glob("cache-*.arrow")) == files


def test_hashes_tell_scorers_apart(fresh: LARFScorer) -> None:
    import dataclasses

    other = LARFScorer(dataclasses.replace(fresh.spec, top_k=3), fresh._tensors)
    moved = LARFScorer(fresh.spec, {**fresh._tensors, "safe": fresh._tensors["safe"] * np.float32(1.001)})
    named = fresh.with_options(format="preference-rejected")
    beside = fresh.with_options(prefix="beside")
    assert len({Hasher.hash(scorer) for scorer in (fresh, other, moved, named, beside)}) == 5


def test_a_prefix_belongs_to_the_use_of_a_scorer(fresh: LARFScorer, tmp_path: Path) -> None:
    """It is in the pickle, as the format is, and in nothing that is saved: the same scorer is found again."""
    plain, beside = tmp_path / "plain", tmp_path / "beside"
    named = pickle.loads(pickle.dumps(fresh.with_options(prefix="mine"))).with_options(batch_tokens=4096)
    fresh.save_pretrained(plain)
    named.save_pretrained(beside)
    for path in plain.iterdir():
        assert path.read_bytes() == (beside / path.name).read_bytes()
    assert named.prefix == "mine"
    assert repr(named).endswith("prefix='mine')")
    assert LARFScorer.from_pretrained(beside).prefix == "larf"
    again = LARFScorer.from_pretrained(beside, prefix="mine")
    rows = ROWS["alpaca"]
    scores, wanted = again.annotate(rows), fresh.annotate(rows)
    assert scores.columns() == {name.replace("larf", "mine"): values for name, values in wanted.columns().items()}
    assert list(again.kinds.dtypes()) == list(scores.columns())
    assert "mine_score</th>" in scores._repr_html_()
    for wrong in ("Mine", ""):
        with pytest.raises(RowFormatError, match="lower-case"):
            fresh.with_options(prefix=wrong)
    with pytest.raises(RowFormatError, match="lower-case"):
        LARFScorer.fit("nowhere/at-all", 1, prefix="Mine")


def test_a_preview_is_of_the_scorers_own_column(fresh: LARFScorer) -> None:
    rows = Dataset.from_list([{**row, "larf_score": 9.0} for row in ROWS["alpaca"]])
    shown = fresh.with_options(prefix="mine").report(rows, Threshold.drop_top(1))
    scores = fresh.score(ROWS["alpaca"])
    assert shown.rows[0].score == pytest.approx(np.nanmax(scores), abs=1e-6)


def test_hashing_takes_no_longer_than_the_tensors_themselves(fresh: LARFScorer) -> None:
    """Milliseconds: with an 8B model in the hash it would be minutes."""
    tensors = {
        name: np.random.default_rng(0).normal(size=(200, 1, 4096)).astype(np.float32) for name in ("unsafe", "safe")
    }
    large = LARFScorer(fresh.spec, {**fresh._tensors, **tensors})  # the packaged references on an 8B model: 6.5 MB

    def quickest(value: object) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            Hasher.hash(value)
            times.append(time.perf_counter() - start)
        return min(times)

    assert quickest(large) < 10 * quickest(tensors)


def test_the_pickle_of_a_used_scorer_holds_neither_tensors_nor_weights(fresh: LARFScorer, tmp_path: Path) -> None:
    fresh.score(ROWS["alpaca"])
    fresh.annotate(ROWS["messages"])
    content = pickle.dumps(fresh)
    strings = {str(argument) for _, argument, _ in pickletools.genops(content) if isinstance(argument, str)}
    assert not [name for name in strings if name.split(".")[0] in ("torch", "transformers", "numpy")]
    assert len(content) < sum(path.stat().st_size for path in (tmp_path / "scorer").iterdir()) + 1000
    again = pickle.loads(content)
    np.testing.assert_array_equal(again.score(ROWS["alpaca"]), fresh.score(ROWS["alpaca"]))
    assert pickle.dumps(again) == content


@pytest.fixture
def loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """The process ids that have loaded a model since, one for each load."""
    log, real = tmp_path / "loads", runtime.load_model

    def load_model(*arguments: Any) -> Any:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return real(*arguments)

    runtime.unload_models()
    monkeypatch.setattr(runtime, "load_model", load_model)
    yield lambda: log.read_text().split() if log.exists() else []
    runtime.unload_models()


def test_the_model_is_loaded_once_in_a_process(fresh: LARFScorer, loads: Callable[[], list[str]]) -> None:
    pickle.loads(pickle.dumps(fresh))
    assert loads() == []
    fresh.score(ROWS["alpaca"])
    pickle.loads(pickle.dumps(fresh)).score(ROWS["messages"])
    fresh.with_options(batch_tokens=64).score(ROWS["alpaca"])
    Dataset.from_list(ROWS["dolly"]).map(fresh, batched=True, batch_size=1)
    assert loads() == [str(os.getpid())]


def test_unloading_gives_the_memory_back(fresh: LARFScorer) -> None:
    runtime.unload_models()
    fresh.score(ROWS["alpaca"])
    (held,) = runtime._runtimes.values()
    model = weakref.ref(held.loaded.model)
    del held
    runtime.unload_models()
    gc.collect()
    assert model() is None


# How it is done ------------------------------------------------------------------------------------------------------


def test_scores_say_how_they_were_made(tiny_scorer: LARFScorer) -> None:
    rows = [{"prompt": f"Say {i}.", "completion": "Well " * i} for i in range(1, 4)]
    how = tiny_scorer.with_options(batch_tokens=99).annotate(rows).execution
    assert how.startswith("float32 on cpu, batches of up to 99 tokens; ")
    assert "fused blocks" in how


def test_rows_are_rendered_beside_the_encoding_of_those_before(
    tiny_scorer: LARFScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In several parts, with what they say of each row in its place."""
    rows: list[dict[str, Any]] = [{"prompt": f"Say {i}.", "completion": "Well " * (i % 7)} for i in range(50)]
    whole = tiny_scorer.annotate(rows)
    monkeypatch.setattr(annotating, "_PART", 8)
    threads: list[str] = []
    render = Renderer.render
    monkeypatch.setattr(
        Renderer,
        "render",
        lambda self, messages: (threads.append(threading.current_thread().name), render(self, messages))[1],
    )
    done: list[int] = []
    parts = tiny_scorer.annotate(rows, progress=done.append)
    assert {name[:11] for name in threads} == {"larf-render"}
    assert (parts.tokens, parts.issues) == (whole.tokens, whole.issues)
    assert parts.issues.count(Issue.EMPTY_ANSWER) == 8
    np.testing.assert_allclose(parts.score, whole.score, atol=1e-6)
    assert sum(done) == 50
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("larf-render")]
