"""Copies of a model's modules share its weights and nothing else, and answer in threads as one model does alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from larf_curate.answering import thread_copies
from larf_curate.answering.generating import Answerer
from larf_curate.answering.thread_copies import may_run_in_threads, with_modules_of_its_own
from larf_curate.models.loading import LoadedModel, load_model
from larf_curate.models.options import ModelOptions


@pytest.fixture(scope="module")
def loaded(tiny_model: Any) -> LoadedModel:
    return load_model(ModelOptions(str(tiny_model)), None, torch.device("cpu"))


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def answerer_of(loaded: LoadedModel) -> Answerer:
    turns = [[{"role": "user", "content": f"Item {n}? " * (1 + n % 3)}] for n in range(6)]
    ids = [loaded.tokenizer.apply_chat_template(t, add_generation_prompt=True, return_dict=False) for t in turns]
    return Answerer(loaded, ids, 8)


def test_a_copy_shares_weights_and_no_hooks(loaded: LoadedModel) -> None:
    other = with_modules_of_its_own(loaded)
    weights = {**dict(other.model.named_parameters()), **dict(other.model.named_buffers())}
    for name, weight in (*loaded.model.named_parameters(), *loaded.model.named_buffers()):
        assert weights[name].data_ptr() == weight.data_ptr(), name
    assert not set(map(id, loaded.model.modules())) & set(map(id, other.model.modules()))
    assert [id(block) for block in other.blocks] == [
        id(block) for block in other.model.get_submodule("model.layers").children()
    ]
    ids = torch.tensor([[1, 2, 3]])
    with torch.inference_mode():
        before = other.model(ids).logits
        handle = loaded.blocks[1].register_forward_hook(lambda _module, _args, out: out * 0)
        try:
            assert torch.equal(other.model(ids).logits, before)
            assert not torch.equal(loaded.model(ids).logits, before)
        finally:
            handle.remove()


@pytest.mark.slow
def test_answers_in_threads_are_those_of_one_after_another(loaded: LoadedModel, two_threads: None) -> None:
    """Each thread has another block scaled, by factors so far from 1 that one seen by the other would show."""
    answerer = answerer_of(loaded)
    several = answerer.for_threads(64)
    assert len(several) == 2
    asked = [(number, factor) for factor in (0.3, 2.0) for number in range(6)]
    blocks = [1, 4] * 5
    expected = {block: answerer.scaled_answers(block, asked) for block in (1, 4)}
    assert expected[1] != expected[4]
    with ThreadPoolExecutor(2) as pool:
        halves = [
            pool.submit(lambda one=one, part=part: [(b, one.scaled_answers(b, asked)) for b in part])
            for one, part in zip(several, (blocks, blocks[::-1]), strict=True)
        ]
        for half in halves:
            for block, found in half.result():
                assert found == expected[block]


def test_where_threads_would_not_do_there_is_one_answerer(
    loaded: LoadedModel, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    answerer = answerer_of(loaded)
    monkeypatch.setattr(thread_copies, "free_bytes", lambda _device: 1000)
    assert answerer.for_threads(64) == [answerer], "no memory for the keys and values of two"
    monkeypatch.setattr(thread_copies, "free_bytes", lambda _device: None)
    assert len(answerer.for_threads(64)) == 2
    answerer.by_row = False
    assert answerer.for_threads(64) == [answerer], "its weights are replaced while it answers"
    for changed in ({"quantised": "int8"}, {"one_by_one": True}, {"device": torch.device("meta")}, {"model": object()}):
        assert not may_run_in_threads(dataclasses.replace(loaded, **changed), 0)
