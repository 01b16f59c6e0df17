"""Conversations without pads: nothing is computed twice or for nothing, and a shortcut that is wrong is found out."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from support.models import make_model
from support.states import (
    ARCHITECTURES,
    BLOCKS,
    LAYERS,
    assert_equal_states,
    encoder_of,
    full_states,
    has_lean_blocks,
    is_packed,
    make_architecture,
    random_rows,
)

from larf_curate.encoding import attention, batching, packing
from larf_curate.encoding import fused as lean
from larf_curate.encoding.batching import plan_packs
from larf_curate.encoding.encoder import Encoder
from larf_curate.encoding.packing import PackedPass
from larf_curate.encoding.padding import PaddedPass
from larf_curate.encoding.runtime import Runtime
from larf_curate.models.options import ModelOptions

BEGINNING = [7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24]
ROWS = [[*BEGINNING, *own] for own in ([30], [31, 32], [33, 34, 35], [40, 41, 42], list(range(50, 90)))]


def sizes_seen(module: torch.nn.Module) -> list[int]:
    """How many tokens a module is given, call by call."""
    seen: list[int] = []
    module.register_forward_pre_hook(lambda _m, args: seen.append(args[0].shape[:-1].numel()))
    return seen


LEAN = ["llama", "llama3_rope", "mistral", "qwen2", "qwen3"]


@pytest.fixture(autouse=True)
def _few_tokens_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beginnings run by themselves in lists as short as these."""
    monkeypatch.setattr(batching, "_SET_UP", 0)


@pytest.mark.parametrize("layers", [[BLOCKS - 1], [0, 2]], ids=str)
@pytest.mark.parametrize(
    ("name", "are_lean"), [*((name, name in LEAN) for name in ARCHITECTURES), *((name, False) for name in LEAN)]
)
def test_states_equal_the_full_forward_pass(name: str, layers: list[int], are_lean: bool, tmp_path: Path) -> None:
    """In one batch, in several that share a beginning, and one by one; in lean blocks and in the model's own."""
    auto = make_architecture(tmp_path, name)
    expected = full_states(tmp_path, ROWS, auto)[:, layers]
    for batch_tokens in (None, 25, 1):
        forward = PackedPass if name in LEAN and not are_lean else None
        encoder = encoder_of(tmp_path, max(layers), forward, batch_tokens=batch_tokens)
        states = encoder.encode(ROWS, layers)
        assert is_packed(encoder)
        assert has_lean_blocks(encoder) == are_lean
        assert_equal_states(states.values, expected)


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2"])
@pytest.mark.parametrize("queries", [3, 64])
@pytest.mark.parametrize("long", [1, 10_000])
def test_attention_in_chunks_and_in_torch_s_own_kernel(
    name: str, queries: int, long: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of all lengths, also shorter than the beginning that they share."""
    monkeypatch.setattr(attention, "_QUERIES", queries)
    monkeypatch.setattr(attention, "_LONG", long)
    make_architecture(tmp_path, name)
    rows = ROWS + random_rows()
    encoder = encoder_of(tmp_path)
    assert_equal_states(encoder.encode(rows, LAYERS).values, full_states(tmp_path, rows))
    assert is_packed(encoder)


@pytest.mark.parametrize("are_lean", [True, False], ids=["lean", "own"])
def test_the_common_beginning_runs_once_and_no_pad_does(tiny_model: Path, are_lean: bool) -> None:
    encoder = encoder_of(tiny_model, 2, None if are_lean else PackedPass, batch_tokens=30)
    encoder.encode(ROWS[:1], [2])  # what suits the model is found out
    first, mlp = (sizes_seen(encoder.loaded.blocks[i].mlp.gate_proj) for i in (0, 2))
    encoder.encode([*ROWS, ROWS[0]], [2])
    own = sum(len(row) - len(BEGINNING) for row in ROWS)
    assert len(first) > 1
    assert sum(first) == len(BEGINNING) + own
    assert sum(mlp) == len(ROWS), "in the highest block, what follows attention runs on the last tokens alone"


def test_lean_blocks_leave_the_model_s_own_as_they_were(tiny_model: Path) -> None:
    encoder = encoder_of(tiny_model)
    encoder.encode(ROWS, LAYERS)
    assert has_lean_blocks(encoder)
    assert not any("forward" in vars(block) for block in encoder.loaded.blocks)


@pytest.mark.parametrize("fault", ["norm", "rotation", "bias"])
def test_lean_blocks_that_are_wrong_are_not_used(tiny_model: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks may have the names of Llama's and do other things."""
    encoder = encoder_of(tiny_model)
    block = encoder.loaded.blocks[1]
    if fault == "norm":  # as Gemma's
        block.input_layernorm.forward = lambda x, own=block.input_layernorm.forward: own(x) + x
    if fault == "rotation":
        monkeypatch.setattr(lean, "_rotated", lambda states, *_: states)
    if fault == "bias":
        block.mlp.down_proj.forward = lambda x, own=block.mlp.down_proj.forward: own(x) + 1
    found = encoder.encode(ROWS, LAYERS).values
    assert is_packed(encoder)
    assert not has_lean_blocks(encoder)
    encoder = Encoder(ModelOptions("the same"), Runtime(encoder.loaded, PaddedPass(encoder.loaded)))
    assert_equal_states(found, encoder.encode(ROWS, LAYERS).values)


def test_products_that_are_not_plain_have_no_lean_blocks(tiny_model: Path) -> None:
    """Weights in eight bits or with an adapter beside them: their product is not of the weights alone."""

    class Other(torch.nn.Linear):
        pass

    encoder = encoder_of(tiny_model)
    encoder.loaded.blocks[0].mlp.up_proj.__class__ = Other
    encoder.encode(ROWS, LAYERS)
    assert not has_lean_blocks(encoder)


def test_attention_is_as_it_was_afterwards(tiny_model: Path) -> None:
    encoder = encoder_of(tiny_model, forward=PackedPass)
    before = encoder.loaded.model.config._attn_implementation
    encoder.encode(ROWS, LAYERS)
    assert encoder.loaded.model.config._attn_implementation == before != attention.NAME
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in encoder.loaded.blocks)


