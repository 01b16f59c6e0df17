"""Rows on both sides of the lengths at which an architecture begins to compute something else have their own states."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from support.architectures import ARCHITECTURES, TRAINED, WINDOW, full_pass, make, make_from, rows
from support.states import assert_equal_states

from larf_curate.encoding.attention import ATTENTION_NAME
from larf_curate.encoding.encoder import Encoder
from larf_curate.encoding.limits import Limits, limits_of
from larf_curate.encoding.packing import PackedPass
from larf_curate.encoding.padding import PaddedPass
from larf_curate.encoding.runtime import Runtime
from larf_curate.encoding.trial import fastest_pass, gives_plain_states, keeps_window, trial_rows
from larf_curate.errors import ModelError
from larf_curate.models.loading import load_model
from larf_curate.models.options import ModelOptions

CPU = torch.device("cpu")
LAYERS = [0, 2, 3]
LIMITS = {
    "Phi 3 and 3.5, LongRoPE": Limits(batched=TRAINED),
    "Phi 4 mini": Limits(batched=TRAINED),
    "Llama, dynamic NTK": Limits(batched=TRAINED - 1),
    "Llama 4": Limits(packed=TRAINED - 1),
    "Ministral 3": Limits(packed=WINDOW - 1),
    "DeepSeek 3.2": Limits(batched=WINDOW - 1),
    "Phi 3.5 MoE": Limits(packed=TRAINED - 1),  # its window is in its own mask alone
    "Mistral": Limits(windows=(WINDOW,)),
    "Gemma 3": Limits(windows=(WINDOW,)),
    "Phi 3": Limits(windows=(WINDOW,)),
    "Qwen 3": Limits(),
    "Llama 3": Limits(),
}


@pytest.mark.parametrize("name", LIMITS)
def test_limits_are_read_from_the_config(name: str) -> None:
    config = ARCHITECTURES[name]()
    assert limits_of(config, 4, LIMITS[name].windows) == LIMITS[name]


@pytest.mark.parametrize(("blocks", "expected"), [(2, None), (3, WINDOW - 1)])
def test_a_window_that_no_block_below_the_layer_has_is_no_limit(blocks: int, expected: int | None) -> None:
    assert limits_of(ARCHITECTURES["Qwen 2 and 2.5"](), blocks).packed == expected


def encoder_of(home: Path, **options: Any) -> Encoder:
    chosen = ModelOptions(str(home), **options)
    return Encoder(chosen, Runtime(load_model(chosen, max(LAYERS), CPU)))


@pytest.fixture(scope="module")
def states_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Encoder, np.ndarray]]:
    """An architecture, and the states of `rows` by transformers' full pass; each is made once."""

    @functools.cache
    def make_once(name: str) -> tuple[Encoder, np.ndarray]:
        home = tmp_path_factory.mktemp("model")
        expected, _ = full_pass(make(name, home), rows())
        return encoder_of(home, batch_tokens=4096), expected[:, LAYERS]

    return make_once


@pytest.mark.parametrize(
    ("name", "forward"),
    [
        ("Phi 3 and 3.5, LongRoPE", PackedPass),
        ("Phi 3 and 3.5, LongRoPE", PaddedPass),
        ("Llama, dynamic NTK", PackedPass),
        ("Llama, dynamic NTK", PaddedPass),
        ("Llama 4", PackedPass),
        ("Phi 3.5 MoE", PackedPass),
        ("DeepSeek 3.2", PaddedPass),
    ],
)
def test_without_its_limits_a_pass_would_be_wrong(
    name: str, forward: Any, states_of: Callable[[str], tuple[Encoder, np.ndarray]]
) -> None:
    """And with them it is right: these limits are not there for nothing."""
    encoder, wanted = states_of(name)
    loaded = encoder.loaded
    unlimited = PaddedPass(loaded, limits=Limits()) if forward is PaddedPass else forward(loaded)
    options = ModelOptions(encoder.model, batch_tokens=4096)
    without = Encoder(options, Runtime(loaded, unlimited)).encode(rows(), LAYERS).values
    assert (np.linalg.norm(without - wanted, axis=-1) / np.linalg.norm(wanted, axis=-1)).max() > 1e-3
    states = encoder.encode(rows(), LAYERS)
    assert_equal_states(states.values, wanted)
    assert "long rows one by one" in states.execution


REPORTED = {
    "a trained length of 300": (
        "Phi 3 and 3.5, LongRoPE",
        {"original_max_position_embeddings": 300, "max_position_embeddings": 1024},
        (200, 260, 299, 300, 301, 350, 440),
    ),
    "chunks of 600": (
        "Llama 4",
        {"attention_chunk_size": 600, "floor_scale": 8192, "max_position_embeddings": 1024},
        (90, 599, 600, 601, 930),
    ),
}


@pytest.mark.parametrize("case", REPORTED)
def test_rows_of_hundreds_of_tokens_around_such_a_length(case: str, tmp_path: Path) -> None:
    """Behind a shared system turn, in one batch and in one for each row."""
    name, changes, lengths = REPORTED[case]
    config = ARCHITECTURES[name]()
    for key, value in changes.items():
        setattr(config, key, value)
    if case == "a trained length of 300":
        config.rope_parameters = {**config.rope_parameters, "original_max_position_embeddings": 300}
    model = make_from(config, tmp_path)
    chance = random.Random(1)
    prefix = [chance.randrange(3, 400) for _ in range(40)]
    ids = [prefix + [chance.randrange(3, 400) for _ in range(length - 40)] for length in lengths]
    expected, _ = full_pass(model, ids)
    runtime = encoder_of(tmp_path).runtime
    for batch_tokens in (4096, 1):
        encoder = Encoder(ModelOptions(str(tmp_path), batch_tokens=batch_tokens), runtime)
        assert_equal_states(encoder.encode(ids, LAYERS).values, expected[:, LAYERS])
        assert isinstance(encoder.runtime.forward, PackedPass)


