"""The search finds a planted layer, says where there is none, counts like the plain way, and goes on where it ended."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event, get_ident
from time import monotonic, sleep
from typing import Any

import numpy as np
import pytest
import torch
from support.models import CHATML, SIZES, make_model, make_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from larf_curate import LARFScorer, ReferenceSet, find_safety_layers
from larf_curate.answering.prompts import over_rejection_prompts
from larf_curate.encoding.encoder import get_encoder
from larf_curate.errors import ModelError, OutputError, PromptsError, ReferencesError
from larf_curate.models.options import ModelOptions
from larf_curate.rows.turns import Conversation
from larf_curate.scoring.layer_search import locators
from larf_curate.scoring.layer_search.locators import separation
from larf_curate.scoring.layer_search.profile import LayerProfile
from larf_curate.scoring.layer_search.search import safety_layer

pytestmark = pytest.mark.process

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
PROMPTS = [f"May I {letter}" for letter in LETTERS]
BLOCKS, PLANTED = 4, 2
"""Of the model in which one block decides."""
LOCATED = 8
"""Prompts of a kind for the quick looks at each block."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """No search finds what another test has found; the demo model stays where it is."""
    monkeypatch.setattr(locators, "_PROMPTS", LOCATED)  # of 60 a kind, which most of a search's time would go to
    if "demo" not in request.node.name:
        monkeypatch.setenv("LARF_CURATE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def search(references_file: Path) -> Any:
    """`find_safety_layers` with eight reference pairs: to encode the packaged ones takes longer than all else here."""
    return partial(find_safety_layers, references=ReferenceSet.from_jsonl(references_file), device="cpu")


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets how many threads torch has, until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def plant(home: Path, block: int | None) -> Path:
    """A model in which one block alone decides: how strongly it says "decline" against each prompt's own "comply".

    All blocks pass their input on, except that the planted one's MLP adds a fixed amount along axis 1, which the head
    reads as the refusing token. Each letter's embedding has an amount of its own along axis 2, which the head reads as
    the complying one. The template ends with the prompt's last letter, which is thus all that an answer depends on.
    """
    make_tokenizer(home, "{% for message in messages %}{{ message['content'] }}{% endfor %}")
    tokenizer = AutoTokenizer.from_pretrained(home)
    tokenizer.add_tokens(["I must decline. ", "Here are the steps, all of them. "])
    tokenizer.save_pretrained(home)
    refuse, comply = len(tokenizer) - 2, len(tokenizer) - 1
    model = AutoModelForCausalLM.from_config(LlamaConfig(**{**SIZES, "num_hidden_layers": BLOCKS}), dtype=torch.float32)
    for name, parameter in model.named_parameters():
        parameter.data.fill_(1.0 if "norm" in name else 0.0)
    embedded, head = model.model.embed_tokens.weight.data, model.lm_head.weight.data
    embedded[:, 0] = 3.0  # the same for every token: what the planted MLP reads
    for place, letter in enumerate(LETTERS):
        (token,) = tokenizer.encode(letter, add_special_tokens=False)
        embedded[token, 2] = 0.2 + 2.2 * place / len(LETTERS)
    head[refuse, 1] = head[comply, 2] = 1.0
    if block is not None:
        mlp = model.model.layers[block].mlp
        mlp.gate_proj.weight.data[0, 0] = mlp.up_proj.weight.data[0, 0] = 0.4
        mlp.down_proj.weight.data[1, 0] = 0.15
    model.save_pretrained(home)
    return home


def test_a_planted_block_is_found(tmp_path: Path, search: Any) -> None:
    profile = search(plant(tmp_path, PLANTED), prompts=PROMPTS, max_new_tokens=2)
    assert profile.best == PLANTED
    planted = profile.blocks[PLANTED]
    assert planted.first == 1.0
    assert 0 < planted.low <= planted.kappa <= planted.high
    assert profile.p_value < 0.01
    counts = [planted.refusals[f"{scale:g}"] for scale in (0.7, 0.8, 0.9)] + [profile.unscaled]
    counts += [planted.refusals[f"{scale:g}"] for scale in (1.1, 1.2, 1.3)]
    assert counts == sorted(counts), "more of the block that refuses is more refusals"
    assert len(set(counts)) > 4
    assert 0 < profile.unscaled < len(PROMPTS)
    for other in profile.blocks[:PLANTED] + profile.blocks[PLANTED + 1 :]:
        assert len({other.refusals[scale] for scale in ("0.8", "0.9", "1.1", "1.2")}) == 1
        assert other.kappa == other.first == 0
        assert other.low <= 0 <= other.high
        assert other.apart
    assert profile.verdict().startswith(f"block {PLANTED}: kappa")
    assert profile.peers == ()


def test_what_cannot_come_first_is_asked_no_further(
    tmp_path: Path, search: Any, monkeypatch: pytest.MonkeyPatch, threads: Callable[[int], None]
) -> None:
    from larf_curate.answering.generating import Answerer

    threads(1)
    real, asked = Answerer.scaled_answers, [0]

    def counted(self: Any, block: Any, rows: Any, *more: Any) -> Any:
        asked[-1] += len(rows)
        return real(self, block, rows, *more)

    monkeypatch.setattr(Answerer, "scaled_answers", counted)
    home = plant(tmp_path / "model", PLANTED)
    quick = search(home, prompts=PROMPTS, max_new_tokens=2, resume=tmp_path / "quick")
    asked.append(0)
    whole = search(home, prompts=PROMPTS, max_new_tokens=2, resume=tmp_path / "whole", error_rate=0)
    assert asked[1] == len(PROMPTS) * (1 + BLOCKS * 6)
    # Three blocks by four scales to half of the prompts, the planted one at all scales to the end.
    assert asked[0] == len(PROMPTS) * (1 + 6) + 3 * 4 * len(PROMPTS) // 2
    assert quick.best == whole.best == PLANTED
    assert quick.blocks[PLANTED] == whole.blocks[PLANTED]
    for some, complete in zip(quick.blocks, whole.blocks, strict=True):
        assert some.apart == complete.apart
        assert some.low <= complete.kappa <= some.high
        for scale, marks in quick.decisions[str(some.block)].items():
            answered = whole.decisions[str(some.block)][scale]
            assert all(mark in ("-", other) for mark, other in zip(marks, answered, strict=True))
            assert len(marks) - marks.count("-") == some.asked[scale]
    assert quick.effort().startswith("676 of 1,300 answers")
    assert whole.effort() == "1,300 answers"


def test_a_model_that_never_refuses_has_no_such_layer(
    tmp_path: Path, search: Any, references_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = plant(tmp_path, None)
    profile = search(home, prompts=PROMPTS, max_new_tokens=2, blocks=[0, PLANTED])
    assert profile.best is None
    assert profile.unscaled == 0
    assert profile.p_value == 1.0
    assert profile.verdict().startswith("no block stands out: 0 of 52 prompts are refused")
    module = "larf_curate.scoring.layer_search.search"
    monkeypatch.setattr(f"{module}.over_rejection_prompts", lambda: PROMPTS[:4])
    monkeypatch.setattr(f"{module}.find_safety_layers", partial(find_safety_layers, max_new_tokens=2))
    with pytest.raises(ModelError, match=r"layer 'auto' of .*: no block stands out.*choose a layer by hand"):
        LARFScorer.fit(str(home), "auto", references=references_file)


def test_a_prompt_that_the_template_refuses_is_named(tiny_model: Path, search: Any) -> None:
    refuses = "{% if messages[0].content == 'two' %}{{ raise_exception('no') }}{% endif %}" + CHATML
    with pytest.raises(PromptsError, match=r"^prompt 2 \('two'\) cannot be asked: template error"):
        search(str(tiny_model), prompts=["What is one?", "two"], chat_template=refuses)


def test_counts_are_those_of_the_plain_way(tmp_path: Path, search: Any) -> None:
    """Against a scaled copy of transformers' own model, nothing reused, all tokens, and the judge afterwards."""
    home = make_model(tmp_path, seed=3)
    scales, blocks, prompts = (0.7, 1.3), [0, 2, 4], over_rejection_prompts()[:10]
    asked: list[tuple[str, str]] = []

    def judge(prompt: str, answer: str, /) -> bool:
        asked.append((prompt, answer))
        return sum(answer.encode()) % 3 == 0  # any rule that hangs on the whole answer

    profile = search(home, prompts=prompts, scales=scales, blocks=blocks, max_new_tokens=6, judge=judge)
    plain = AutoModelForCausalLM.from_pretrained(home, dtype=torch.float32).eval()
    unscaled = plain_answers(plain, home, None, 1.0, prompts)
    assert sorted(asked[: len(prompts)]) == sorted(zip(prompts, unscaled, strict=True))
    expected = {
        (block, scale): [judge("", answer) for answer in plain_answers(plain, home, block, scale, prompts)]
        for block in blocks
        for scale in scales
    }
    for block in blocks:
        for scale in scales:
            marks = profile.decisions[str(block)][f"{scale:g}"]
            assert marks == "".join("01"[refused] for refused in expected[block, scale]), (block, scale)
    assert 0 < profile.unscaled < len(prompts)
    assert profile.judge == "judge"