def test_mamba_has_no_attention_to_pack(tmp_path: Path) -> None:
    """It would mix the conversations that lie end to end."""
    config = transformers.MambaConfig(vocab_size=512, hidden_size=48, num_hidden_layers=BLOCKS, state_size=4)
    make_model(tmp_path, config)
    encoder = encoder_of(tmp_path)
    found = encoder.encode(ROWS[:2], [BLOCKS - 1]).values
    assert not is_packed(encoder)
    alone = [encoder.encode([row], [BLOCKS - 1]).values[0] for row in ROWS[:2]]
    assert_equal_states(found, np.stack(alone))


@pytest.mark.parametrize("fault", ["positions", "mixed", "prefix", "last"])
def test_a_pass_that_is_wrong_is_not_used(tiny_model: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(PackedPass):
        def __call__(self, rows: Any, shared: int) -> torch.Tensor:
            if fault == "mixed":  # as if each row saw those before it
                rows = [list(chain(*rows[: at + 1])) for at in range(len(rows))]
            if fault == "positions":
                rows = [row[1:] for row in rows]
            if fault == "last":
                rows = [row[:-1] for row in rows]
            if fault == "prefix":
                shared -= 1
                rows = [[*row[:shared], *rows[0][shared : shared + 1], *row[shared + 1 :]][::-1] for row in rows]
            return super().__call__(rows, shared)

    monkeypatch.setattr(packing, "PackedPass", Wrong)
    encoder = encoder_of(tiny_model)
    states = encoder.encode(ROWS, LAYERS).values
    assert not is_packed(encoder)
    assert_equal_states(states, full_states(tiny_model, ROWS))


def test_attention_with_something_more_is_not_ours(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = attention.attend
    with_sinks = lambda *args, **kwargs: plain(*args, **kwargs, s_aux=torch.zeros(4))  # noqa: E731
    monkeypatch.setitem(transformers.modeling_utils.ALL_ATTENTION_FUNCTIONS._global_mapping, attention.NAME, with_sinks)
    encoder = encoder_of(tiny_model)
    states = encoder.encode(ROWS, LAYERS).values
    assert not is_packed(encoder)
    assert_equal_states(states, full_states(tiny_model, ROWS))


def test_rows_that_begin_alike_stand_together() -> None:
    """A dataset in which a third has a system turn of its own: no batch mixes the two beginnings."""
    other = [99, *BEGINNING]
    rows = [[*(other if i % 3 == 0 else BEGINNING), *range(i % 7 + 1)] for i in range(90)]
    batches = plan_packs(rows, 200)
    assert sorted(i for batch in batches for i in batch.rows) == list(range(90))
    assert all(len({rows[i][0] for i in batch.rows}) == 1 for batch in batches)
    assert all(sum(len(rows[i]) - batch.shared for i in batch.rows) <= 200 for batch in batches)


def test_packed_and_padded_agree(tiny_model: Path) -> None:
    found = []
    for forward in (None, PaddedPass):
        encoder: Encoder = encoder_of(tiny_model, forward=forward, batch_tokens=70)
        found.append(encoder.encode(ROWS, LAYERS).values)
    assert_equal_states(found[0], found[1])
