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

    from .locating import Source
    from .options import DType, EncoderConfig

Quantised = Literal["int8", "nf4"]
_DEVICES = ("cuda", "xpu", "cpu")  # on MPS, bitsandbytes fetches its kernels from the Hub, or is very slow


def require(dtype: DType, device: torch.device) -> None:
    for package in ("bitsandbytes", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "quant", f"dtype {dtype} (--dtype {dtype})")
    if device.type not in _DEVICES:
        raise ModelError(
            f"dtype {dtype} runs on {', '.join(_DEVICES)}, not on {device.type}: choose another dtype, or "
            "another device (--device cpu)"
        )


def options(
    config: EncoderConfig, source: Source, model_config: Any, device: torch.device, arithmetic: torch.dtype
) -> dict[str, Any]:
    """More words for `from_pretrained` where weights are quantised: they are made on their device, and stay there."""
    from transformers import BitsAndBytesConfig

    stored = "gguf_file" not in source.options and _stored_quantisation(model_config)
    if config.dtype not in get_args(Quantised):
        return {"device_map": {"": device}} if stored else {}
    if "gguf_file" in source.options:
        raise ModelError(
            f"{config.model} is a GGUF file, which cannot be quantised to {config.dtype} again: give the model's own "
            "weights (a directory or a Hub id), or another dtype"
        )
    if stored:
        raise ModelError(
            f"{config.model} is quantised already ({stored}), and cannot be quantised to {config.dtype} again: leave "
            "dtype at auto, which loads it as it is"
        )
    if config.dtype == "int8":
        # With a threshold, a column of activations that holds an outlier anywhere in a batch is left as it is in all of
        # the batch: a row's state would hang on its neighbours, by as much as 8 bits cost it.
        how = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)
    else:
        how = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=arithmetic,
        )
    return {"quantization_config": how, "device_map": {"": device}}


def settle_on_cpu(name: str, model: Any) -> None:
    """Keep bitsandbytes' CPU kernels for 4 bits to what they do right.

    Raises:
        ModelError: the model has layers of a size that they get wrong.
    """
    for module_name, module in model.named_modules():
        # On CPUs that know bfloat16, weights would be repacked at their first use: for bfloat16 products, so that
        # scores would differ from CPU to CPU, and at half the speed for batches like ours.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        # Blocks of weights that share a scale run on from row to row; the kernel lets every row begin a new one.
        if state is not None and state.shape[-1] % state.blocksize:
            raise ModelError(
                f"{name} cannot run in 4 bits on a CPU: {module_name} has {state.shape[-1]} inputs, and bitsandbytes "
                f"gives wrong weights where that is no multiple of {state.blocksize}; take int8, or a GPU"
            )


def _stored_quantisation(config: Any) -> str | None:
    """The method by which the weights in a model's files are quantised already."""
    for part in (config, config.get_text_config(decoder=True)):
        if stored := getattr(part, "quantization_config", None):
            given = stored if isinstance(stored, dict) else stored.to_dict()
            return str(given.get("quant_method", "unknown method"))
    return None


def hush() -> None:
    """Bitsandbytes says less on standard error, wherever it is installed: peft imports it too."""
    for name in ("autograd._functions", "backends.cpu.ops"):
        logging.getLogger(f"bitsandbytes.{name}").addFilter(_is_worth_telling)


def _is_worth_telling(record: logging.LogRecord) -> bool:
    """Not that a layer's input is not float16 (told for every batch), nor that the package `kernels` is not there."""
    return not record.getMessage().startswith(("MatMul8bitLt: inputs", "Failed to load CPU"))


def linear_weights(model: nn.Module) -> Iterator[Any]:
    """What bitsandbytes quantises: plain linear layers, not embeddings, nor experts whose weights are one tensor."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    for module in model.modules():
        if type(module) in (nn.Linear, Conv1D):
            yield module.weight