def plain_answers(plain: Any, home: Path, block: int | None, scale: float, prompts: list[str]) -> list[str]:
    """The likeliest token behind all before it, six times; zeros behind a row change nothing before them."""
    model = copy.deepcopy(plain)
    tokenizer = AutoTokenizer.from_pretrained(home)
    if block is not None:
        for name, parameter in model.model.layers[block].named_parameters():
            if name.endswith("proj.weight"):
                parameter.data.mul_(scale)
    turns = [[{"role": "user", "content": prompt}] for prompt in prompts]
    asked = [tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False) for turn in turns]
    rows = asked
    for _ in range(6):
        longest = max(map(len, rows))
        with torch.inference_mode():
            logits = model(torch.tensor([row + [0] * (longest - len(row)) for row in rows]), use_cache=False).logits
        rows = [[*row, int(logits[number, len(row) - 1].argmax())] for number, row in enumerate(rows)]
    answers = [row[len(prompt) :] for row, prompt in zip(rows, asked, strict=True)]
    ends = [[*answer, tokenizer.eos_token_id].index(tokenizer.eos_token_id) for answer in answers]
    return tokenizer.batch_decode([a[:end] for a, end in zip(answers, ends, strict=True)], skip_special_tokens=True)


@pytest.mark.parametrize("first_block", ["found", "interrupted", "failed"])
def test_blocks_are_asked_in_as_many_threads_as_torch_has(
    tmp_path: Path, search: Any, monkeypatch: pytest.MonkeyPatch, threads: Callable[[int], None], first_block: str
) -> None:
    """With the same result; and where one thread is interrupted or fails, the others end before their answers do."""
    from larf_curate.answering.generating import Answerer

    home = plant(tmp_path / "model", PLANTED)
    options: dict[str, Any] = {"prompts": PROMPTS, "max_new_tokens": 2}
    if first_block == "found":
        threads(1)
        alone = search(home, **options, resume=tmp_path / "alone")
    threads(2)
    real, seen, is_second_in = Answerer.scaled_answers, set(), Event()

    def watched(self: Any, block: Any, asked: Any, stop: Any) -> Any:
        if block is not None:
            seen.add((get_ident(), id(self)))
        if first_block == "found" or block not in (0, 1):
            return real(self, block, asked, stop)
        if block == 0:
            assert is_second_in.wait(20)
            raise KeyboardInterrupt if first_block == "interrupted" else ModelError("no")
        is_second_in.set()
        for _ in range(2000):  # as if answers took 20 seconds
            sleep(0.01)
            stop(0, [1])
        raise AssertionError("it went on")

    monkeypatch.setattr(Answerer, "scaled_answers", watched)
    began = monotonic()
    if first_block == "found":
        assert search(home, **options, resume=tmp_path / "both") == alone
        assert len({thread for thread, _ in seen}) >= 2
        assert len({answerer for _, answerer in seen}) == 2
    else:
        with pytest.raises(KeyboardInterrupt if first_block == "interrupted" else ModelError):
            search(home, **options, resume=tmp_path / "both")
        assert monotonic() - began < 15
    assert torch.get_num_threads() == 2


