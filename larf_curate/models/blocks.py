"""A decoder's blocks: how many a config has, cutting it to the first of them, finding them in a loaded model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import ModelError

if TYPE_CHECKING:
    from torch import nn


def require_block(model: str, block: int, total: int) -> None:
    """Refuse a block that a model of `total` blocks does not have.

    Raises:
        ModelError: names the model and the blocks that it has.
    """
    if not 0 <= block < total:
        raise ModelError(f"layer {block} is out of range: {model} has blocks 0 to {total - 1}")


def cut_config(decoder: Any, count: int) -> bool:
    """Shorten a decoder's config to its first `count` blocks, so that the weights of the others are not even read.

    Returns:
        False where the config stays as it is, because what a block does depends on how many follow it (Gemma 3n shares
        keys and values among the last ones): such a model is loaded whole and cut afterwards.
    """
    if getattr(decoder, "num_kv_shared_layers", 0):
        return False
    total = decoder.num_hidden_layers
    for name, value in list(vars(decoder).items()):
        if isinstance(value, list) and len(value) == total:  # layer_types and its like: one entry a block
            setattr(decoder, name, value[:count])
    decoder.num_hidden_layers = count
    return True


def find_blocks(model: nn.Module, count: int) -> nn.ModuleList:
    """The decoder's blocks, by structure: the outermost list of `count` modules outside vision and audio towers.

    Raises:
        ModelError: the model holds no such list.
    """
    from torch import nn

    towers = ("vision", "visual", "audio", "encoder.")
    candidates = [
        (name.count("."), name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count and not any(tower in name for tower in towers)
    ]
    if not candidates:
        raise ModelError(f"{type(model).__name__} holds no list of {count} blocks that larf-curate can find")
    return min(candidates, key=lambda candidate: candidate[:2])[2]


def keep_blocks(model: nn.Module, count: int, present: int) -> nn.ModuleList:
    """The decoder's first `count` blocks of the `present` ones; those above are taken out of the model."""
    blocks = find_blocks(model, present)
    del blocks[count:]
    return blocks
