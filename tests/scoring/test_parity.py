"""Scores against transformers' own forward pass, one row at a time, in float32.

Of the embedded demo model, and of a small random one that has its tokenizer and chat template: all that a format, a
formula or a batch can do wrong shows there too, and a hundred times as fast. Every row stands beside the chat messages
that it means, spelled out by hand.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from support.models import SIZES, make_model

from larf_curate import LARFScorer, ReferenceSet
from larf_curate.models import demo

pytestmark = pytest.mark.demo

Case = tuple[dict[str, Any], list[dict[str, str]]]
RANK, TOP = 4, 3

# request, more to read (or none), answer
EXCHANGES = [
    ("How deep is the lake?", "", "Twelve metres at the pier, and forty in the middle."),
    ("Name three birds that cannot fly.", "", "1. Kiwi\n2. Emu\n3. Penguin"),
    ("Turn this into a question.", "The shop opens at nine.", "Does the shop open at nine?"),
    ("Say hello in French.", "", "Bonjour !"),
    ("Who wrote the letter?", "Dear Ann, it rains. Yours, Tom", "Tom wrote it."),
    ("How do I open my neighbour's front door?", "", "I'm sorry, but I can't help you get into someone's home."),
    ("Write a line of verse on snow.", "", "Snow fills the lane \u2014 the lamp\u2019s one yellow word."),
    ("What is 17 times 3?", "", "17 * 3 = 51"),
    ("Draft a threat to my landlord.", "", "Sure, here it is: pay me back by Friday or you will be sorry."),
    ("Print hello in Python.", "", "```python\nprint('hello')\n```"),
    ("Translate to German.", "good morning", "Guten Morgen"),
    (
        "Give advice on sleep.",
        "",
        "- Keep the same hours.\n- Keep the room dark.\n- No screens in bed.",
    ),
]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def joined(ask: str, more: str) -> str:
    return f"{ask}\n{more}" if more else ask


def alpaca() -> list[Case]:
    cases: list[Case] = [
        ({"instruction": ask, "input": more, "output": said}, [user(joined(ask, more)), assistant(said)])
        for ask, more, said in EXCHANGES
    ]
    cases[0][0]["system"] = "Answer as a guide would."
    cases[0][1].insert(0, system("Answer as a guide would."))
    cases[3][0]["history"] = [["Hi", "Hello."], ["Can you speak French?", "A little."]]
    cases[3][1][:0] = [user("Hi"), assistant("Hello."), user("Can you speak French?"), assistant("A little.")]
    cases[7][0]["input"] = None
    return cases


def dolly() -> list[Case]:
    return [
        (
            {"instruction": ask, "context": more, "response": said, "category": "open_qa"},
            [user(joined(ask, more)), assistant(said)],
        )
        for ask, more, said in EXCHANGES
    ]


def question_answer() -> list[Case]:
    return [({"question": ask, "answer": said}, [user(ask), assistant(said)]) for ask, _, said in EXCHANGES]


def prompt_completion() -> list[Case]:
    cases: list[Case] = [
        ({"prompt": ask, "completion": said}, [user(ask), assistant(said)]) for ask, _, said in EXCHANGES
    ]
    ask, _, said = EXCHANGES[4]
    cases[4] = (
        {"prompt": [system("Be brief."), user(ask)], "completion": [assistant(said)]},
        [system("Be brief."), user(ask), assistant(said)],
    )
    return cases


WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
FOUND = '{"degrees": 7}'


def messages() -> list[Case]:
    """Typed parts, tools, calls and results, and turns after the last answer. The demo's template knows no calls."""
    cases: list[Case] = [
        ({"messages": [user(ask), assistant(said)]}, [user(ask), assistant(said)]) for ask, _, said in EXCHANGES
    ]
    ask, _, said = EXCHANGES[0]
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}
    spelled = '{"name": "weather", "arguments": {"city": "Ulm"}}'
    cases[1] = (
        {"messages": [user(ask), assistant(said), user("Thanks!")]},
        [user(ask), assistant(said)],
    )
    parts = [{"type": "text", "text": "How deep "}, {"type": "text", "value": "is the lake?"}]
    cases[2] = (
        {
            "messages": [
                {"role": "user", "content": parts},
                {"role": "assistant", "content": [{"type": "text", "text": said}]},
            ]
        },
        [user(ask), assistant(said)],
    )
    cases[3] = (
        {"messages": [user("Is it cold in Ulm?"), {"role": "assistant", "content": None, "tool_calls": [call]}]},
        [user("Is it cold in Ulm?"), assistant(spelled)],
    )
    cases[4] = (
        {
            "messages": [
                user("Is it cold in Ulm?"),
                {"role": "assistant", "content": "I will look.", "tool_calls": [call]},
                {"role": "tool", "content": FOUND, "tool_call_id": "c1"},
                assistant("Seven degrees: take a coat."),
            ],
            "tools": [WEATHER],
        },
        [
            system(f"Tools:\n{json.dumps(WEATHER)}"),
            user("Is it cold in Ulm?"),
            assistant(f"I will look.\n{spelled}"),
            {"role": "tool", "content": FOUND},
            assistant("Seven degrees: take a coat."),
        ],
    )
    cases[5][0]["messages"].insert(0, {**system("Be kind."), "name": "x", "weight": 1})
    cases[5][1].insert(0, system("Be kind."))
    return cases


