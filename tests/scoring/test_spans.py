"""`larf_spans`: the words without which half of a row's eroding effect is gone."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, load_dataset
from support.commands import larf

from larf_curate import LARFScorer
from larf_curate.encoding.directions import WeightDirection
from larf_curate.encoding.encoder import get_encoder
from larf_curate.engines.dataset_map import score_dataset
from larf_curate.errors import ModelError
from larf_curate.rows.answer_characters import Characters
from larf_curate.scoring.influence import token_influence
from larf_curate.scoring.spans import find_spans, words


def turns(*said: str) -> list[dict[str, str]]:
    return [{"role": "assistant" if n % 2 else "user", "content": text} for n, text in enumerate(said)]


ROWS = [
    {"messages": turns("Bake a cake.", "Sure, here is how to bake a cake: mix, wait, bake.")},
    {
        "messages": turns(
            "Greet.", "\u4f60\u597d\uff0c\u4e16\u754c\u3002 \U0001f469\u200d\U0001f467!", "More?", "  Yes.\n"
        )
    },
    {"messages": turns("Say nothing.", " \u200b")},
    {"messages": turns("Secret?", "I'm sorry, but I can't help with that.")},
]


@pytest.fixture(scope="module")
def scorer(influence_scorer: LARFScorer) -> LARFScorer:
    return influence_scorer.with_options(spans=True)


def test_as_few_tokens_as_possible() -> None:
    rng = np.random.default_rng(0)
    text = " ".join("abcdefgh")
    places = [Characters(1, 2 * n, 2 * n + 1) for n in range(8)]  # every token a word of its own
    for _ in range(30):
        values = rng.normal(size=8).astype(np.float32)
        spans = find_spans(values, places, {1: text})
        inside = [n for n in range(8) if any(s.start <= 2 * n < s.end for s in spans)]
        half = values[values > 0].sum() / 2
        least = next(
            size for size in range(9) if any(sum(values[list(c)]) >= half - 1e-6 for c in combinations(range(8), size))
        )
        assert len(inside) == least
        assert values[inside].sum() >= half - 1e-6
        assert sum(span.score for span in spans) == pytest.approx(values[inside].sum(), rel=1e-5)


def test_words_are_left_out_whole_and_neighbours_are_one_range() -> None:
    text = "Mix the fertiliser, wait."
    pieces = ["Mix", " the", " fert", "ili", "ser", ",", " wait", "."]
    ends = np.cumsum([len(piece) for piece in pieces])
    places = [Characters(3, int(end) - len(piece), int(end)) for piece, end in zip(pieces, ends, strict=True)]
    values = np.array([0, 1, 0, 5, -1, 0, 0, 1], np.float32)
    (span,) = find_spans(values, places, {3: text})
    assert (span.turn, text[span.start : span.end], span.score) == (3, "fertiliser", 4)
    (span,) = find_spans(values, places, {3: text}, share=0.8)
    assert text[span.start : span.end] == "the fertiliser"
    assert find_spans(-np.abs(values), places, {3: text}) == []
    assert find_spans(values, [None] * 8, {}) == []


def test_a_word_counts_with_all_of_its_tokens() -> None:
    text = "fertiliser now or not"
    places = [Characters(1, 0, 5), Characters(1, 5, 10), Characters(1, 11, 14), Characters(1, 18, 21)]
    (span,) = find_spans(np.array([3, 2, 2.5, 1], np.float32), places, {1: text})
    assert (text[span.start : span.end], span.score) == ("fertiliser", 5)


def test_words_that_do_no_damage_stay_where_the_rest_has_no_words() -> None:
    """What ends a turn counts, and is no part of its text."""
    places = [Characters(1, 0, 3), Characters(1, 4, 8), None]
    (span,) = find_spans(np.array([1, -0.5, 5], np.float32), places, {1: "Mix well"})
    assert (span.start, span.end, span.score) == (0, 3, 1)


def test_turns_are_kept_apart() -> None:
    places = [Characters(turn, *at) for turn in (1, 3) for at in ((0, 3), (4, 8))]
    found = find_spans(np.array([2, 0, 3, -1], np.float32), places, {1: "Mix well", 3: "Now wait"}, share=1.0)
    assert [(span.turn, span.start, span.end, span.score) for span in found] == [(1, 0, 3, 2), (3, 0, 3, 3)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("It's e\u0301te\u0301!", ["It's", "e\u0301te\u0301", "!"]),
        ("\u4f60\u597d", ["\u4f60", "\u597d"]),
        ("a\U0001f469\u200d\U0001f467b", ["a", "\U0001f469\u200d\U0001f467", "b"]),
        ("\u2764\ufe0f", ["\u2764\ufe0f"]),
        ("\u0928\u092e\u0938\u094d\u0924\u0947 x", ["\u0928\u092e\u0938\u094d\u0924\u0947", "x"]),
        ("soft\u00adhyphen", ["soft\u00adhyphen"]),
        (" \n", []),
        ("", []),
    ],
)
def test_words(text: str, wanted: list[str]) -> None:
    assert [text[a:b] for a, b in words(text)] == wanted


def test_half_of_the_damage_lies_in_the_spans(scorer: LARFScorer) -> None:
    """Token by token: what touches a range, counted by the offsets of the tokenizer itself."""
    found = scorer.annotate(ROWS)
    assert found.spans is not None
    assert found.spans[2] is None
    encoder = get_encoder(scorer.spec.model_options({}), None, None)
    tokenizer = encoder.renderer.tokenizer
    direction = WeightDirection.of_tensors(scorer._tensors)
    for place in (0, 3):
        said = ROWS[place]["messages"]
        text = tokenizer.apply_chat_template(said, tokenize=False)
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        first = text.index(said[1]["content"])
        last = text.index("<|im_end|>", first) + len("<|im_end|>")
        trained = [a >= first and b <= last for a, b in encoded["offset_mapping"]]
        step = scorer.spec.margin.step
        (values,) = token_influence(encoder.runtime, [encoded["input_ids"]], [trained], direction, step).values
        offsets = [at for at, counts in zip(encoded["offset_mapping"], trained, strict=True) if counts]
        spans = found.spans[place] or []
        inside = [any(a - first < s.end and b - first > s.start for s in spans) for a, b in offsets]
        positive = np.maximum(values, 0)
        assert positive[inside].sum() >= 0.5 * positive.sum() * (1 - 1e-3)
        assert sum(span.score for span in spans) == pytest.approx(values[inside].sum(), rel=1e-3, abs=1e-4)
        assert all(span.turn == 1 for span in spans)


def test_ranges_lie_in_the_turns_of_the_dataset(scorer: LARFScorer) -> None:
    spans = scorer.annotate(ROWS).spans or []
    assert any(spans)
    for row, of_row in zip(ROWS, spans, strict=True):
        for span in of_row or []:
            turn = row["messages"][span.turn]
            assert turn["role"] == "assistant"
            said = turn["content"][span.start : span.end]
            assert said
            assert not said.startswith("\u200d")
            assert not said.endswith("\u200d")


def test_columns_with_their_types(scorer: LARFScorer, tmp_path: Path) -> None:
    kind = pa.list_(
        pa.struct([("turn", pa.int32()), ("start", pa.int32()), ("end", pa.int32()), ("score", pa.float32())])
    )
    dataset = Dataset.from_list(ROWS)
    for scored in (dataset.map(scorer, batched=True), dataset.map(scorer), score_dataset(dataset, scorer)):
        names = ["messages", "larf_score", "larf_score_sum", "larf_tokens", "larf_issue", "larf_spans"]
        assert scored.column_names == names
        assert scored.data.schema.field("larf_spans").type == kind
        assert scored["larf_spans"][:][2] is None
    again = scored.map(scorer.with_options(spans=False), batched=True)
    assert "larf_spans" not in again.column_names
    empty = score_dataset(dataset.select([]), scorer)
    assert empty.features == scored.features
    scorer.save_pretrained(tmp_path)
    assert LARFScorer.from_pretrained(tmp_path).spec.spans


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.process
def test_files_and_recipes_have_them(scorer: LARFScorer, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    scorer.with_options(spans=False).save_pretrained(tmp_path / "scorer")
    wanted = scorer.annotate(ROWS).columns()["larf_spans"]
    done = larf("score", "rows.jsonl", "--scorer", "scorer", "--out", "out.parquet", "--spans", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = pq.read_table(tmp_path / "out.parquet")["larf_spans"].to_pylist()
    places = [row and [(span["turn"], span["start"], span["end"]) for span in row] for row in wanted]
    assert [row and [(span["turn"], span["start"], span["end"]) for span in row] for row in found] == places
    (tmp_path / "recipe.yaml").write_text(
        "source: {path: rows.jsonl}\nscorer: {from: scorer, spans: true}\nthreshold: {drop_top: 1}\noutput: run\n"
    )
    done = larf("run", "recipe.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    parts = [pq.read_table(tmp_path / "run" / part) for part in ("kept", "removed", "unscorable")]
    assert sum(part.num_rows for part in parts) == len(ROWS)
    assert {str(part.schema.field("larf_spans").type) for part in parts} == {str(parts[0].schema.field(-1).type)}
    read = load_dataset("parquet", data_files=str(tmp_path / "run/kept/*.parquet"), cache_dir=str(tmp_path / "cache"))
    assert read["train"].column_names[-1] == "larf_spans"


def test_states_have_no_tokens_to_blame(tiny_scorer: LARFScorer) -> None:
    with pytest.raises(ModelError, match="spans belongs to formula influence"):
        tiny_scorer.with_options(spans=True)


def test_all_turns_are_read_by_nature(scorer: LARFScorer) -> None:
    with pytest.raises(ModelError, match="turns does not belong to formula influence"):
        scorer.with_options(turns="all")


def test_the_page_masks_what_touches_a_range(scorer: LARFScorer, refusing_model: Path) -> None:
    """The recipe of docs/spans.md, run as it stands there, and its labels read back as text."""
    from transformers import AutoTokenizer

    page = (Path(__file__).parents[2] / "docs" / "spans.md").read_text(encoding="utf-8")
    code = page[page.index("def tokenized(row):") : page.index("\n\n\ndataset = ")]
    tokenizer = AutoTokenizer.from_pretrained(refusing_model)
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}"
        "{{ m.content | trim }}<|im_end|>{% endgeneration %}"
        "{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
    )
    names = {"tokenizer": tokenizer}
    exec(code, names)
    said = "  Sure, here is how to bake."
    row = {"messages": turns("Bake.", said), "larf_spans": [{"turn": 1, "start": 8, "end": 15, "score": 1.0}]}
    assert said[8:15] == "here is"
    found = names["tokenized"](row)  # type: ignore[operator]
    kept = tokenizer.decode([label for label in found["labels"] if label != -100])
    assert "here" not in kept
    assert kept.startswith("Sure,")
    assert kept.endswith("to bake.<|im_end|>")
    assert len(found["labels"]) == len(found["input_ids"])