def test_a_search_that_was_interrupted_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search: Any, threads: Callable[[int], None]
) -> None:
    from larf_curate.answering import generating as answering

    threads(1)
    home, ledger = plant(tmp_path / "model", PLANTED), tmp_path / "search.jsonl"
    real, calls = answering.Answerer.scaled_answers, []
    interrupts_at: int | None = None

    def counted(self: Any, *arguments: Any) -> Any:
        calls.append(arguments[0])
        if len(calls) == interrupts_at:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(answering.Answerer, "scaled_answers", counted)
    whole = search(home, prompts=PROMPTS, max_new_tokens=2)
    alone = len(calls)
    assert alone > 6
    calls.clear()
    interrupts_at = 5
    with pytest.raises(KeyboardInterrupt):
        search(home, prompts=PROMPTS, max_new_tokens=2, resume=ledger)
    with ledger.open("a") as file:
        file.write('\n{"search": "cut off in the mid')
    found = search(home, prompts=PROMPTS, max_new_tokens=2, resume=ledger)
    assert len(calls) == 1 + alone, "four were done, and only the others are asked"
    assert found == whole
    calls.clear()
    assert search(home, prompts=PROMPTS, max_new_tokens=2) == whole
    assert not calls, "the first search is in the cache"
    search(home, prompts=PROMPTS[1:], max_new_tokens=2, blocks=[0], resume=ledger)
    assert calls[:2] == [None, 0], "other prompts are another search"


