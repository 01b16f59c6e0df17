"""Weights in 8 and 4 bits: states near those of the whole weights, and what cannot be quantised is said."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from support.checkpoints import (
    BLOCKS,
    CPU,
    ROWS,
    assert_equal_states,
    full_states,
    load,
    make_adapter,
    states,
    whole,
)
from support.models import WIDE, make_model, make_tokenizer

from larf_curate.encoding.encoder import Encoder, get_encoder
from larf_curate.encoding.runtime import Runtime
from larf_curate.errors import MissingExtraError, ModelError
from larf_curate.models.loading import load_model
from larf_curate.models.options import ModelOptions
from larf_curate.models.shape import shape_of

QUANTISED = {"int8": "Linear8bitLt", "nf4": "Linear4bit"}
QUANTISING = pytest.mark.parametrize("dtype", QUANTISED)


def rounded(model: Any, dtype: str) -> Any:
    """The same with every linear weight of its blocks rounded to 8 or 4 bits, and still float32."""
    from bitsandbytes import functional

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and "layers." in name:
            if dtype == "int8":
                codes, scales, _ = functional.int8_vectorwise_quant(module.weight.data.half())
                module.weight.data = functional.int8_vectorwise_dequant(codes, scales)
            else:
                codes, state = functional.quantize_4bit(module.weight.data, quant_type="nf4", compress_statistics=True)
                module.weight.data = functional.dequantize_4bit(codes, state)
    return model


@functools.cache
def states_of(model: Path, dtype: str) -> np.ndarray:
    """After the blocks 0 and 3, as this package computes them."""
    return states(model, [0, 3], dtype=dtype)


@functools.cache
def rounded_states(model: Path, dtype: str) -> np.ndarray:
    """After the blocks 0, 2 and 3 of `rounded` weights, as transformers computes them."""
    return full_states(rounded(whole(model), dtype), [0, 2, 3])


def least_cosine(actual: np.ndarray, expected: np.ndarray) -> float:
    norms = np.linalg.norm(actual, axis=-1) * np.linalg.norm(expected, axis=-1)
    return float(((actual * expected).sum(axis=-1) / norms).min())


@QUANTISING
def test_linear_layers_are_quantised_and_nothing_else(wide_model: Path, dtype: Any) -> None:
    loaded = load(wide_model, 3, dtype=dtype)
    kinds = {name: type(module).__name__ for name, module in loaded.model.named_modules() if name.endswith("_proj")}
    assert set(kinds.values()) == {QUANTISED[dtype]}
    assert len(kinds) == 7 * 4
    plain = {parameter.dtype for name, parameter in loaded.model.named_parameters() if "_proj" not in name}
    assert plain == {torch.float32} == {loaded.dtype}
    assert (loaded.dtype_name, len(loaded.blocks)) == (dtype, 4)


def test_states_in_nf4_are_those_of_the_rounded_weights(wide_model: Path) -> None:
    actual = states_of(wide_model, "nf4")
    assert_equal_states(actual, rounded_states(wide_model, "nf4")[:, [0, 2]])
    assert 0.8 < least_cosine(actual, states_of(wide_model, "auto")) < 0.99  # random weights, which bear rounding badly


def test_states_in_int8_are_near_those_of_the_rounded_weights(wide_model: Path) -> None:
    actual, expected = states_of(wide_model, "int8"), rounded_states(wide_model, "int8")[:, [0, 2]]
    assert 0.998 < least_cosine(actual, expected) < 1 - 1e-6  # what goes into a layer is rounded too
    assert 0.998 < least_cosine(actual, states_of(wide_model, "auto")) < 1 - 1e-6


@QUANTISING
def test_a_state_does_not_hang_on_its_batch(wide_model: Path, dtype: Any) -> None:
    """As it would with LLM.int8's outliers, which are looked for in a whole batch."""
    config = ModelOptions(str(wide_model), dtype=dtype)
    loaded = load_model(config, 3, CPU)
    with torch.no_grad():
        loaded.blocks[1].input_layernorm.weight *= 3  # outliers (above 6) in columns that differ from row to row
    encoder = Encoder(config, Runtime(loaded))
    together = encoder.encode(ROWS, [0, 3]).values
    alone = np.concatenate([encoder.encode([row], [0, 3]).values for row in ROWS])
    assert_equal_states(together, alone)


