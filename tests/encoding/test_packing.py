"""Packed rows: nothing is computed twice or for nothing, and a pass that is wrong for a model is not used."""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from support.models import WIDE, make_model
from support.states import (
    ARCHITECTURES,
    BLOCKS,
    CPU,
    LAYERS,
    WINDOW,
    assert_equal_states,
    encoder_of,
    full_states,
    has_fused_blocks,
    is_packed,
    make_architecture,
    random_rows,
    shared_encoder,
)

from larf_curate.encoding import attention
from larf_curate.encoding.encoder import Encoder
from larf_curate.encoding.packed_batch import PackingSettings
from larf_curate.encoding.packing import PackedPass
from larf_curate.encoding.padding import PaddedPass
from larf_curate.encoding.runtime import Runtime
from larf_curate.encoding.trial import fastest_pass, gives_plain_states
from larf_curate.models.loading import load_model
from larf_curate.models.options import ModelOptions

PREFIX = [7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24]
ROWS = [[*PREFIX, *own] for own in ([30], [31, 32], [33, 34, 35], [40, 41, 42], list(range(50, 90)))]
ALL_LENGTHS = ROWS + random_rows()
SPLIT = PackingSettings(prefix_overhead=0)
"""A shared prefix runs by itself in lists as short as these."""
FUSED = ["llama", "llama3_rope", "mistral", "qwen2", "qwen3"]


def tokens_seen(module: torch.nn.Module) -> list[int]:
    """How many tokens a module is given, call by call."""
    seen: list[int] = []
    module.register_forward_pre_hook(lambda _m, args: seen.append(args[0].shape[:-1].numel()))
    return seen


@pytest.fixture(scope="module")
def model_and_states(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, np.ndarray]]:
    """A model of one of `ARCHITECTURES`, and the states of `ROWS` by its full forward pass; each is made once."""

    @functools.cache
    def make(name: str) -> tuple[Path, np.ndarray]:
        home = tmp_path_factory.mktemp(name)
        return home, full_states(make_architecture(home, name), ROWS)

    return make


@pytest.mark.parametrize("layers", [[BLOCKS - 1], [0, 2]], ids=str)
@pytest.mark.parametrize(
    ("name", "are_fused"), [*((name, name in FUSED) for name in ARCHITECTURES), *((name, False) for name in FUSED)]
)
@pytest.mark.slow
def test_states_equal_the_full_forward_pass(
    name: str,
    layers: list[int],
    are_fused: bool,
    model_and_states: Callable[[str], tuple[Path, np.ndarray]],
) -> None:
    """In one batch, in several that share a prefix, and one by one; in fused blocks and in the model's own."""
    home, expected = model_and_states(name)
    forward = PackedPass if name in FUSED and not are_fused else None
    for batch_tokens in (None, 25, 1):
        encoder = shared_encoder(home, forward=forward, settings=SPLIT, batch_tokens=batch_tokens)
        states = encoder.encode(ROWS, layers)
        assert is_packed(encoder)
        assert has_fused_blocks(encoder) == are_fused
        assert_equal_states(states.values, expected[:, layers])


@functools.cache
def states_of_all_lengths(home: Path) -> np.ndarray:
    """The states of `ALL_LENGTHS` by the full forward pass of the model in a directory."""
    return full_states(home, ALL_LENGTHS)


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2"])
@pytest.mark.parametrize("queries", [3, 64])
@pytest.mark.parametrize("sdpa_tokens", [1, 10_000])
def test_attention_in_chunks_and_in_torch_s_own_kernel(
    name: str, queries: int, sdpa_tokens: int, model_and_states: Callable[[str], tuple[Path, np.ndarray]]
) -> None:
    """Rows of all lengths, also shorter than the prefix that they share."""
    home, _ = model_and_states(name)
    settings = PackingSettings(prefix_overhead=0, chunk_queries=queries, sdpa_tokens=sdpa_tokens)
    encoder = shared_encoder(home, settings=settings)
    assert_equal_states(encoder.encode(ALL_LENGTHS, LAYERS).values, states_of_all_lengths(home))
    assert is_packed(encoder)


@pytest.mark.parametrize(
    "config",
    [
        transformers.MistralConfig(**WIDE, sliding_window=WINDOW),
        transformers.Gemma2Config(**WIDE, sliding_window=512, query_pre_attn_scalar=16, attn_logit_softcapping=2.0),
    ],
    ids=["window", "softcap"],
)
def test_compiled_kernels_leave_windows_and_soft_caps_to_torch(tmp_path: Path, config: Any) -> None:
    """Heads of a size that the kernels take: they attend causally, and know nothing else."""
    make_model(tmp_path, config)
    encoder = encoder_of(tmp_path, settings=SPLIT)
    assert_equal_states(encoder.encode(ALL_LENGTHS, LAYERS).values, full_states(tmp_path, ALL_LENGTHS))
    assert is_packed(encoder)