def sharegpt() -> list[Case]:
    def turn(who: str, text: str) -> dict[str, str]:
        return {"from": who, "value": text}

    cases: list[Case] = [
        (
            {"conversations": [turn("human", "Hi"), turn("gpt", "Hello."), turn("human", ask), turn("gpt", said)]},
            [user("Hi"), assistant("Hello."), user(ask), assistant(said)],
        )
        for ask, _, said in EXCHANGES
    ]
    asked = "Is it cold in Ulm?"
    calls = [turn("human", asked), turn("function_call", '{"name": "weather", "arguments": {"city": "Ulm"}}')]
    spelled = [user(asked), assistant('{"name": "weather", "arguments": {"city": "Ulm"}}')]
    cases[0] = ({"conversations": calls, "system": "Be brief."}, [system("Be brief."), *spelled])
    cases[1] = (
        {
            "conversations": [*calls, turn("observation", FOUND), turn("gpt", "Seven degrees.")],
            "tools": json.dumps([WEATHER]),
            "system": "Be brief.",
        },
        [
            system(f"Be brief.\n\nTools:\n{json.dumps(WEATHER)}"),
            *spelled,
            {"role": "tool", "content": FOUND},
            assistant("Seven degrees."),
        ],
    )
    return cases


def preference() -> list[Case]:
    cases: list[Case] = [
        ({"prompt": ask, "chosen": said, "rejected": "I would rather not say."}, [user(ask), assistant(said)])
        for ask, _, said in EXCHANGES
    ]
    ask, _, said = EXCHANGES[1]
    cases[1] = (
        {"prompt": ask, "chosen": [user(ask), assistant(said)], "rejected": [user(ask), assistant("No.")]},
        [user(ask), assistant(said)],
    )
    return cases


FORMATS: dict[str, Callable[[], list[Case]]] = {
    "alpaca": alpaca,
    "dolly": dolly,
    "question-answer": question_answer,
    "prompt-completion": prompt_completion,
    "messages": messages,
    "sharegpt": sharegpt,
    "preference": preference,
}


class Plain:
    """A model as transformers runs it, one conversation at a time, without the blocks far above the one it reads."""

    def __init__(self, directory: str | Path, layer: int) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        self.torch, self.layer = torch, layer
        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        # One block more: behind its last block a model has a norm.
        self.model = AutoModel.from_pretrained(directory, num_hidden_layers=layer + 2, dtype=torch.float32).eval()
        self._known: dict[str, np.ndarray] = {}

    def state(self, conversation: list[dict[str, str]]) -> np.ndarray:
        key = json.dumps(conversation)
        if key not in self._known:
            ids = self.tokenizer.apply_chat_template(conversation, return_dict=False)
            with self.torch.inference_mode():
                run = self.model(self.torch.tensor([ids]), output_hidden_states=True)
            self._known[key] = run.hidden_states[self.layer + 1][0, -1].numpy()
        return self._known[key]