@pytest.mark.process
def test_quantised_loading_and_running_say_nothing(wide_model: Path) -> None:
    """bitsandbytes would tell of every batch that it casts, and of a package that it would fetch kernels with."""
    program = (
        "import sys\n"
        "from larf_curate.encoding.encoder import get_encoder\n"
        "from larf_curate.models.options import ModelOptions\n"
        "for dtype in sys.argv[2:]:\n"
        "    encoder = get_encoder(ModelOptions(sys.argv[1], dtype=dtype, device='cpu'), 1)\n"
        "    encoder.encode([[5, 6, 7], [8]], [1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(wide_model), *QUANTISED], capture_output=True, check=True, encoding="utf-8"
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_each_dtype_is_a_model_of_its_own(wide_model: Path) -> None:
    found = [get_encoder(ModelOptions(str(wide_model), dtype=d, device="cpu"), 1) for d in ("auto", "int8", "nf4")]
    assert [encoder.loaded.dtype_name for encoder in found] == ["float32", "int8", "nf4"]
    again = get_encoder(ModelOptions(str(wide_model), dtype="nf4", device="cpu", batch_tokens=9), 0)
    assert again.loaded is found[2].loaded


@pytest.mark.demo
def test_the_demo_model_has_weights_that_can_be_quantised(wide_model: Path) -> None:
    """It comes as a GGUF file; what is loaded is the safetensors copy of that."""
    loaded = load("demo", 1, dtype="nf4")
    assert type(loaded.blocks[1].mlp.up_proj).__name__ == "Linear4bit"


@pytest.mark.parametrize("package", ["bitsandbytes", "accelerate"])
@QUANTISING
def test_a_missing_package_names_the_extra(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, package: str, dtype: Any
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == package else find(name, *a))
    monkeypatch.setattr("larf_curate.models.loading.locate", lambda *_: pytest.fail("fetches a model for nothing"))
    if package == "accelerate":
        pytest.importorskip("bitsandbytes")
    with pytest.raises(MissingExtraError, match=rf"--dtype {dtype}.*`{package}`.*larf-curate\[quant\]"):
        load(tiny_model, 0, dtype=dtype)


@QUANTISING
def test_a_device_that_cannot_quantise_is_named(wide_model: Path, dtype: Any) -> None:
    with pytest.raises(ModelError, match=rf"dtype {dtype} runs on cuda, xpu, cpu, not on mps"):
        load_model(ModelOptions(str(wide_model), dtype=dtype), 0, torch.device("mps"))


def test_sizes_that_the_cpu_gets_wrong_in_4_bits_are_refused(wide_model: Path, tiny_model: Path) -> None:
    """bitsandbytes 0.50 dequantises rows of 48 weights to something else, and does not say so."""
    with pytest.raises(ModelError, match=r"48 inputs.*no multiple of 64; take int8, or a GPU"):
        load(tiny_model, 1, dtype="nf4")
    assert load(tiny_model, 1, dtype="int8").dtype_name == "int8"


@QUANTISING
def test_a_model_without_linear_layers_is_not_called_quantised(
    wide_model: Path, monkeypatch: pytest.MonkeyPatch, dtype: Any
) -> None:
    monkeypatch.setattr("larf_curate.models.quantising.loading_arguments", lambda *_: {})
    with pytest.raises(ModelError, match=f"no linear layers that could be quantised to {dtype}"):
        load(wide_model, 0, dtype=dtype)


@QUANTISING
def test_a_gguf_file_is_not_quantised_again(wide_model: Path, gguf_file: Path, dtype: Any) -> None:
    with pytest.raises(ModelError, match=rf"tiny\.gguf is a GGUF file.* {dtype} again"):
        load(gguf_file, 0, dtype=dtype)


@QUANTISING
def test_a_checkpoint_that_is_quantised_loads_as_it_is_and_no_other_way(
    wide_model: Path, tmp_path: Path, dtype: str
) -> None:
    kinds = {"int8": {"load_in_8bit": True}, "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}}
    how = transformers.BitsAndBytesConfig(**kinds[dtype], bnb_4bit_compute_dtype=torch.float32)
    whole(wide_model, quantization_config=how, device_map={"": "cpu"}).save_pretrained(tmp_path)
    make_tokenizer(tmp_path)
    loaded = load(tmp_path, 2)
    assert type(loaded.blocks[0].mlp.up_proj).__name__ == QUANTISED[dtype]
    assert len(loaded.blocks) == 3
    actual = Encoder(ModelOptions(str(tmp_path)), Runtime(loaded)).encode(ROWS, [2]).values
    assert least_cosine(actual, rounded_states(wide_model, dtype)[:, [1]]) > 0.998
    for other in QUANTISED:
        with pytest.raises(ModelError, match=rf"quantised already \(bitsandbytes\).* {other} again.*auto"):
            load(tmp_path, 2, dtype=other)


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"modules_to_save": ["embed_tokens"]}], ids=str)
@QUANTISING
@pytest.mark.slow
def test_an_adapter_beside_quantised_weights_gives_peft_s_states(
    wide_model: Path, tmp_path: Path, dtype: Any, options: dict[str, Any]
) -> None:
    make_adapter(wide_model, tmp_path, **options)
    if dtype == "int8" and "use_dora" in options:
        with pytest.raises(ModelError, match="is a DoRA, which peft cannot run beside int8: take nf4"):
            load(tmp_path, 3, dtype=dtype)
        return
    peft = pytest.importorskip("peft")
    expected = full_states(peft.PeftModel.from_pretrained(rounded(whole(wide_model), dtype), tmp_path), [0, 3])
    loaded = load(tmp_path, 3, dtype=dtype)
    actual = Encoder(ModelOptions(str(tmp_path)), Runtime(loaded)).encode(ROWS, [0, 3]).values
    if dtype == "nf4":
        assert_equal_states(actual, expected)
    assert least_cosine(actual, expected) > 0.99
    assert least_cosine(actual, states_of(wide_model, dtype)) < 0.8
    assert (len(loaded.blocks), loaded.dtype_name) == (4, dtype)
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


