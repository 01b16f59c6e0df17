"""How large a model is, from its config alone: what a plan needs to know before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import LarfError, ModelError, one_line
from ..progress import quiet
from .blocks import keep_blocks, require_block
from .locating import code_of_its_own, locate
from .quantising import linear_weights

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """The size of a model that is cut after the highest block asked for.

    Attributes:
        total_blocks: how many blocks the model has before it is cut.
        parameters: all that are left, with the embeddings.
        block_parameters: the blocks' alone.
        linear_parameters: how many of the parameters int8 and nf4 quantise.
    """

    total_blocks: int
    parameters: int
    block_parameters: int
    linear_parameters: int


class CustomCodeError(ModelError):
    """The model comes with code of its own, without which its shape is not known."""


def shape_of(model: str, revision: str | None, highest: int | None, base: str | None = None) -> Shape:
    """The shape of a model that is not loaded: its config is read, its weights are not, and no code of its own is run.

    Args:
        model, revision, base: see `ModelOptions`.
        highest: the highest block asked for, from 0; None means the model's last one.

    Raises:
        CustomCodeError: only code that comes with the model knows its shape.
        ModelError: the model is unknown or unreadable, or has no block `highest`.
    """
    import torch
    from transformers import AutoConfig, AutoModel

    source = locate(model, revision, base)
    try:
        with quiet():
            config = AutoConfig.from_pretrained(source.path, trust_remote_code=False, **source.arguments)
            decoder = config.get_text_config(decoder=True)
            total = int(decoder.num_hidden_layers)
            count = total if highest is None else highest + 1
            require_block(model, count - 1, total)
            with torch.device("meta"):
                empty = AutoModel.from_config(config, trust_remote_code=False)
    except LarfError:
        raise
    except Exception as error:  # the parsers of a dozen file formats have errors of their own
        if "trust_remote_code" in str(error):
            raise CustomCodeError(code_of_its_own(model)) from error
        raise ModelError(f"{model} cannot be read: {one_line(error)}") from error
    blocks = keep_blocks(empty, count, total)
    return Shape(total, _numbers(empty.parameters()), _numbers(blocks.parameters()), _numbers(linear_weights(empty)))


def _numbers(weights: Iterable[Tensor]) -> int:
    return sum(weight.numel() for weight in weights)