@pytest.mark.parametrize("are_fused", [True, False], ids=["fused", "own"])
def test_the_shared_prefix_runs_once_and_no_pad_does(tiny_model: Path, are_fused: bool) -> None:
    forward = None if are_fused else PackedPass
    encoder = shared_encoder(tiny_model, highest=2, forward=forward, settings=SPLIT, batch_tokens=30)
    first, mlp = (tokens_seen(encoder.loaded.blocks[i].mlp.gate_proj) for i in (0, 2))
    keys = tokens_seen(encoder.loaded.blocks[2].self_attn.k_proj)
    encoder.encode([*ROWS, ROWS[0]], [2])
    own = sum(len(row) - len(PREFIX) for row in ROWS)
    assert len(first) > 1
    assert sum(first) == len(PREFIX) + own
    assert sum(mlp) == len(ROWS), "in the highest block, what follows attention runs on the last tokens alone"
    assert sum(keys) - sum(mlp) * (not are_fused) == len(PREFIX) + own, "its keys are computed once for every token"


def test_prefixes_of_one_length_are_told_apart(tiny_model: Path) -> None:
    """As system turns that differ in a date are. The keys and values of the last prefix are kept for the next batch."""
    rows = [[first, *PREFIX, *own] for first in (3, 4, 5) for own in ([30], [31, 32], [33, 34], [40, 41, 42])]
    encoder = shared_encoder(tiny_model, settings=SPLIT, batch_tokens=4)
    seen = tokens_seen(encoder.loaded.blocks[0].mlp.gate_proj)
    assert_equal_states(encoder.encode(rows, LAYERS).values, full_states(tiny_model, rows))
    assert seen.count(1 + len(PREFIX)) == 3, "each prefix runs by itself"


def test_fused_blocks_leave_the_model_s_own_as_they_were(tiny_model: Path) -> None:
    encoder = shared_encoder(tiny_model, settings=SPLIT)
    encoder.encode(ROWS, LAYERS)
    assert has_fused_blocks(encoder)
    assert not any("forward" in vars(block) for block in encoder.loaded.blocks)


@pytest.mark.parametrize("forward", [None, PackedPass], ids=["fused", "own"])
def test_a_forward_that_a_library_has_set_is_there_again_afterwards(tiny_model: Path, forward: Any) -> None:
    """As accelerate does for quantised models."""
    encoder = encoder_of(tiny_model, forward=forward, settings=SPLIT)
    blocks = encoder.loaded.blocks
    before = [block.forward for block in blocks]
    for block, own in zip(blocks, before, strict=True):
        block.forward = own
    encoder.encode(ROWS, LAYERS)
    assert [vars(block)["forward"] for block in blocks] == before


def test_fused_blocks_run_in_place_of_the_model_s_own(tiny_model: Path) -> None:
    """Of the model's own code, the linear layers alone run, and the states of a block overwrite those before it."""
    encoder = shared_encoder(tiny_model, settings=SPLIT)
    block = encoder.loaded.blocks[1]
    ran: list[str] = []
    for name in ("self_attn", "mlp", "mlp.act_fn", "input_layernorm", "post_attention_layernorm", "mlp.up_proj"):
        block.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: ran.append(name))
    places: list[tuple[int, int]] = []
    block.register_forward_hook(lambda _m, args, output: places.append((args[0].data_ptr(), output.data_ptr())))
    encoder.encode(ROWS, LAYERS)
    assert set(ran) == {"mlp.up_proj"}
    assert places
    assert all(before == after for before, after in places)


@pytest.mark.parametrize("fault", ["norm", "attention", "bias"])
def test_fused_blocks_that_are_wrong_are_not_used(tiny_model: Path, fault: str) -> None:
    """Blocks may have the names of Llama's and compute other things."""
    loaded = load_model(ModelOptions(str(tiny_model)), BLOCKS - 1, CPU)
    block = loaded.blocks[1]
    if fault == "norm":  # as Gemma's
        block.input_layernorm.forward = lambda x, own=block.input_layernorm.forward: own(x) + x
    if fault == "attention":
        own = block.self_attn.forward
        block.self_attn.forward = lambda *args, **others: (2 * own(*args, **others)[0], None)
    if fault == "bias":
        block.mlp.down_proj.forward = lambda x, own=block.mlp.down_proj.forward: own(x) + 1
    found, plain = (
        Encoder(ModelOptions(str(tiny_model)), Runtime(loaded, forward))
        for forward in (fastest_pass(loaded, SPLIT), PaddedPass(loaded))
    )
    assert is_packed(found)
    assert not has_fused_blocks(found)
    assert_equal_states(found.encode(ROWS, LAYERS).values, plain.encode(ROWS, LAYERS).values)


