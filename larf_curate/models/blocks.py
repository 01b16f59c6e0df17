"""A decoder's blocks: finding them, and building a model without those that are not run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import ModelError

if TYPE_CHECKING:
    from torch import nn

_TOWERS = ("vision", "visual", "audio", "encoder.")


def require_block(model: str, block: int, total: int) -> None:
    """Refuse a block that a model of `total` blocks does not have.

    Raises:
        ModelError: names the model and the blocks that it has.
    """
    if not 0 <= block < total:
        raise ModelError(f"layer {block} is out of range: {model} has blocks 0 to {total - 1}")


def find_blocks(model: nn.Module, total: int) -> nn.ModuleList:
    """The decoder's blocks, by structure: the largest list of `total` modules outside vision and audio towers.

    Args:
        model: the model with all of its blocks: in a cut model another list of modules may have the same length.
        total: how many blocks it has.

    Raises:
        ModelError: the model holds no such list.
    """
    blocks: nn.ModuleList = model.get_submodule(path_of_blocks(model, total))  # type: ignore[assignment,unused-ignore]
    return blocks


def path_of_blocks(model: nn.Module, total: int) -> str:
    """The name of `find_blocks` in the model."""
    from torch import nn

    candidates: list[tuple[int, int, str]] = [
        (-sum(parameter.numel() for parameter in module.parameters()), name.count("."), name)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == total and not any(tower in name for tower in _TOWERS)
    ]
    if not candidates:
        raise ModelError(f"{type(model).__name__} holds no list of {total} blocks that larf-curate can find")
    _, _, path = min(candidates)
    return path


def decoder_of(model: Any) -> Any:
    """What a model with a language-model head runs before the head; the model itself if it has none."""
    from transformers import PreTrainedModel

    if model.base_model is not model or model.get_output_embeddings() is None:
        within = getattr(model.base_model, "decoder", None)  # OPT's head runs that, past the model around it
        return within if isinstance(within, PreTrainedModel) else model.base_model
    return next(part for part in model.children() if isinstance(part, PreTrainedModel))  # as in Llama 4


def keep_blocks(model: nn.Module, count: int, total: int) -> nn.ModuleList:
    """The decoder's first `count` blocks of `total`; those above are taken out of the model."""
    blocks = find_blocks(model, total)
    del blocks[count:]
    return blocks


def with_blocks(model_class: Any, path: str, count: int) -> Any:
    """A subclass of a transformers model whose instances have the first `count` of the blocks in the list `path`.

    Weights of blocks that are not there are not read. The config stays that of the whole model: what a block computes
    may depend on how many there are (the decay of MiniMax's linear attention, the residual scale of MiniCPM 3, keys
    that Gemma 3n's last blocks share), and so may the size of other weights (Gemma 3n's embeddings for each block).
    """

    class Cut(model_class):  # type: ignore[misc,unused-ignore]
        def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(config, *args, **kwargs)
            del self.get_submodule(path)[count:]

    # transformers looks up by class name how the weights of a model are to be converted.
    Cut.__name__, Cut.__qualname__, Cut.__module__ = (
        model_class.__name__,
        model_class.__qualname__,
        model_class.__module__,
    )
    return Cut
