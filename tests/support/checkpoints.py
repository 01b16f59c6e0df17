"""Checkpoints that tests make, convert and break, and the states that transformers and peft give for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from larf_curate.encoding.encoder import Encoder
from larf_curate.encoding.runtime import Runtime
from larf_curate.models.loading import LoadedModel, load_model
from larf_curate.models.options import ModelOptions

from .models import CHATML, SIZES

CPU = torch.device("cpu")
BLOCKS = SIZES["num_hidden_layers"]
WEIGHTS = "model.safetensors"
ROWS = [[5, 6, 7, 8, 9, 10, 11], [300, 200, 100], [42]]
"""Token ids of three rows."""


def load(model: Path | str, highest: int, **options: Any) -> LoadedModel:
    """The blocks up to `highest`, as this package loads them onto the CPU."""
    return load_model(ModelOptions(str(model), **options), highest, CPU)


def states(model: Path | str, layers: list[int], **options: Any) -> np.ndarray:
    """[rows, layers, hidden] as this package computes them."""
    loaded = load(model, max(layers), **options)
    values: np.ndarray = Encoder(ModelOptions(str(model)), Runtime(loaded)).encode(ROWS, layers).values
    return values


def full_states(model: Any, layers: list[int]) -> np.ndarray:
    """[rows, layers, hidden] as transformers computes them, row by row; not for the last block, which it norms."""
    kept = []
    for row in ROWS:
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([row]), output_hidden_states=True).hidden_states
        kept.append(torch.stack([hidden[layer + 1][0, -1] for layer in layers]))
    return torch.stack(kept).numpy()


def whole(directory: Path, **options: Any) -> Any:
    """All of the model, as transformers loads it, in float32."""
    auto = transformers.AutoModelForCausalLM
    return auto.from_pretrained(directory, dtype=torch.float32, **options).eval()


def assert_equal_states(actual: np.ndarray, expected: np.ndarray) -> None:
    """Within 1e-4 of the norm of each state."""
    scale = np.linalg.norm(expected, axis=-1, keepdims=True)
    np.testing.assert_allclose(actual / scale, expected / scale, rtol=0, atol=1e-4)


def without(directory: Path, prefix: str) -> list[str]:
    """Remove the weights that start with `prefix` from a model's file; returns their names."""
    tensors = load_file(directory / WEIGHTS)
    gone = [name for name in tensors if name.startswith(prefix)]
    save_file({name: t for name, t in tensors.items() if name not in gone}, directory / WEIGHTS, {"format": "pt"})
    assert gone
    return gone


GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_gguf(model: Path, target: Path) -> None:
    """The tiny Llama as one float32 GGUF file, tokenizer and chat template included."""
    import gguf

    writer = gguf.GGUFWriter(target, "llama")
    writer.add_context_length(SIZES["max_position_embeddings"])
    writer.add_embedding_length(SIZES["hidden_size"])
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(SIZES["intermediate_size"])
    writer.add_head_count(SIZES["num_attention_heads"])
    writer.add_head_count_kv(SIZES["num_key_value_heads"])
    writer.add_rope_dimension_count(SIZES["head_dim"])
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(SIZES["vocab_size"])
    written = json.loads((model / "tokenizer.json").read_text())["model"]
    tokens = sorted(written["vocab"], key=written["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_token_merges([" ".join(pair) for pair in written["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_chat_template(CHATML)
    heads = {"attn_q": SIZES["num_attention_heads"], "attn_k": SIZES["num_key_value_heads"]}
    for name, tensor in load_file(model / WEIGHTS).items():
        array = tensor.numpy()
        if name.startswith("model.layers."):
            _, _, block, rest = name.split(".", 3)
            short = GGUF_NAMES[rest.removesuffix(".weight")]
            if short in heads:  # llama.cpp keeps the two halves of a rotated head interleaved
                split = array.reshape(heads[short], 2, -1, array.shape[1])
                array = np.ascontiguousarray(split.swapaxes(1, 2)).reshape(array.shape)
            writer.add_tensor(f"blk.{block}.{short}.weight", array)
        else:
            outer = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
            writer.add_tensor(outer[name.removesuffix(".weight")] + ".weight", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_adapter(base: Path | str, directory: Path, model: Any = None, **options: Any) -> Any:
    """A LoRA of random weights over `base`, saved; returns peft's own whole model, to compare with."""
    peft = pytest.importorskip("peft", reason="adapters need larf-curate[peft]")
    torch.manual_seed(1)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=4,
        target_modules=options.pop("target_modules", ["q_proj", "up_proj", "down_proj"]),
        init_lora_weights=False,
        **options,
    )
    adapted = peft.get_peft_model(model or whole(Path(base)), config)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(directory)
    return adapted.eval()