def test_products_that_are_not_plain_have_no_fused_blocks(tiny_model: Path) -> None:
    """Weights in eight bits or with an adapter beside them: their product is not of the weights alone."""

    class Other(torch.nn.Linear):
        pass

    loaded = load_model(ModelOptions(str(tiny_model)), BLOCKS - 1, CPU)
    loaded.blocks[0].mlp.up_proj.__class__ = Other
    assert "fused blocks" not in fastest_pass(loaded).shortcuts


def test_attention_is_as_it_was_afterwards(tiny_model: Path) -> None:
    encoder = shared_encoder(tiny_model, forward=PackedPass, settings=SPLIT)
    before = encoder.loaded.model.config._attn_implementation
    encoder.encode(ROWS, LAYERS)
    assert encoder.loaded.model.config._attn_implementation == before != attention.ATTENTION_NAME
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in encoder.loaded.blocks)


def test_mamba_has_no_attention_to_pack(tmp_path: Path) -> None:
    """It would mix the rows that lie end to end."""
    config = transformers.MambaConfig(vocab_size=512, hidden_size=48, num_hidden_layers=BLOCKS, state_size=4)
    make_model(tmp_path, config)
    encoder = encoder_of(tmp_path)
    found = encoder.encode(ROWS[:2], [BLOCKS - 1]).values
    assert not is_packed(encoder)
    alone = [encoder.encode([row], [BLOCKS - 1]).values[0] for row in ROWS[:2]]
    assert_equal_states(found, np.stack(alone))


@pytest.mark.parametrize("fault", ["none", "positions", "mixed", "prefix", "last"])
def test_a_pass_that_is_wrong_does_not_give_the_plain_states(tiny_model: Path, fault: str) -> None:
    class Wrong(PackedPass):
        def __call__(self, rows: Any, prefix: int) -> torch.Tensor:
            if fault == "mixed":  # as if each row saw those before it
                rows = [list(chain(*rows[: at + 1])) for at in range(len(rows))]
            if fault == "positions":
                rows = [row[1:] for row in rows]
            if fault == "last":
                rows = [row[:-1] for row in rows]
            if fault == "prefix":
                prefix -= 1
                rows = [[*row[:prefix], *rows[0][prefix : prefix + 1], *row[prefix + 1 :]][::-1] for row in rows]
            return super().__call__(rows, prefix)

    loaded = load_model(ModelOptions(str(tiny_model)), BLOCKS - 1, CPU)
    assert gives_plain_states(Wrong(loaded)) == (fault == "none")


@pytest.mark.parametrize("more", ["s_aux", "position_bias", "block_mask"])
def test_attention_that_computes_something_else_is_not_ours(
    tiny_model: Path, more: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = attention.packed_attention
    with_more = lambda *args, **kwargs: plain(*args, **kwargs, **{more: torch.zeros(4)})  # noqa: E731
    monkeypatch.setitem(transformers.modeling_utils.ALL_ATTENTION_FUNCTIONS, attention.ATTENTION_NAME, with_more)
    encoder = encoder_of(tiny_model)
    states = encoder.encode(ROWS, LAYERS).values
    assert not is_packed(encoder)
    assert_equal_states(states, full_states(tiny_model, ROWS))


def test_a_module_that_attends_twice_in_one_pass_is_not_packed(tiny_model: Path) -> None:
    """Keys of a shared prefix are kept by module: one that runs twice has two."""
    loaded = load_model(ModelOptions(str(tiny_model)), BLOCKS - 1, CPU)
    loaded.blocks[3] = loaded.blocks[1]
    for forward in (PackedPass(loaded), PackedPass(loaded, settings=SPLIT)):
        assert not gives_plain_states(forward)
    assert isinstance(fastest_pass(loaded), PaddedPass)


def test_packed_and_padded_agree(tiny_model: Path) -> None:
    found = [
        shared_encoder(tiny_model, forward=forward, settings=SPLIT, batch_tokens=70).encode(ROWS, LAYERS).values
        for forward in (None, PaddedPass)
    ]
    assert_equal_states(found[0], found[1])