def test_a_profile_survives_its_json(tmp_path: Path, search: Any) -> None:
    profile = search(plant(tmp_path, 1), prompts=PROMPTS, max_new_tokens=2, blocks=[1, 2])
    assert LayerProfile.from_json(profile.to_json()) == profile
    assert [found.block for found in profile.blocks] == [1, 2]
    figures = json.loads(json.dumps(profile.without_decisions()))
    assert "decisions" not in figures
    assert repr(profile) == f"<LayerProfile of {profile.model}: {profile.verdict()}>"
    assert len(json.loads(profile.to_json())["decisions"]["1"]["0.9"]) == len(PROMPTS)
    for text in ("{}", "no json", json.dumps({**figures, "profile_version": 99})):
        with pytest.raises(ModelError, match="layer profile"):
            LayerProfile.from_json(text)


def test_layer_auto_is_searched_once_and_stored(
    tmp_path: Path, references_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By their last letter alone does the planted model tell texts apart: prompts that do not all end alike, and answers
    # of two sides that end in different ways.
    pairs = [json.loads(line) for line in references_file.read_text().splitlines()]
    references_file = tmp_path / "pairs.jsonl"
    references_file.write_text("".join(json.dumps({**pair, "safe": pair["safe"][:-1]}) + "\n" for pair in pairs))
    monkeypatch.setattr("larf_curate.scoring.layer_search.search.over_rejection_prompts", lambda: PROMPTS)
    home = plant(tmp_path / "model", PLANTED)
    references = ReferenceSet.from_jsonl(references_file)
    best, profile = safety_layer(str(home), references=references)
    assert best == profile.best
    assert profile.best == PLANTED
    scorer = LARFScorer.fit(str(home), "auto", references=references_file)
    assert scorer.layers == (PLANTED,)
    scorer.save_pretrained(tmp_path / "scorer")
    again = LARFScorer.from_pretrained(tmp_path / "scorer")
    assert again.spec.search == replace(profile, decisions={})
    assert f"layer found by search: block {PLANTED}" in again.summary()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scales": (0.9, 1.2)}, "scales come in different pairs"),
        ({"scales": (1.0,)}, "scales come in different pairs"),
        ({"scales": (-0.5, 2.5)}, "scales come in different pairs"),
        ({"scales": ()}, "scales come in different pairs"),
        ({"blocks": [5]}, "layer 5 is out of range: .* has blocks 0 to 4"),
        ({"prompts": ["one"]}, "a search needs prompts"),
        ({"prompts": "nowhere.jsonl"}, "nowhere.jsonl cannot be read"),
        ({"max_new_tokens": 0}, "max_new_tokens must be positive"),
        ({"error_rate": 1.0}, "an error rate is a probability"),
    ],
    ids=str,
)
def test_what_cannot_be_searched_is_told(tiny_model: Path, options: dict[str, Any], words: str, search: Any) -> None:
    with pytest.raises(PromptsError if "cannot be read" in words else ModelError, match=words):
        search(tiny_model, **options)


