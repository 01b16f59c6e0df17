"""Weights in 8 or 4 bits, by bitsandbytes."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..errors import MissingExtraError, ModelError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .locating import ModelFiles
    from .options import DType, ModelOptions

Quantised = Literal["int8", "nf4"]
_DEVICES = ("cuda", "xpu", "cpu")  # on MPS, bitsandbytes downloads its kernels from the Hub, or is very slow


def require_support(dtype: DType, device: torch.device) -> None:
    """Find out before a model is fetched that this machine cannot quantise.

    Raises:
        MissingExtraError: bitsandbytes or accelerate is not installed.
        ModelError: the device is of a kind that bitsandbytes does not run on.
    """
    for package in ("bitsandbytes", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "quant", f"dtype {dtype} (--dtype {dtype})")
    if device.type not in _DEVICES:
        raise ModelError(
            f"dtype {dtype} runs on {', '.join(_DEVICES)}, not on {device.type}: choose another dtype, or "
            "another device (--device cpu)"
        )


def loading_arguments(
    options: ModelOptions, source: ModelFiles, config: Any, device: torch.device, arithmetic: torch.dtype
) -> dict[str, Any]:
    """Further arguments of `from_pretrained` where weights are quantised: made on their device, they stay there.

    Args:
        options: what is asked for.
        source: where the model's files are.
        config: the model's own config, as transformers reads it.
        device: where the model will run.
        arithmetic: the dtype of products with weights in 4 bits.

    Returns:
        `device_map`, and `quantization_config` where `options.dtype` asks for one; empty for plain weights.

    Raises:
        ModelError: the model's weights cannot be quantised, or are quantised already.
    """
    from transformers import BitsAndBytesConfig

    stored = "gguf_file" not in source.arguments and stored_quantisation(config)
    if options.dtype not in get_args(Quantised):
        return {"device_map": {"": device}} if stored else {}
    if "gguf_file" in source.arguments:
        raise ModelError(
            f"{options.model} is a GGUF file, which cannot be quantised to {options.dtype} again: give the model's own "
            "weights (a directory or a Hub id), or another dtype"
        )
    if stored:
        raise ModelError(
            f"{options.model} is quantised already ({stored}), and cannot be quantised to {options.dtype} again: leave "
            "dtype at auto, which loads it as it is"
        )
    if options.dtype == "int8":
        # With a threshold, a column of activations that holds an outlier anywhere in a batch is not quantised in all of
        # the batch: a row's state would depend on its neighbours, by as much as 8 bits change it.
        quantisation = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)
    else:
        quantisation = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=arithmetic,
        )
    return {"quantization_config": quantisation, "device_map": {"": device}}


def require_quantised(name: str, model: nn.Module, dtype: Quantised) -> None:
    """Refuse a model that quantising has left as it was.

    Raises:
        ModelError: none of its weights are stored as integers.
    """
    if all(parameter.is_floating_point() for parameter in model.parameters()):
        raise ModelError(f"{name} has no linear layers that could be quantised to {dtype}")


def restrict_to_exact_kernels(name: str, model: Any) -> None:
    """Keep bitsandbytes' CPU kernels for 4 bits to those that give the same products on every CPU.

    Raises:
        ModelError: the model has layers of a size for which the kernels give wrong products.
    """
    for module_name, module in model.named_modules():
        # On CPUs with bfloat16 instructions, weights would be repacked for bfloat16 products at their first use: scores
        # would differ from CPU to CPU, and batches like ours run at half the speed.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        # A group of weights that shares a scale may go on in the next row; the kernel starts a new group in every row.
        if state is not None and state.shape[-1] % state.blocksize:
            raise ModelError(
                f"{name} cannot run in 4 bits on a CPU: {module_name} has {state.shape[-1]} inputs, and bitsandbytes "
                f"gives wrong weights where that is no multiple of {state.blocksize}; take int8, or a GPU"
            )


def stored_quantisation(config: Any) -> str | None:
    """The method by which the weights in a model's files are quantised already."""
    for part in (config, config.get_text_config(decoder=True)):
        if stored := getattr(part, "quantization_config", None):
            described = stored if isinstance(stored, dict) else stored.to_dict()
            method = described.get("quant_method", "unknown method")
            return str(getattr(method, "value", method))  # an enum in the config of a model that was loaded
    return None


def silence_bitsandbytes() -> None:
    """Drop two of its log messages, which say nothing to a user; peft imports it too."""
    for name in ("autograd._functions", "backends.cpu.ops"):
        logging.getLogger(f"bitsandbytes.{name}").addFilter(_is_worth_logging)


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """False for "the input is not float16", logged with every batch, and "the package `kernels` is not there"."""
    return not record.getMessage().startswith(("MatMul8bitLt: inputs", "Failed to load CPU"))


def linear_weights(model: nn.Module) -> Iterator[Any]:
    """The weights that bitsandbytes quantises: of plain linear layers, not embeddings, nor experts in one tensor."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    for module in model.modules():
        if type(module) in (nn.Linear, Conv1D):
            yield module.weight