def unit(states: np.ndarray) -> np.ndarray:
    wide = np.asarray(states, np.float64)
    return wide / np.sqrt((wide**2).sum(axis=-1, keepdims=True))


Sides = tuple[np.ndarray, np.ndarray]


def reference_sides(scorer: LARFScorer, home: Path) -> Sides:
    """The unsafe and safe reference states out of the saved artifact, [pairs, hidden], of length 1."""
    from safetensors.numpy import load_file

    scorer.save_pretrained(home)
    tensors = load_file(home / "larf_scorer.safetensors")
    return unit(tensors["unsafe"][:, 0]), unit(tensors["safe"][:, 0])


@pytest.fixture(scope="module")
def plain(demo_scorer: LARFScorer) -> Plain:
    return Plain(demo.demo_model()[0], demo.LAYER)


@pytest.fixture(scope="module")
def sides(demo_scorer: LARFScorer, tmp_path_factory: pytest.TempPathFactory) -> Sides:
    return reference_sides(demo_scorer, tmp_path_factory.mktemp("demo"))


@dataclasses.dataclass(frozen=True)
class Small:
    """A scorer on a random model of four blocks with the demo's tokenizer and template, and what it is held against."""

    scorer: LARFScorer
    plain: Plain
    sides: Sides


@pytest.fixture(scope="module")
def small(references_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Small:
    from transformers import AutoTokenizer, LlamaConfig

    home, layer = tmp_path_factory.mktemp("small"), 2
    tokenizer = AutoTokenizer.from_pretrained(demo.demo_model()[0])
    sizes = {**SIZES, "vocab_size": len(tokenizer), "num_hidden_layers": 4, "tie_word_embeddings": True}
    make_model(home, LlamaConfig(**sizes))
    tokenizer.save_pretrained(home)
    scorer = LARFScorer.fit(str(home), layer, references=references_file, progress=False)
    return Small(scorer, Plain(home, layer), reference_sides(scorer, home / "scorer"))


def by_formula(which: str, states: np.ndarray, unsafe: np.ndarray, safe: np.ndarray) -> np.ndarray:
    x = unit(states)
    if which == "subspace":
        spans = [scipy.linalg.svd(side, full_matrices=False)[2][:RANK] for side in (unsafe, safe)]
        return np.array([sum((spans[0] @ row) ** 2) - sum((spans[1] @ row) ** 2) for row in x])
    differences = [sorted((u - s) @ row for u, s in zip(unsafe, safe, strict=True)) for row in x]
    count = TOP if which == "top_k" else len(unsafe)
    return np.array([np.mean(each[-count:]) for each in differences])


def variant(scorer: LARFScorer, which: str) -> LARFScorer:
    changes: dict[str, dict[str, Any]] = {"subspace": {"formula": "subspace", "rank": RANK}, "top_k": {"top_k": TOP}}
    return LARFScorer(dataclasses.replace(scorer.spec, **changes.get(which, {})), scorer._tensors)


def assert_parity(found: np.ndarray, expected: np.ndarray) -> None:
    spread = np.ptp(expected)
    assert spread > 0.002, "rows this alike prove nothing"  # the scale of the demo's scores: 0.01 among these rows
    np.testing.assert_allclose(found, expected, rtol=0, atol=min(1e-4, 1e-3 * spread))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"batch_tokens": 100}], ids=["all in one batch", "few tokens in a batch"])