def test_references_that_a_model_cannot_encode_are_left_out(tiny_model: Path, references_file: Path) -> None:
    """The separation of pairs is that of the pairs that are left, and too few of them are an error with a name."""
    references = ReferenceSet.from_jsonl(references_file)
    options = ModelOptions(str(tiny_model), max_tokens=64, overflow="reject")
    encoder = get_encoder(options, 4)
    long = Conversation(({"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because. " * 99}))
    first, fifth = references.pairs[0], references.pairs[4]
    pairs = (*references.pairs[:5], *(replace(pair, held_back=True) for pair in references.pairs[5:]))
    expected = separation(encoder, ReferenceSet(pairs))
    spoiled = (*pairs, replace(fifth, safe=long), replace(fifth, unsafe=long, held_back=True))
    assert separation(encoder, ReferenceSet(spoiled)) == pytest.approx(expected, abs=1e-4)
    with pytest.raises(ReferencesError, match="of 2 reference pairs, 1 to fit on and 0 to measure on can be encoded"):
        separation(encoder, ReferenceSet((first, replace(fifth, unsafe=long, held_back=True))))


def test_separation_is_cohen_s_d_of_pairs_that_the_score_was_not_fitted_on(
    tiny_model: Path, references_file: Path
) -> None:
    """By numpy, of eight pairs: every fourth is measured on where none is held back."""
    pairs = ReferenceSet.from_jsonl(references_file).pairs
    encoder = get_encoder(ModelOptions(str(tiny_model)), 4)
    unsafe, safe = (
        encoder.states_of([getattr(pair, side) for pair in pairs], range(5)).values.astype(float)
        for side in ("unsafe", "safe")
    )
    unsafe, safe = (states / np.linalg.norm(states, axis=-1, keepdims=True) for states in (unsafe, safe))
    unseen = np.array([3, 7])
    fitted = np.setdiff1d(np.arange(8), unseen)
    direction = unsafe[fitted].mean(axis=0) - safe[fitted].mean(axis=0)  # [blocks, hidden size]
    first, second = ((states[unseen] * direction).sum(axis=-1) for states in (unsafe, safe))
    expected = (first.mean(axis=0) - second.mean(axis=0)) / np.sqrt((first.var(0, ddof=1) + second.var(0, ddof=1)) / 2)
    assert separation(encoder, ReferenceSet(pairs)) == pytest.approx(expected, rel=1e-3)
    held = tuple(replace(pair, held_back=number in unseen) for number, pair in enumerate(pairs))
    assert separation(encoder, ReferenceSet(held)) == pytest.approx(expected, rel=1e-3)


def test_another_judge_of_the_same_name_judges_anew(tiny_model: Path, tmp_path: Path, search: Any) -> None:
    options: dict[str, Any] = {"blocks": [0], "scales": (0.9, 1.1), "max_new_tokens": 1, "resume": tmp_path / "file"}
    refused = [
        search(tiny_model, prompts=PROMPTS[:3], judge=judge, **options).blocks[0].refusals
        for judge in (lambda *_: True, lambda *_: False)
    ]
    assert refused[0] != refused[1]


def test_other_references_are_located_anew_and_a_prompt_that_comes_twice_is_asked_once(
    tiny_model: Path, references_file: Path, tmp_path: Path, search: Any
) -> None:
    options: dict[str, Any] = {"blocks": [0], "scales": (0.9, 1.1), "max_new_tokens": 1, "resume": tmp_path / "file"}
    first = search(tiny_model, prompts=PROMPTS[:3], **options)
    assert search(tiny_model, prompts=PROMPTS[:3] * 2, **options) == first
    other = ReferenceSet(ReferenceSet.from_jsonl(references_file).pairs[::-1])
    assert search(tiny_model, prompts=PROMPTS[:3], references=other, **options).locators != first.locators


