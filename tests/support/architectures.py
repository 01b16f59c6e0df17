"""Tiny random models of the architectures that people fine-tune, and how far our states are from transformers' own.

`docs/models.py` prints what is measured here; `tests/encoding/test_architectures.py` holds it to the limits.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from larf_curate.encoding.encoder import Encoder
from larf_curate.encoding.losses import token_losses
from larf_curate.encoding.packing import PackedPass
from larf_curate.encoding.padding import PaddedPass
from larf_curate.encoding.runtime import Runtime
from larf_curate.models.blocks import find_blocks
from larf_curate.models.loading import load_model
from larf_curate.models.options import ModelOptions

from .models import make_tokenizer

CPU = torch.device("cpu")
WINDOW, TRAINED = 24, 64
"""Lengths at which the tiny models begin to compute something else: windows and their like, and rotary positions."""
PREFIX = 18
LENGTHS = (1, 5, 6, 7, 30, 45, 46, 47, 82)
"""Of the rows behind the prefix that they share: with it on both sides of `WINDOW` and `TRAINED`, to the token."""

_SIZES: dict[str, Any] = {
    "vocab_size": 420,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
}
_PLAIN = {key: value for key, value in _SIZES.items() if key != "head_dim"}
_ALTERNATING = ["sliding_attention", "full_attention"] * 2
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0, 5.0, 6.0, 7.0],
    "original_max_position_embeddings": TRAINED,
    "factor": 4.0,
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_LATENT = {  # DeepSeek's multi-head latent attention and experts; heads share no keys
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
_LINEAR = {
    "layer_types": ["linear_attention", "full_attention"] * 2,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 4,
}
_PER_LAYER = {"vocab_size_per_layer_input": 420, "hidden_size_per_layer_input": 8}
_FALCON_H1 = {
    "mamba_d_ssm": 32,
    "mamba_n_heads": 4,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 16,
}
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 28,
}
Config = Callable[[], transformers.PretrainedConfig]


def _text(kind: str, sizes: dict[str, Any] = _PLAIN, **more: Any) -> Config:
    return lambda: getattr(transformers, f"{kind}Config")(**{**sizes, **more})


def _with_vision(kind: str, text: Config, vision: dict[str, Any], **more: Any) -> Config:
    def make() -> transformers.PretrainedConfig:
        return getattr(transformers, f"{kind}Config")(text_config=text().to_dict(), vision_config=vision, **more)

    return make


_gemma3n = partial(
    _text,
    "Gemma3nText",
    _SIZES,
    intermediate_size=[48] * 4,
    sliding_window=WINDOW,
    layer_types=_ALTERNATING,
    laurel_rank=4,
    activation_sparsity_pattern=[0.0] * 4,
    **_PER_LAYER,
)
_gemma4 = partial(
    _text, "Gemma4Text", _SIZES, global_head_dim=8, sliding_window=WINDOW, layer_types=_ALTERNATING, **_PER_LAYER
)
_MROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 2]}

ARCHITECTURES: dict[str, Config] = {
    "Llama 2": _text("Llama", num_key_value_heads=4),
    "Llama 3": _text(
        "Llama",
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": TRAINED,
        },
    ),
    "Llama, dynamic NTK": _text(
        "Llama",
        max_position_embeddings=TRAINED,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0},
    ),
    "Llama 4": _text(
        "Llama4Text",
        _SIZES,
        intermediate_size_mlp=48,
        num_local_experts=2,
        attention_chunk_size=TRAINED + 8,
        floor_scale=TRAINED,
        attn_scale=0.4,
        no_rope_layers=[1, 0, 1, 0],
        interleave_moe_layer_step=2,
    ),
    "Qwen 2 and 2.5": _text("Qwen2", use_sliding_window=True, sliding_window=WINDOW, max_window_layers=2),
    "Qwen 2 MoE": _text(
        "Qwen2Moe",
        **_EXPERTS,
        shared_expert_intermediate_size=16,
        use_sliding_window=True,
        sliding_window=TRAINED,
        max_window_layers=2,
    ),
    "Qwen 3": _text("Qwen3", _SIZES),
    "Qwen 3 MoE": _text("Qwen3Moe", _SIZES, **_EXPERTS),
    "Qwen 3 Next": _text("Qwen3Next", _SIZES, **_EXPERTS, shared_expert_intermediate_size=16, **_LINEAR),
    "Qwen 3.5": _text("Qwen3_5Text", _SIZES, **_LINEAR),
    "Gemma 2": _text("Gemma2", _SIZES, sliding_window=WINDOW),
    "Gemma 3": _text("Gemma3Text", _SIZES, sliding_window=WINDOW, layer_types=_ALTERNATING),
    "Gemma 3n": _gemma3n(num_kv_shared_layers=0),
    "Gemma 3n, shared keys": _gemma3n(num_kv_shared_layers=2),
    "Gemma 4": _gemma4(num_kv_shared_layers=0),
    "Gemma 4, shared keys": _gemma4(num_kv_shared_layers=2),
    "Mistral": _text("Mistral", _SIZES, sliding_window=WINDOW),
    "Ministral": _text("Ministral", _SIZES, sliding_window=WINDOW),
    "Ministral 3": _text(
        "Ministral3",
        _SIZES,
        sliding_window=None,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 10_000.0,
            "factor": 4.0,
            "original_max_position_embeddings": WINDOW,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.3,
        },
    ),
    "Mixtral": _text("Mixtral", _SIZES, num_local_experts=4, sliding_window=WINDOW),
    "Phi 3": _text("Phi3", pad_token_id=0, sliding_window=WINDOW),
    "Phi 3 and 3.5, LongRoPE": _text(
        "Phi3", pad_token_id=0, original_max_position_embeddings=TRAINED, rope_parameters=_LONGROPE
    ),
    "Phi 4 mini": _text(
        "Phi3",
        pad_token_id=0,
        original_max_position_embeddings=TRAINED,
        partial_rotary_factor=0.75,
        rope_parameters={
            **_LONGROPE,
            "short_factor": [1.0] * 3,
            "long_factor": [4.0, 5.0, 6.0],
            "partial_rotary_factor": 0.75,
        },
    ),
    "Phi 3.5 MoE": _text("Phimoe", num_local_experts=4, sliding_window=TRAINED),
    "Phi 3.5 MoE, LongRoPE": _text(
        "Phimoe", num_local_experts=4, rope_parameters={**_LONGROPE, "short_mscale": 1.1, "long_mscale": 1.3}
    ),
    "OLMo 2": _text("Olmo2"),
    "OLMo 3": _text("Olmo3", sliding_window=WINDOW),
    "Granite": _text("Granite"),
    "Granite hybrid": _text(
        "GraniteMoeHybrid",
        layer_types=["mamba", "attention"] * 2,
        num_local_experts=4,
        num_experts_per_tok=2,
        shared_intermediate_size=16,
        mamba_n_heads=8,
        mamba_d_head=8,
        mamba_d_state=8,
        mamba_n_groups=1,
        mamba_chunk_size=16,
    ),
    "GLM 4": _text("Glm4", _SIZES, pad_token_id=0),
    "GLM 4 MoE": _text(
        "Glm4Moe",
        _SIZES,
        n_routed_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        first_k_dense_replace=1,
        n_group=1,
        topk_group=1,
    ),
    "DeepSeek 2": _text("DeepseekV2", **_LATENT),
    "DeepSeek 3": _text("DeepseekV3", **_LATENT),
    "DeepSeek 3.2": _text("DeepseekV32", **_LATENT, index_topk=WINDOW, index_n_heads=2, index_head_dim=8),
    "DeepSeek 4": _text(
        "DeepseekV4",
        {**_SIZES, "num_key_value_heads": 1},
        **{
            key: _LATENT[key]
            for key in ("q_lora_rank", "n_routed_experts", "num_experts_per_tok", "moe_intermediate_size")
        },
        qk_rope_head_dim=4,
        sliding_window=WINDOW,
        o_groups=2,
        o_lora_rank=8,
        index_topk=4,
        index_n_heads=2,
        index_head_dim=8,
    ),
    "MiniCPM 3": _text(
        "MiniCPM3",
        num_key_value_heads=4,
        scale_depth=1.4,
        **{
            key: _LATENT[key]
            for key in ("q_lora_rank", "kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")
        },
    ),
    "gpt-oss": _text("GptOss", _SIZES, num_local_experts=4, num_experts_per_tok=2, sliding_window=WINDOW),
    "SmolLM 3": _text("SmolLM3", pad_token_id=0),
    "Falcon H1": _text("FalconH1", _SIZES, **_FALCON_H1),
    "Falcon H1, as many blocks as multipliers": _text(
        "FalconH1", {**_SIZES, "num_hidden_layers": 5}, **_FALCON_H1, ssm_multipliers=[0.5, 0.7, 0.9, 1.1, 1.3]
    ),
    "LFM 2": _text("Lfm2", layer_types=["conv", "full_attention"] * 2, block_auto_adjust_ff_dim=False),
    "LFM 2 MoE": _text("Lfm2Moe", layer_types=["conv", "full_attention"] * 2, **_EXPERTS, num_dense_layers=1),
    "Nemotron H": _text(
        "NemotronH",
        _SIZES,
        layers_block_type=["mamba", "attention", "mlp", "mamba"],
        mamba_num_heads=8,
        mamba_head_dim=8,
        ssm_state_size=8,
        n_groups=1,
        chunk_size=16,
    ),
    "Jamba": _text(
        "Jamba",
        num_experts=2,
        num_experts_per_tok=1,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
        mamba_d_state=8,
        mamba_dt_rank=4,
        use_mamba_kernels=False,
        pad_token_id=0,
    ),
    "MiniMax": _text(
        "MiniMax", _SIZES, num_local_experts=4, layer_types=["linear_attention", "full_attention"] * 2, block_size=16
    ),
    "MiniMax M2": _text("MiniMaxM2", _SIZES, num_local_experts=4, num_experts_per_tok=2),
    "Command R": _text("Cohere", pad_token_id=0),
    "Command R7B, A": _text("Cohere2", _SIZES, pad_token_id=0, sliding_window=WINDOW, layer_types=_ALTERNATING),
    "EXAONE 4": _text("Exaone4", _SIZES, sliding_window=WINDOW, layer_types=_ALTERNATING),
    "Doge": _text("Doge", _SIZES, keep_window_size=WINDOW),
    "GPT Neo": lambda: transformers.GPTNeoConfig(
        vocab_size=420,
        hidden_size=32,
        num_layers=4,
        num_heads=4,
        attention_types=[[["global", "local"], 2]],
        window_size=WINDOW,
        max_position_embeddings=256,
    ),
    "Mamba 2": lambda: transformers.Mamba2Config(
        vocab_size=420,
        hidden_size=32,
        num_hidden_layers=4,
        num_heads=8,
        head_dim=8,
        state_size=8,
        n_groups=1,
        chunk_size=16,
    ),
    "xLSTM": lambda: transformers.xLSTMConfig(
        vocab_size=420,
        hidden_size=32,
        num_hidden_layers=4,
        num_heads=4,
        chunk_size=16,
        chunkwise_kernel="chunkwise--native_autograd",
        sequence_kernel="native_sequence__native",
        step_kernel="native",
    ),
    "Llama 3.2 Vision": lambda: transformers.MllamaConfig(
        text_config={
            "model_type": "mllama_text_model",
            **_PLAIN,
            "cross_attention_layers": [1],
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
            "pad_token_id": 0,
        },
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 2,
            "vision_output_dim": 48,
            "intermediate_layers_indices": [0, 1],
            "image_size": 28,
            "patch_size": 14,
            "max_num_tiles": 1,
            "supported_aspect_ratios": [[1, 1]],
        },
        image_token_index=410,
    ),
    "Gemma 3, with pictures": _with_vision(
        "Gemma3",
        _text("Gemma3Text", _SIZES, sliding_window=WINDOW, layer_types=_ALTERNATING),
        _VISION,
        mm_tokens_per_image=4,
        image_token_index=410,
    ),
    "Qwen 2.5 VL": _with_vision(
        "Qwen2_5_VL",
        _text("Qwen2_5_VLText", rope_parameters=_MROPE),
        {"hidden_size": 16, "intermediate_size": 16, "depth": 4, "num_heads": 2, "out_hidden_size": 32},
        image_token_id=410,
        video_token_id=411,
        vision_start_token_id=412,
        vision_end_token_id=413,
    ),
    "Qwen 3 VL": _with_vision(
        "Qwen3VL",
        _text("Qwen3VLText", _SIZES, rope_parameters=_MROPE),
        {
            "hidden_size": 16,
            "intermediate_size": 16,
            "depth": 4,
            "num_heads": 2,
            "out_hidden_size": 32,
            "deepstack_visual_indexes": [0, 1],
        },
        image_token_id=410,
        video_token_id=411,
        vision_start_token_id=412,
        vision_end_token_id=413,
    ),
    "LLaVA": _with_vision(
        "Llava", _text("Llama"), {"model_type": "clip_vision_model", **_VISION, "patch_size": 14}, image_token_index=410
    ),
    "Idefics 3": _with_vision(
        "Idefics3", _text("Llama", pad_token_id=0), {**_VISION, "patch_size": 14}, image_token_id=410
    ),
    "SmolVLM": _with_vision(
        "SmolVLM", _text("Llama", pad_token_id=0), {**_VISION, "patch_size": 14}, image_token_id=410
    ),
    "InternVL": _with_vision(
        "InternVL", _text("Qwen2"), {**_VISION, "image_size": [28, 28], "patch_size": [14, 14]}, image_token_id=410
    ),
}


@dataclass(frozen=True)
class Measured:
    """What was measured of one architecture.

    Attributes:
        model: the class of transformers.
        way: how the model ran, its shortcuts in words.
        states: the largest error of a state after the first, middle or last block, cut or whole, packed or padded, in
            small batches (whole) and large ones (cut), as a share of the state's length.
        scores: the largest error of a score on these states, as a share of the spread of the scores.
        losses: the largest error of a token's loss, as a share of the losses' standard deviation.
    """

    model: str
    way: str
    states: float
    scores: float
    losses: float


def make(name: str, home: Path, tokenizer: Path | None = None) -> Any:
    """As `make_from`, of an architecture by name."""
    return make_from(ARCHITECTURES[name](), home, tokenizer)


def make_from(config: Any, home: Path, tokenizer: Path | None = None) -> Any:
    """Save a random model of a config with a tokenizer, and return it, in float32."""
    pictures = hasattr(config, "vision_config")
    auto = transformers.AutoModelForImageTextToText if pictures else transformers.AutoModelForCausalLM
    torch.manual_seed(0)
    model = auto.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():  # norms too, so that a final norm applied by accident shows
        torch.nn.init.normal_(parameter, mean=0.0 if parameter.ndim > 1 else 1.0, std=0.2)
    model.save_pretrained(home)
    if tokenizer is None:
        make_tokenizer(home)
    else:
        shutil.copytree(tokenizer, home, dirs_exist_ok=True)
    return model.eval()


def rows() -> list[list[int]]:
    """Random rows behind one prefix, which alternate between short and long."""
    chance = random.Random(0)
    prefix = [chance.randrange(3, 400) for _ in range(PREFIX)]
    made = [prefix + [chance.randrange(3, 400) for _ in range(length)] for length in LENGTHS]
    return made[::2] + made[1::2]


def full_pass(model: Any, ids: Sequence[list[int]]) -> tuple[np.ndarray, list[np.ndarray]]:
    """States [rows, blocks, hidden size] and losses of all tokens but the first, by transformers, one row at a time.

    A block that does not run (on pictures alone) has no states: NaN.
    """
    config = model.config.get_text_config(decoder=True)
    blocks = find_blocks(model, config.num_hidden_layers)
    kept: dict[int, torch.Tensor] = {}

    def keep(number: int, _block: object, _args: object, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        if (
            states.ndim == 4
        ):  # Gemma 3n keeps four predictions, of which the active one is read; DeepSeek 4 four streams
            states = states[config.altup_active_idx] if hasattr(config, "altup_active_idx") else states.mean(dim=2)
        kept[number] = states[0, -1].clone()

    for number, block in enumerate(blocks):
        block.register_forward_hook(partial(keep, number))
    states, losses = [], []
    for row in ids:
        kept.clear()
        _forget_longer_rows(model)
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([row]), use_cache=False).logits[0, :-1]
        none = torch.full_like(next(iter(kept.values())), torch.nan)
        states.append(torch.stack([kept.get(number, none) for number in range(len(blocks))]).numpy())
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(row[1:]), reduction="none").numpy())
    return np.stack(states), losses


def _forget_longer_rows(model: Any) -> None:
    """As a model that was just loaded: dynamic NTK keeps the frequencies of the longest row so far."""
    for module in model.modules():
        if "max_seq_len_cached" in vars(module) and module.max_seq_len_cached != module.original_max_seq_len:
            module.max_seq_len_cached = module.original_max_seq_len
            module.inv_freq = module.original_inv_freq.clone()


def measure(name: str, home: Path, tokenizer: Path | None = None) -> Measured:
    """Make a model of an architecture in `home`, and run it in all ways."""
    model = make(name, home, tokenizer)
    ids = rows()
    expected, losses = full_pass(model, ids)
    total = expected.shape[1]
    options = ModelOptions(str(home))
    states, scores = 0.0, 0.0
    whole = Runtime(load_model(options, None, CPU))
    cut = Runtime(load_model(options, total // 2, CPU))
    every = [0, total // 2, total - 1]
    ways = [(whole, every, 130), (cut, every[:2], 4096)]
    if isinstance(cut.forward, PackedPass) or cut.forward.one_by_one:  # else it is padded already
        ways.append((Runtime(cut.loaded, PaddedPass(cut.loaded)), every[:2], 4096))
    for runtime, layers, batch_tokens in ways:
        found = Encoder(replace(options, batch_tokens=batch_tokens), runtime).encode(ids, layers).values
        wanted = expected[:, layers]
        assert np.isfinite(found).all()
        states = max(states, float((_norm(found - wanted) / _norm(wanted)).max()))
        scores = max(scores, _score_error(found, wanted))
    marks = [[False, *[True] * (len(row) - 1)] for row in ids]
    found_losses = [one for one in token_losses(whole, ids, marks, batch_tokens=4096).values if one is not None]
    error = float(np.abs(np.concatenate(found_losses) - np.concatenate(losses)).max() / np.concatenate(losses).std())
    return Measured(type(model).__name__, _way(whole), states, scores, error)


def _way(runtime: Runtime) -> str:
    """How a model runs, in words."""
    limits = runtime.forward.limits
    long = [each for each in (limits.batched, limits.packed) if each is not None]
    if isinstance(runtime.forward, PaddedPass):
        long = [limits.batched] if limits.batched is not None else []
    return runtime.forward.name + (f"; rows of more than {min(long)} tokens one by one" if long else "")


def _norm(states: np.ndarray) -> np.ndarray:
    return np.linalg.norm(states, axis=-1)


def _score_error(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest error of a score as a share of the spread, where half of the rows are the unsafe references."""
    x, y = (states / _norm(states)[..., None] for states in (found.astype(np.float64), wanted.astype(np.float64)))
    half = len(y) // 2
    direction = y[:half].mean(axis=0) - y[half:].mean(axis=0)
    one, other = ((states * direction).sum(axis=-1) for states in (x, y))
    return float((np.abs(one - other).max(axis=0) / np.ptp(other, axis=0)).max())
