"""Encoders on tiny models, and the states that transformers' own full forward pass gives them."""

from __future__ import annotations

import functools
import gc
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from larf_curate.encoding.encoder import Encoder
from larf_curate.encoding.packed_batch import PackingSettings
from larf_curate.encoding.packing import PackedPass
from larf_curate.encoding.padding import PaddedPass
from larf_curate.encoding.runtime import Runtime
from larf_curate.encoding.trial import fastest_pass
from larf_curate.models.loading import LoadedModel, load_model
from larf_curate.models.options import ModelOptions
from support.architectures import make_from
from support.models import SIZES

BLOCKS = SIZES["num_hidden_layers"]
LAYERS = list(range(BLOCKS))
CPU = torch.device("cpu")
WINDOW = 6  # far shorter than the longest row, so that a sliding block mistaken for a full one shows
FULL, SLIDING = "full_attention", "sliding_attention"
MIXED = [SLIDING, SLIDING, FULL, SLIDING, FULL]
GPT_NEOX = {key: value for key, value in SIZES.items() if key not in ("num_key_value_heads", "head_dim")}


def gemma3_with_vision() -> transformers.PretrainedConfig:
    """As many vision blocks as text blocks, so that the one cannot be told from the other by counting."""
    text = transformers.Gemma3TextConfig(**SIZES, sliding_window=WINDOW, layer_types=MIXED)
    vision = transformers.SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=BLOCKS, num_attention_heads=2, image_size=28
    )
    return transformers.Gemma3Config(
        text_config=text.to_dict(), vision_config=vision.to_dict(), mm_tokens_per_image=4, image_token_index=500
    )


ARCHITECTURES: dict[str, Callable[[], transformers.PretrainedConfig]] = {
    "llama": lambda: transformers.LlamaConfig(**SIZES),
    "llama3_rope": lambda: transformers.LlamaConfig(
        **SIZES,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
    "mistral": lambda: transformers.MistralConfig(**SIZES, sliding_window=WINDOW),
    "qwen2": lambda: transformers.Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=2
    ),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(
        **SIZES, num_experts=BLOCKS, num_experts_per_tok=2, moe_intermediate_size=32
    ),
    "gemma2": lambda: transformers.Gemma2Config(**SIZES, sliding_window=WINDOW),
    "gemma3_text": lambda: transformers.Gemma3TextConfig(**SIZES, sliding_window=WINDOW, layer_types=MIXED),
    "gemma3_vision": gemma3_with_vision,
    "phi3": lambda: transformers.Phi3Config(**SIZES, pad_token_id=0, sliding_window=WINDOW),
    "olmo": lambda: transformers.OlmoConfig(**SIZES),
    "olmo2": lambda: transformers.Olmo2Config(**SIZES),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**GPT_NEOX),
    "gpt2": lambda: transformers.GPT2Config(vocab_size=512, n_embd=48, n_layer=BLOCKS, n_head=4, n_positions=512),
}


def random_rows(lengths: Sequence[int] = (1, 2, 3, 7, 12, 12, 20, 40), seed: int = 0) -> list[list[int]]:
    chance = random.Random(seed)
    return [[chance.randrange(3, 400) for _ in range(length)] for length in lengths]


@functools.lru_cache(maxsize=2)
def _loaded_by_transformers(directory: Path) -> Any:
    """The model of a directory in float32; tests that ask for states of one directory follow each other."""
    return transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def full_states(model: Any, rows: Sequence[list[int]]) -> Any:
    """[rows, blocks, hidden] of the uncut model: one row at a time, no padding, float32, no cutting.

    The last of transformers' hidden states has passed the final norm: that block's output comes from a hook.

    Args:
        model: of transformers, or its directory.
        rows: token ids of each row.
    """
    if isinstance(model, Path):
        model = _loaded_by_transformers(model)
    decoder = model.get_decoder()
    blocks = next(getattr(decoder, name) for name in ("layers", "h") if hasattr(decoder, name))
    last: list[torch.Tensor] = []
    hook = blocks[-1].register_forward_hook(lambda _m, _a, out: last.append(out[0] if isinstance(out, tuple) else out))
    states = []
    for row in rows:
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([row]), output_hidden_states=True).hidden_states
        assert len(hidden) == len(blocks) + 1
        normed, plain = hidden[-1][0, -1], last.pop()[0, -1]
        assert (normed - plain).abs().max() > 0.1, "this final norm would not show if applied by accident"
        states.append(torch.stack([*(h[0, -1] for h in hidden[1:-1]), plain]))
    hook.remove()
    return torch.stack(states).numpy()