def test_a_shared_prefix_has_the_frequencies_of_short_rows(
    states_of: Callable[[str], tuple[Encoder, np.ndarray]],
) -> None:
    """One long row a batch, behind a shared system turn: the turn's keys were computed for a short row."""
    made, expected = states_of("Phi 3 and 3.5, LongRoPE")
    encoder = Encoder(ModelOptions(made.model, batch_tokens=1), made.runtime)
    assert isinstance(encoder.runtime.forward, PackedPass)
    assert_equal_states(encoder.encode(rows(), LAYERS).values, expected)


def test_dynamic_frequencies_do_not_outlast_their_row(
    states_of: Callable[[str], tuple[Encoder, np.ndarray]],
) -> None:
    """transformers keeps those of the longest row so far, until a short one comes."""
    encoder, expected = states_of("Llama, dynamic NTK")
    for _ in range(2):
        for number in sorted(range(len(rows())), key=lambda n: -len(rows()[n])):
            states = encoder.encode([rows()[number]], LAYERS).values[0]
            assert_equal_states(states, expected[number])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_limits_hold_in_half_precision_where_no_trial_could_see_them(dtype: Any, tmp_path: Path) -> None:
    make("Llama 4", tmp_path)
    loaded = load_model(ModelOptions(str(tmp_path), dtype=dtype), 3, CPU)
    assert fastest_pass(loaded).limits.packed == TRAINED - 1


# The trial can fail -------------------------------------------------------------------------------------------------


def changed(loaded: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A model whose block 1 changes states by all of the sequence that runs."""
    loaded.blocks[1].register_forward_hook(lambda _m, _a, out: change(out))
    return loaded


def loaded_llama(tmp_path: Path) -> Any:
    make("Llama 3", tmp_path)
    return load_model(ModelOptions(str(tmp_path)), 3, CPU)


def test_a_model_that_looks_at_the_whole_batch_runs_its_rows_one_by_one(tmp_path: Path) -> None:
    """As if tokens competed for experts of a fixed capacity: neither packed nor padded rows have their own states."""
    loaded = changed(loaded_llama(tmp_path), lambda states: states + 0.1 * states.mean(dim=(0, 1), keepdim=True))
    assert not gives_plain_states(PackedPass(loaded))
    assert not gives_plain_states(PaddedPass(loaded))
    forward = fastest_pass(loaded)
    assert isinstance(forward, PaddedPass)
    assert forward.name == "one by one"


def test_a_model_that_looks_at_the_place_in_the_sequence_is_padded(tmp_path: Path) -> None:
    def by_place(states: torch.Tensor) -> torch.Tensor:
        return states * (1 + torch.arange(states.shape[1])[None, :, None] / 100)

    forward = fastest_pass(changed(loaded_llama(tmp_path), by_place))
    assert isinstance(forward, PaddedPass)
    assert forward.name == "padded"


@pytest.mark.parametrize("width", [WINDOW, WINDOW + 2])
def test_a_window_of_another_width_is_found_out(width: int, tmp_path: Path) -> None:
    make("Mistral", tmp_path)
    loaded = load_model(ModelOptions(str(tmp_path)), 3, CPU)
    packed = PackedPass(loaded)
    for block in loaded.blocks[1:2]:
        block.self_attn.forward = _with_window(block.self_attn, width)
    assert keeps_window(packed, WINDOW) == (width == WINDOW)
    runtime = Runtime(loaded, packed)
    packed.limits = Limits(windows=(WINDOW,))
    shares = runtime.shared_out([5, WINDOW, WINDOW + 1])
    assert [numbers for _, numbers in shares] == ([[0, 1, 2]] if width == WINDOW else [[0, 1], [2]])


def _with_window(attention: Any, width: int) -> Callable[..., Any]:
    """The attention's forward, which asks our attention for another window than its mask has."""
    forward = attention.forward

    def run(*args: Any, **others: Any) -> Any:
        config = attention.config
        config.sliding_window = width if config._attn_implementation == ATTENTION_NAME else WINDOW
        try:
            return forward(*args, **others)
        finally:
            config.sliding_window = WINDOW

    return run


def test_a_wide_window_is_tried_when_the_first_longer_row_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("Mistral", tmp_path)
    tried: list[int] = []
    monkeypatch.setattr("larf_curate.encoding.runtime.keeps_window", lambda _forward, width: not tried.append(width))
    encoder = encoder_of(tmp_path)
    encoder.encode([[5] * WINDOW], [3])
    assert tried == []
    for _ in range(2):
        encoder.encode([[5] * (WINDOW + 1)], [3])
    assert tried == [WINDOW]


def test_a_model_that_does_not_run_says_so_in_one_line(tmp_path: Path) -> None:
    loaded = loaded_llama(tmp_path)
    loaded.blocks[1].mlp.forward = lambda _states: 1 / 0
    with pytest.raises(ModelError, match=r"^Llama\w* does not run on text alone: ZeroDivisionError: division by zero$"):
        fastest_pass(loaded)


def test_trial_rows_have_ids_that_small_vocabularies_have(tmp_path: Path) -> None:
    loaded = loaded_llama(tmp_path)
    config = transformers.LlamaConfig(**{**loaded.model.config.to_dict(), "vocab_size": 5})
    loaded.model.config = config
    assert {token for row in trial_rows(loaded, [20]) for token in row} <= set(range(5))
