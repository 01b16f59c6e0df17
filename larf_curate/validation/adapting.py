"""Which layers of a model an adapter is trained on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from ..encoding.directions import block_layers
from ..errors import ModelError
from ..models.loading import LoadedModel
from .settings import TrainingSettings

_MAMBAS = ("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h")
_READ_BY_KERNELS = ("out_proj", "conv1d")
"""Layers of these models whose weights are read past any adapter; peft refuses them."""


def lora_config(loaded: LoadedModel, settings: TrainingSettings, frozen_blocks: Collection[int]) -> Any:
    """LoRA on every linear layer of the blocks, or on those of some names, but for those of some blocks.

    Args:
        loaded: the model.
        settings: the rank, and the names; alpha is twice the rank.
        frozen_blocks: numbers of blocks that get none.

    Raises:
        ModelError: there is no such layer, or none of one of the names.
    """
    from peft import LoraConfig

    kind = getattr(loaded.model.config, "model_type", "")
    layers = {id(layer): name for name, layer in block_layers(loaded).items() if _takes_adapter(layer)}
    targets = [
        path
        for path, module in loaded.model.named_modules()
        if id(module) in layers
        and int(layers[id(module)].partition(".")[0]) not in frozen_blocks
        and not (kind in _MAMBAS and path.rpartition(".")[2] in _READ_BY_KERNELS)
    ]
    if settings.targets:
        targets = _named(targets, settings.targets)
    if not targets:
        raise ModelError("training: the model has no linear layers in its blocks that an adapter could be trained on")
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=2 * settings.rank,
        target_modules=targets,
        fan_in_fan_out=is_transposed(loaded),
    )


def _named(paths: Sequence[str], names: Sequence[str]) -> list[str]:
    """The layers with one of some names, which may hold the names of the modules around them: `self_attn.q_proj`."""
    for name in names:
        if not any(f".{path}".endswith(f".{name}") for path in paths):
            there = ", ".join(dict.fromkeys(path.rpartition(".")[2] for path in paths))
            raise ModelError(f"training: the model has no projection {name!r}; there are {there}")
    return [path for path in paths if any(f".{path}".endswith(f".{name}") for name in names)]


def _takes_adapter(layer: Any) -> bool:
    """Whether a linear layer is called as one; a model's own kind (Llama 4's router) may return something else."""
    import torch

    if not type(layer).__module__.startswith("transformers.models."):
        return True
    weight = layer.weight
    try:
        with torch.no_grad():
            said = layer(weight.new_zeros(1, 1, weight.shape[1]))
    except (IndexError, RuntimeError, TypeError, ValueError):
        return False
    return isinstance(said, torch.Tensor) and said.shape == (1, 1, weight.shape[0])


def is_transposed(loaded: LoadedModel) -> bool:
    """Whether the layers are GPT-2's, which keep their weights the other way round."""
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(layer, Conv1D) for layer in block_layers(loaded).values())
