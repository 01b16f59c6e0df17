"""States equal those of transformers' own full forward pass, whatever the batch, the memory and the process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.models import SIZES
from support.states import (
    ARCHITECTURES,
    BLOCKS,
    LAYERS,
    assert_equal_states,
    encoder_of,
    full_states,
    has_fused_blocks,
    hooks_left,
    limit_memory,
    make_architecture,
    random_rows,
    shared_encoder,
)

from larf_curate.encoding.encoder import Encoder
from larf_curate.encoding.packing import PackedPass
from larf_curate.encoding.padding import PaddedPass
from larf_curate.errors import Issue, ModelError
from larf_curate.rows.rendering import Renderer
from larf_curate.rows.turns import Conversation


@pytest.fixture(scope="module", params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A tiny random model, and the states its full forward pass gives the `random_rows`."""
    directory = tmp_path_factory.mktemp(request.param)
    return directory, full_states(make_architecture(directory, request.param), random_rows())


@pytest.fixture(scope="module")
def llama_states(tiny_model: Path) -> np.ndarray:
    return full_states(tiny_model, random_rows())


PASSES = ["fused", "packed", "padded"]


@pytest.fixture(params=PASSES)
def llama(request: pytest.FixtureRequest, tiny_model: Path) -> Encoder:
    """All ways of running a batch."""
    forward = {"fused": None, "packed": PackedPass, "padded": PaddedPass}[request.param]
    encoder = shared_encoder(tiny_model, forward=forward)
    assert has_fused_blocks(encoder) == (request.param == "fused")
    return encoder


# Parity -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("highest", [0, BLOCKS - 1])
@pytest.mark.slow
def test_states_equal_the_full_forward_pass(architecture: tuple[Path, np.ndarray], highest: int) -> None:
    """Of the first block alone, and of all; test_architectures.py cuts models in the middle."""
    directory, expected = architecture
    layers = list(range(highest + 1))
    encoder = encoder_of(directory, highest, batch_tokens=64)
    states = encoder.encode(random_rows(), layers)
    assert_equal_states(states.values, expected[:, layers])
    assert states.issues == [None] * len(expected)
    assert len(encoder.loaded.blocks) == highest + 1
    assert encoder.loaded.total_blocks == BLOCKS
    assert encoder.loaded.hidden_size == SIZES["hidden_size"]


@pytest.mark.parametrize("layers", [[3], [4, 1], [0, 0, 2]], ids=str)
def test_layers_come_in_the_order_asked_for(llama: Encoder, llama_states: np.ndarray, layers: list[int]) -> None:
    assert_equal_states(llama.encode(random_rows(), layers).values, llama_states[:, layers])


@pytest.mark.parametrize("batch_tokens", [None, 1, 7, 24, 100, 100_000])
@pytest.mark.parametrize("order", [1, -1], ids=["forward", "reversed"])
def test_batches_and_order_do_not_show(
    tiny_model: Path, llama_states: np.ndarray, batch_tokens: int | None, order: int
) -> None:
    encoder = shared_encoder(tiny_model, batch_tokens=batch_tokens)
    assert_equal_states(encoder.encode(random_rows()[::order], LAYERS).values, llama_states[::order])


def test_no_rows_give_no_states(llama: Encoder) -> None:
    states = llama.encode([], [1, 2])
    assert states.values.shape == (0, 2, SIZES["hidden_size"])
    assert states.issues == []