def assert_equal_states(actual: np.ndarray, expected: np.ndarray) -> None:
    """Within 1e-4 of the norm of each state: a score is made of normalised states and may be off by 1e-4."""
    assert actual.shape == expected.shape
    assert actual.dtype == np.float32
    scale = np.linalg.norm(expected, axis=-1, keepdims=True)
    np.testing.assert_allclose(actual / scale, expected / scale, rtol=0, atol=1e-4)


def shared_encoder(
    directory: Path,
    highest: int = BLOCKS - 1,
    forward: type[PackedPass | PaddedPass] | None = None,
    settings: PackingSettings | None = None,
    **options: Any,
) -> Encoder:
    """As `encoder_of`, on a model that is loaded once for all tests of a file that ask for the same.

    Each call gives another encoder, which knows of no batch that was too big. Hooks on the model are removed when the
    test ends (`tests/encoding/conftest.py`). A test that changes weights or replaces a `forward` takes `encoder_of`.
    """
    config = ModelOptions(str(directory), device="cpu", **options)
    key = config.loading_key(), highest
    return Encoder(config, Runtime(_loaded_once(*key), _pass_once(*key, forward, settings)))


@functools.cache
def _loaded_once(options: ModelOptions, highest: int) -> LoadedModel:
    loaded = load_model(options, highest, CPU)
    _SHARED.append(loaded)
    return loaded


@functools.cache
def _pass_once(
    options: ModelOptions,
    highest: int,
    forward: type[PackedPass | PaddedPass] | None,
    settings: PackingSettings | None,
) -> PackedPass | PaddedPass:
    return _pass_of(_loaded_once(options, highest), forward, settings)


_SHARED: list[LoadedModel] = []


def forget_hooks() -> None:
    """Take away what a test has hooked to the models of `shared_encoder`."""
    for loaded in _SHARED:
        for module in loaded.model.modules():
            module._forward_hooks.clear()
            module._forward_pre_hooks.clear()


def forget_shared_models() -> None:
    """Let go of the models of `shared_encoder`."""
    for remembered in (_loaded_once, _pass_once):
        remembered.cache_clear()
    _SHARED.clear()


def _pass_of(
    loaded: LoadedModel, forward: type[PackedPass | PaddedPass] | None, settings: PackingSettings | None
) -> PackedPass | PaddedPass:
    if forward is PaddedPass:
        return PaddedPass(loaded)
    return PackedPass(loaded, settings=settings) if forward else fastest_pass(loaded, settings)


def encoder_of(
    directory: Path,
    highest: int = BLOCKS - 1,
    forward: type[PackedPass | PaddedPass] | None = None,
    settings: PackingSettings | None = None,
    **options: Any,
) -> Encoder:
    """An encoder on a model of its own.

    Args:
        directory: of the model.
        highest: the highest block to load.
        forward: the pass that runs its batches, with the model's own blocks; None finds the fastest.
        settings: of a packed pass.
        **options: see `ModelOptions`.
    """
    config = ModelOptions(str(directory), device="cpu", **options)
    loaded = load_model(config, highest, CPU)
    return Encoder(config, Runtime(loaded, _pass_of(loaded, forward, settings)))


def is_packed(encoder: Encoder) -> bool:
    return isinstance(encoder.runtime.forward, PackedPass)


def has_fused_blocks(encoder: Encoder) -> bool:
    return "fused blocks" in encoder.runtime.forward.shortcuts


def hooks_left(encoder: Encoder) -> int:
    return sum(len(block._forward_hooks) for block in encoder.loaded.blocks)


def make_architecture(directory: Path, name: str) -> Any:
    """Save a random model of `ARCHITECTURES` with its tokenizer; returns it, in float32."""
    return make_from(ARCHITECTURES[name](), directory)


def limit_memory(encoder: Encoder, tokens: int, error: Callable[[], BaseException]) -> list[int]:
    """Batches of more than `tokens` fail in block 2; returns the sizes of the batches tried, as they come."""
    gc.freeze()  # each failure collects garbage, and need not walk through all that is here by now
    tried: list[int] = []

    def hook(_module: object, args: tuple[torch.Tensor, ...]) -> None:
        rows, length = args[0].shape[:2]
        tried.append(rows * length)
        if rows * length > tokens:
            raise error()

    encoder.loaded.blocks[2].register_forward_pre_hook(hook)
    return tried