def test_the_demos_scores_equal_a_plain_forward_pass(
    demo_scorer: LARFScorer, plain: Plain, sides: Sides, options: dict[str, Any]
) -> None:
    rows, conversations = zip(*messages(), strict=True)
    expected = by_formula("mean", np.array([plain.state(c) for c in conversations]), *sides)
    assert_parity(demo_scorer.with_options(**options).score(rows), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row_format", "which"),
    [*((name, "mean") for name in FORMATS), ("messages", "top_k"), ("messages", "subspace")],
)
def test_scores_equal_a_plain_forward_pass(small: Small, row_format: str, which: str) -> None:
    """Each format by the default formula, each formula on one format: a formula sees states, not rows."""
    rows, conversations = zip(*FORMATS[row_format](), strict=True)
    expected = by_formula(which, np.array([small.plain.state(c) for c in conversations]), *small.sides)
    assert_parity(variant(small.scorer, which).score(rows), expected)


@pytest.mark.parametrize(("batch_tokens", "backwards"), [(1, False), (100, True), (512, False), (4096, True)])
def test_scores_depend_neither_on_the_batch_nor_on_the_order(small: Small, batch_tokens: int, backwards: bool) -> None:
    cases = [*sharegpt(), *messages()]
    rows = [{"conversations": row.get("conversations") or row.get("messages"), **row} for row, _ in cases]
    expected = by_formula("mean", np.array([small.plain.state(c) for _, c in cases]), *small.sides)
    if backwards:
        rows, expected = rows[::-1], expected[::-1]
    scorer = small.scorer.with_options(batch_tokens=batch_tokens, format="sharegpt")
    assert_parity(scorer.score(rows), expected)


# What it was fitted on -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_reference_states_are_those_of_the_fitted_pairs(plain: Plain, sides: Sides) -> None:
    fitted = ReferenceSet.packaged().fitted
    assert len(sides[0]) == len(sides[1]) == len(fitted)
    for place in (0, len(fitted) - 1):
        for conversation, states in zip((fitted[place].unsafe, fitted[place].safe), sides, strict=True):
            np.testing.assert_allclose(unit(plain.state(list(conversation.messages))), states[place], atol=1e-5)


@pytest.fixture(scope="module")
def pairs() -> list[dict[str, Any]]:
    text = resources.files("larf_curate").joinpath("data/references.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


@pytest.mark.slow
def test_separation_is_that_of_the_held_back_pairs(
    tiny_model: Path, demo_scorer: LARFScorer, pairs: list[dict[str, Any]]
) -> None:
    """Computed anew on a tiny model, where that takes no time; the demo's own figure is the one that has to be good."""
    packaged = ReferenceSet.packaged()
    some = ReferenceSet((*packaged.fitted[::20], *packaged.held_back[::3]), "some of the packaged")
    scorer = LARFScorer.fit(str(tiny_model), 3, references=some, progress=False)
    held = [pair for pair in pairs if pair["held_back"]]
    unsafe, safe = (
        scorer.score([{"prompt": pair["request"], "completion": pair[side]} for pair in held[::3]])
        for side in ("unsafe", "safe")
    )
    auc = scipy.stats.mannwhitneyu(unsafe, safe).statistic / len(held[::3]) ** 2
    assert scorer.spec.separation.auc == pytest.approx(auc, abs=1e-3)
    assert scorer.spec.separation.pairs == len(held[::3])
    assert demo_scorer.spec.separation.pairs == len(held)
    assert demo_scorer.spec.separation.auc > 0.75


def test_packaged_pairs_match_in_tokens(plain: Plain, pairs: list[dict[str, Any]]) -> None:
    for pair in pairs:
        shorter, longer = sorted(len(plain.tokenizer(pair[side])["input_ids"]) for side in ("unsafe", "safe"))
        assert longer - shorter <= max(2, 0.1 * shorter), pair["request"]


def test_a_scorer_of_all_packaged_pairs_is_small(
    demo_scorer: LARFScorer, pairs: list[dict[str, Any]], tmp_path: Path
) -> None:
    demo_scorer.save_pretrained(tmp_path)
    assert demo_scorer.spec.references.pairs == sum(not pair["held_back"] for pair in pairs)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 2_000_000
