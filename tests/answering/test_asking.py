"""Many prompts asked once get the answers that each gets alone, and are read once."""

from __future__ import annotations

import pytest
import torch
from support.models import make_model
from transformers import MambaConfig

from larf_curate.answering.asking import answers_to
from larf_curate.answering.generating import Answerer
from larf_curate.models.loading import LoadedModel, load_model
from larf_curate.models.options import ModelOptions

TOKENS = 5


@pytest.fixture(scope="module")
def loaded(tiny_model) -> LoadedModel:
    return load_model(ModelOptions(str(tiny_model)), None, torch.device("cpu"))


@pytest.fixture(scope="module")
def prompts(loaded) -> list[list[int]]:
    """24 of many lengths, with the system's turn in common."""
    turns = [
        [{"role": "system", "content": "You are a fox."}, {"role": "user", "content": f"Item {n}? " * (1 + n % 7)}]
        for n in range(24)
    ]
    return [loaded.tokenizer.apply_chat_template(t, add_generation_prompt=True, return_dict=False) for t in turns]


def greedy(loaded: LoadedModel, prompt: list[int], answer: list[int]) -> tuple[list[int], torch.Tensor]:
    """transformers' own answer to one prompt, if it begins like this one, and the logits of its first token.

    By one pass over both: the token that is the likeliest at each place of the answer.
    """
    with torch.inference_mode():
        logits = loaded.model(torch.tensor([prompt + answer]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    return logits.argmax(-1).tolist(), logits[0]


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.slow
def test_answers_and_first_logits_are_those_of_each_prompt_alone(loaded, prompts, together, monkeypatch):
    if not together:
        monkeypatch.setattr(Answerer, "_is_exact", lambda _self, **_: False)
    seen: dict[int, torch.Tensor] = {}

    def first(numbers, logits):
        assert not set(numbers) & set(seen)
        seen.update(zip(numbers, logits, strict=True))

    counted: list[int] = []
    found = answers_to(loaded, prompts, TOKENS, first=first, update=counted.append, at_once=10)
    assert counted == [10, 10, 4]
    for number, prompt in enumerate(prompts):
        answer, logits = greedy(loaded, prompt, found[number])
        assert len(answer) == TOKENS, "a random head ends no answer"
        assert found[number] == answer
        torch.testing.assert_close(seen[number], logits, atol=1e-4, rtol=1e-4)
    assert len({tuple(answer) for answer in found}) > 1, "prompts that all get one answer would prove nothing"


def test_prompts_are_read_one_by_one_where_reading_them_together_would_change_answers(tmp_path):
    """The state of a Mamba holds the padding too."""
    config = MambaConfig(vocab_size=512, hidden_size=48, num_hidden_layers=2, state_size=8)
    mamba = load_model(ModelOptions(str(make_model(tmp_path, config))), None, torch.device("cpu"))
    some = [list(range(10, 14)), list(range(30, 39))]
    for prompt, answer in zip(some, answers_to(mamba, some, 2), strict=True):
        assert answer == greedy(mamba, prompt, answer)[0]


def test_an_answer_ends_when_its_text_says_enough(loaded, prompts):
    whole = answers_to(loaded, prompts, TOKENS)
    texts = [loaded.tokenizer.decode(answer) for answer in whole]
    found = answers_to(loaded, prompts, TOKENS, stop=lambda text: len(text) > 3)
    for answer, full, text in zip(found, whole, texts, strict=True):
        assert answer == full[: len(answer)]
        assert len(answer) < len(full) or len(text) <= 3 or len(loaded.tokenizer.decode(full[:-1])) <= 3
    assert answers_to(loaded, [], TOKENS) == []


def test_each_prompt_is_read_once_but_for_the_few_that_are_tried(loaded, prompts):
    many = [list(prompt) for prompt in prompts for _ in range(5)]
    read: list[int] = []
    hook = loaded.blocks[-1].register_forward_hook(lambda _m, _a, out: read.append(out.shape[0] * out.shape[1]))
    answers_to(loaded, many, 1)
    hook.remove()
    assert sum(read) < 1.3 * sum(map(len, many))