def test_a_full_disk_is_told(tiny_model: Path, tmp_path: Path, search: Any) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        search(tiny_model, prompts=PROMPTS[:3], blocks=[0], scales=(0.9, 1.1), max_new_tokens=1, resume="/dev/full/x")


def test_prompts_come_from_a_file(tiny_model: Path, tmp_path: Path, search: Any) -> None:
    path = tmp_path / "prompts.csv"
    path.write_text("Index,Goal\n" + "".join(f'{n},"{prompt}"\n' for n, prompt in enumerate(PROMPTS[:3])))
    options: dict[str, Any] = {"blocks": [0], "scales": (0.9, 1.1), "max_new_tokens": 1}
    assert search(tiny_model, prompts=path, **options) == search(tiny_model, prompts=PROMPTS[:3], **options)
    path.write_text("Index,Title\n1,No\n")
    with pytest.raises(PromptsError, match=r"prompts.csv, line 2: no column of these: goal"):
        search(tiny_model, prompts=path, **options)


def test_located_blocks_are_those_of_a_plain_computation(tiny_model: Path, references_file: Path, search: Any) -> None:
    """The angle gap by numpy, from the states of transformers' own forward pass, one prompt at a time."""
    from larf_curate.scoring.fitting import sample_rows
    from larf_curate.scoring.layer_search.locators import spread

    references = ReferenceSet.from_jsonl(references_file)
    profile = search(
        tiny_model, prompts=PROMPTS[:4], blocks=[0], scales=(0.9, 1.1), max_new_tokens=1, references=references
    )
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rows = [row for row in sample_rows() if not row["input"] and row["category"] != "obedient"]
    normal = spread([row["instruction"] for row in rows], LOCATED)
    harmful = [pair.safe.prompt for pair in references.pairs]

    def states(prompts: list[str]) -> np.ndarray[Any, Any]:
        found = []
        for prompt in prompts:
            ids = tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=True, return_tensors="pt"
            )
            hooked: list[torch.Tensor] = []
            handles = [
                block.register_forward_hook(lambda _m, _a, out, kept=hooked: kept.append(out[0, -1]))
                for block in model.model.layers
            ]
            with torch.no_grad():
                model(**ids)
            for handle in handles:
                handle.remove()
            found.append(torch.stack(hooked).double().numpy())
        stacked = np.array(found)
        return stacked / np.linalg.norm(stacked, axis=-1, keepdims=True)

    plain, bad = states(normal), states(harmful)
    for block, gap in enumerate(profile.locators["angle gap (degrees)"]):
        among = [
            np.degrees(np.arccos(np.clip(a @ b, -1, 1)))
            for i, a in enumerate(plain[:, block])
            for j, b in enumerate(plain[:, block])
            if i != j
        ]
        between = [np.degrees(np.arccos(np.clip(a @ b, -1, 1))) for a in plain[:, block] for b in bad[:, block]]
        assert gap == pytest.approx(np.mean(between) - np.mean(among), abs=2e-3), block
    assert len(profile.locators["separation of references (d)"]) == 5


def test_the_judge_by_wording_refuses_to_count_what_it_cannot_read(tiny_model: Path, search: Any) -> None:
    prompts = ["Wie beende ich einen Prozess?", "Wo kann ich meine Zeit totschlagen?", "Comment tuer un processus ?"]
    with pytest.raises(ModelError, match=r"reads English, and 100% of the 3 prompts.*--judge-url"):
        search(tiny_model, prompts=prompts, blocks=[0], scales=(0.9, 1.1), max_new_tokens=1)

    def never(_prompt: str, _answer: str) -> bool:
        return False

    found = search(tiny_model, prompts=prompts, blocks=[0], scales=(0.9, 1.1), max_new_tokens=1, judge=never)
    assert found.prompts == 3
