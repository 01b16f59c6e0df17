"""A low-rank direction in a model's weights, and the model as if its weights were moved a step along it.

The step is added to each layer's output, W x + s A (B x), and not to its weights (as in LoRA, arXiv 2106.09685). So the
weights never change, there is no second copy of them, and the cost is that of two thin matrices.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..models.loading import LoadedModel


@dataclass(frozen=True)
class Factors:
    """The direction in one weight matrix, `left @ right`: float32 [outputs, rank] and [rank, inputs]."""

    left: NDArray[np.float32]
    right: NDArray[np.float32]


@dataclass(frozen=True)
class WeightDirection:
    """A direction in the space of the matrices of a model's blocks.

    Attributes:
        factors: for each linear layer, by the block's number and the layer's name in it: `3.self_attn.q_proj`.
    """

    factors: Mapping[str, Factors]

    @property
    def norm(self) -> float:
        """The Frobenius norm over all matrices."""
        squares = (np.sum((f.left.T @ f.left) * (f.right @ f.right.T)) for f in self.factors.values())
        return float(np.sqrt(sum(float(square) for square in squares)))

    def scaled(self, size: float) -> WeightDirection:
        """The same direction, `size` times as long."""
        scaled = {name: Factors(np.float32(size) * each.left, each.right) for name, each in self.factors.items()}
        return WeightDirection(scaled)

    @contextlib.contextmanager
    def step(self, loaded: LoadedModel, size: float) -> Iterator[None]:
        """Compute as if the weights were moved by `size` times this direction, while the context lasts.

        Args:
            loaded: the model; whoever calls holds its lock.
            size: by how much to multiply the direction.

        Raises:
            ModelError: the model has no layer of such a name, or one of another shape.
        """
        import torch

        layers = block_layers(loaded)
        with contextlib.ExitStack() as stack:
            for name, factors in self.factors.items():
                layer = layers.get(name)
                if layer is None or layer_shape(layer) != (len(factors.left), factors.right.shape[1]):
                    raise ModelError(
                        f"the direction belongs to another model: block layer {name} is missing or has another shape"
                    )
                left, right = (
                    torch.from_numpy(part).to(loaded.device, loaded.dtype)
                    for part in (size * factors.left, factors.right)
                )
                stack.callback(layer.register_forward_hook(_adding(left, right)).remove)
            yield


def _adding(left: Tensor, right: Tensor) -> Any:
    def add(_layer: object, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + (inputs[0] @ right.T) @ left.T

    return add


def block_layers(loaded: LoadedModel) -> dict[str, nn.Module]:
    """The linear layers of the blocks, by names such as `3.self_attn.q_proj`; without experts stored in one tensor."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    kinds = (nn.Linear, Conv1D)
    return {
        f"{number}.{name}": layer
        for number, block in enumerate(loaded.blocks)
        for name, layer in block.named_modules()
        if isinstance(layer, kinds)
    }


def layer_shape(layer: Any) -> tuple[int, int]:
    """Outputs and inputs of a linear layer."""
    from torch import nn

    first, second = layer.weight.shape
    return (first, second) if isinstance(layer, nn.Linear) else (second, first)