@pytest.mark.parametrize("dtype", ["float32", *QUANTISED])
def test_an_adapter_of_the_prompt_is_refused(wide_model: Path, tmp_path: Path, dtype: Any) -> None:
    peft = pytest.importorskip("peft")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    adapted = peft.get_peft_model(whole(wide_model), config)
    adapted.peft_config["default"].base_model_name_or_path = str(wide_model)
    adapted.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="changes the prompt, not the model"):
        load(tmp_path, 1, dtype=dtype)


@pytest.fixture(scope="module")
def sizes_of(wide_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, dict[str, int]]]:
    """A model of a kind, and the sizes of the weights up to a block of it, by name."""
    configs = {
        "llama": transformers.LlamaConfig(**WIDE),
        "gpt2": transformers.GPT2Config(vocab_size=512, n_embd=64, n_layer=BLOCKS, n_head=4, n_positions=128),
        "moe": transformers.MixtralConfig(**WIDE, num_local_experts=2, num_experts_per_tok=1),
    }

    @functools.cache
    def model_of(kind: str) -> Path:
        return make_model(tmp_path_factory.mktemp("model"), configs[kind])

    @functools.cache
    def sizes(kind: str, highest: int) -> tuple[Path, dict[str, int]]:
        model = model_of(kind)
        return model, {name: weights.numel() for name, weights in load(model, highest).model.named_parameters()}

    return sizes


@pytest.mark.parametrize("highest", [1, BLOCKS - 1])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "moe"])
@QUANTISING
@pytest.mark.slow
def test_what_is_quantised_is_what_the_shape_reckons_with(
    sizes_of: Callable[..., tuple[Path, dict[str, int]]], dtype: Any, kind: str, highest: int
) -> None:
    model, sizes = sizes_of(kind, highest)
    shape = shape_of(str(model), None, highest)
    assert shape.parameters == sum(sizes.values())
    found = load(model, highest, dtype=dtype).model.named_parameters()
    codes = {name for name, parameter in found if not parameter.is_floating_point()}
    assert shape.linear_parameters == sum(sizes[name] for name in codes)