def test_batches_stay_within_their_tokens_and_duplicates_run_once(tiny_model: Path, llama_states: np.ndarray) -> None:
    encoder = shared_encoder(tiny_model, forward=PaddedPass, batch_tokens=40)  # test_packing.py has the other way
    shapes: list[tuple[int, ...]] = []
    encoder.loaded.model.register_forward_pre_hook(
        lambda _m, _a, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    rows, done = random_rows(), []
    states = encoder.encode(rows + rows[::-1] + rows, [2], progress=done.append)
    assert_equal_states(states.values, np.concatenate([llama_states, llama_states[::-1], llama_states])[:, [2]])
    assert sum(count for count, _ in shapes) == len(rows)
    assert all(count * length <= 40 for count, length in shapes)
    assert sum(done) == 3 * len(rows)


def test_blocks_above_the_highest_layer_asked_for_do_not_run(llama: Encoder) -> None:
    ran: list[int] = []
    for i, block in enumerate(llama.loaded.blocks):
        block.register_forward_pre_hook(lambda *_, i=i: ran.append(i))
    llama.encode(random_rows([5]), [1, 2])
    assert ran == [0, 1, 2]


def test_bfloat16_runs_on_the_cpu(tiny_model: Path, llama_states: np.ndarray) -> None:
    encoder = encoder_of(tiny_model, dtype="bfloat16")
    states = encoder.encode(random_rows(), LAYERS).values
    assert encoder.loaded.dtype_name == "bfloat16"
    assert states.dtype == np.float32
    cosine = (states * llama_states).sum(-1) / np.linalg.norm(states, axis=-1) / np.linalg.norm(llama_states, axis=-1)
    assert cosine.min() > 0.99
    assert np.abs(states - llama_states).max() > 1e-3  # it was bfloat16 indeed


# Conversations ------------------------------------------------------------------------------------------------------


def conversation(answer: str) -> Conversation:
    return Conversation(({"role": "user", "content": "Say it."}, {"role": "assistant", "content": answer}))


def test_conversations_are_rendered_and_those_that_cannot_be_say_why(tiny_model: Path) -> None:
    encoder = shared_encoder(tiny_model, max_tokens=40)
    whole, cut, unusable = conversation("Yes."), conversation("Yes. " * 50), conversation("\ud800")
    done: list[int] = []
    states = encoder.states_of([unusable, whole, Issue.NO_ASSISTANT, cut], LAYERS, done.append)
    assert states.issues == [Issue.WRONG_TYPE, None, Issue.NO_ASSISTANT, Issue.TRUNCATED]
    rendered = [encoder.renderer.render(item) for item in (whole, cut)]
    assert states.tokens == [None, rendered[0].tokens, None, rendered[1].tokens]
    assert rendered[1].tokens > 40
    assert np.isnan(states.values[[0, 2]]).all()
    assert_equal_states(states.values[[1, 3]], full_states(tiny_model, [item.ids for item in rendered]))
    assert sum(done) == 4


def test_what_was_rendered_before_is_not_rendered_again(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = shared_encoder(tiny_model)
    rendered = encoder.render(conversation("Yes."))
    expected = encoder.states_of([conversation("Yes.")], [2])
    monkeypatch.setattr(Renderer, "render", None)
    states = encoder.states_of([rendered], [2])
    assert np.array_equal(states.values, expected.values)
    assert states.tokens == expected.tokens


def test_a_state_that_cannot_be_used_is_an_issue_of_its_conversation(tiny_model: Path) -> None:
    encoder = shared_encoder(tiny_model)
    limit_memory(encoder, 30, MemoryError)
    states = encoder.states_of([conversation("Yes."), conversation("Yes. " * 50)], [2])
    assert states.issues == [None, Issue.OUT_OF_MEMORY]


def test_prompts_have_the_state_at_which_their_answer_begins(tiny_model: Path) -> None:
    encoder = shared_encoder(tiny_model)
    states = encoder.states_of_prompts(["Why?", "\ud800", "How?"], LAYERS)
    assert states.issues == [None, Issue.WRONG_TYPE, None]
    ids = [
        encoder.loaded.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=False
        )
        for prompt in ("Why?", "How?")
    ]
    assert_equal_states(states.values[[0, 2]], full_states(tiny_model, ids))


# Out of memory ------------------------------------------------------------------------------------------------------

ERRORS = {
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cpu": lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 9000000000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "mps": lambda: RuntimeError("MPS backend out of memory (MPS allocated: 18.00 GB, max allowed: 18.13 GB)."),
    "python": MemoryError,
}


EVERY_PASS_AND_ERROR = [*((name, "cuda") for name in PASSES), *(("packed", kind) for kind in ERRORS if kind != "cuda")]
"""One by one: what a pass leaves behind when it fails does not hang on the error, nor an error on the pass."""


@pytest.mark.parametrize(("llama", "error"), EVERY_PASS_AND_ERROR, indirect=["llama"])
@pytest.mark.parametrize("tokens", [40, 90])
def test_a_batch_that_does_not_fit_is_halved(llama: Encoder, llama_states: np.ndarray, tokens: int, error: str) -> None:
    tried, done = limit_memory(llama, tokens, ERRORS[error]), []
    states = llama.encode(random_rows(), LAYERS, progress=done.append)
    assert max(tried) > tokens
    assert_equal_states(states.values, llama_states)
    assert states.issues == [None] * len(llama_states)
    assert sum(done) == len(llama_states)
    assert hooks_left(llama) == 0


def test_what_did_not_fit_is_remembered(llama: Encoder) -> None:
    tried = limit_memory(llama, 40, ERRORS["cpu"])
    llama.encode(random_rows(), [4])
    assert max(tried) > 40
    tried.clear()
    llama.encode(random_rows(seed=1), [4])
    assert len(tried) > 1
    assert max(tried) <= 40, "the second time, no batch fails"


@pytest.mark.parametrize(("llama", "error"), EVERY_PASS_AND_ERROR, indirect=["llama"])
def test_a_row_too_big_alone_is_unscorable_alone(llama: Encoder, llama_states: np.ndarray, error: str) -> None:
    limit_memory(llama, 39, ERRORS[error])  # the last of the rows has 40 tokens
    rows = random_rows()
    states = llama.encode([rows[-1], *rows], LAYERS)
    assert_equal_states(states.values[1:-1], llama_states[:-1])
    assert np.isnan(states.values[[0, -1]]).all()
    assert states.issues == [Issue.OUT_OF_MEMORY, *[None] * (len(rows) - 1), Issue.OUT_OF_MEMORY]


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 cannot be multiplied"), KeyboardInterrupt("Ctrl-C")])
def test_other_errors_are_not_swallowed_and_leave_no_hook(
    llama: Encoder, llama_states: np.ndarray, error: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise error

    handle = llama.loaded.blocks[2].register_forward_pre_hook(fail)
    with pytest.raises(type(error), match=str(error)):
        llama.encode(random_rows(), LAYERS)
    handle.remove()
    assert hooks_left(llama) == 0
    assert not llama.runtime.lock.locked()
    assert_equal_states(llama.encode(random_rows(), [1, 4]).values, llama_states[:, [1, 4]])


def test_a_token_that_the_model_has_no_embedding_for_is_refused(tiny_model: Path) -> None:
    """On a GPU it would end the process."""
    with pytest.raises(ModelError, match="gives token 512, and the model has embeddings for 512 tokens"):
        shared_encoder(tiny_model).encode([[5, 511], [512, 5]], LAYERS)


# Non-finite states --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("batch_tokens", [1, 100_000])
def test_a_non_finite_state_costs_its_own_row_only(
    tiny_model: Path, llama_states: np.ndarray, poison: float, batch_tokens: int
) -> None:
    encoder = encoder_of(tiny_model, batch_tokens=batch_tokens)
    with torch.no_grad():
        encoder.loaded.model.embed_tokens.weight[450] = poison  # a token that no other row holds
    rows = random_rows()
    states = encoder.encode([rows[4], [450, 5, 6], *rows], LAYERS)
    assert states.issues == [None, Issue.NON_FINITE, *[None] * len(rows)]
    assert np.isnan(states.values[1]).all()
    assert_equal_states(states.values[2:], llama_states)
    assert_equal_states(states.values[0], llama_states[4])


@pytest.mark.parametrize("forward", [None, PaddedPass], ids=["packed", "padded"])
def test_what_pads_hold_reaches_no_row(tiny_model: Path, llama_states: np.ndarray, forward: Any) -> None:
    """Zero times NaN is NaN: even a masked pad reaches the rows before it if its own state overflows."""
    encoder = encoder_of(tiny_model, forward=forward, batch_tokens=100_000)
    with torch.no_grad():
        encoder.loaded.model.embed_tokens.weight[:3] = float("nan")  # tokens in none of the rows
    states = encoder.encode(random_rows(), LAYERS)
    assert states.issues == [None] * len(llama_states)
    assert_equal_states(states.values, llama_states)
