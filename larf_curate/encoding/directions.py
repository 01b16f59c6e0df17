"""A direction in a model's weights, and the model as if its weights were moved a step along it.

The step is added to each layer's output, W x + s A (B x), and not to its weights (as in LoRA, arXiv 2106.09685). So the
weights never change, there is no second copy of them, and for a direction of low rank the cost is that of two thin
matrices.
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
    import torch
    from torch import Tensor, nn

    from ..models.loading import LoadedModel

_LEFT, _RIGHT = ".left", ".right"  # what follows a layer's name in a file
_OVERSAMPLING, _POWER_ITERATIONS = 8, 4  # of the randomised singular value decomposition


@dataclass(frozen=True)
class Factors:
    """The direction in one weight matrix, `left @ right`: float32 [outputs, rank] and [rank, inputs].

    Where `right` is None, `left` is the whole matrix, [outputs, inputs].
    """

    left: NDArray[np.float32]
    right: NDArray[np.float32] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        return len(self.left), (self.left if self.right is None else self.right).shape[1]

    @property
    def square(self) -> float:
        """The squared Frobenius norm."""
        if self.right is None:
            return float(np.sum(np.square(self.left, dtype=np.float64)))
        left, right = self.left.astype(np.float64), self.right.astype(np.float64)
        return float(np.sum((left.T @ left) * (right @ right.T)))

    def tensors(self, device: torch.device, dtype: torch.dtype, size: float = 1.0) -> tuple[Tensor, Tensor | None]:
        """`left`, times `size`, and `right` as tensors there."""
        import torch

        left = torch.from_numpy(np.float32(size) * self.left).to(device, dtype)
        return left, None if self.right is None else torch.from_numpy(self.right).to(device, dtype)

    def low_rank(self, rank: int) -> Factors:
        """The closest matrix of at most this rank, by a randomised singular value decomposition (arXiv 0909.4061)."""
        import torch

        if self.right is not None and self.right.shape[0] <= rank:
            return self
        matrix = torch.from_numpy(self.left if self.right is None else self.left @ self.right)
        kept = min(rank, *matrix.shape)
        with torch.random.fork_rng(devices=[]):
            # The same direction whenever it is fitted. torch.manual_seed would seed the user's GPUs as well, for good.
            torch.default_generator.manual_seed(0)
            left, values, right = torch.svd_lowrank(matrix, min(kept + _OVERSAMPLING, *matrix.shape), _POWER_ITERATIONS)
        left, values, right = left[:, :kept], values[:kept], right[:, :kept]
        root = values.sqrt()
        return Factors((left * root).numpy(), (right * root).T.contiguous().numpy())


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
        return float(np.sqrt(sum(factors.square for factors in self.factors.values())))

    @property
    def bytes(self) -> int:
        """What its numbers take."""
        return sum(f.left.nbytes + (0 if f.right is None else f.right.nbytes) for f in self.factors.values())

    def scaled(self, size: float) -> WeightDirection:
        """The same direction, `size` times as long."""
        scaled = {name: Factors(np.float32(size) * each.left, each.right) for name, each in self.factors.items()}
        return WeightDirection(scaled)

    def low_rank(self, rank: int) -> WeightDirection:
        """The closest direction of at most this rank in each matrix, scaled to the norm of this one."""
        cut = self.cut(rank)
        return cut.scaled(self.norm / cut.norm)

    def cut(self, rank: int) -> WeightDirection:
        """The closest direction of at most this rank in each matrix: shorter than this one by what is left out."""
        return WeightDirection({name: each.low_rank(rank) for name, each in self.factors.items()})

    def unit(self) -> WeightDirection:
        """The same direction, of norm 1."""
        return self.scaled(1 / self.norm)

    def to_tensors(self) -> dict[str, NDArray[np.float32]]:
        """The factors of a low-rank direction by name, as safetensors files hold them; see `of_tensors`."""
        tensors: dict[str, NDArray[np.float32]] = {}
        for name, factors in self.factors.items():
            assert factors.right is not None, "a whole matrix is not stored"
            tensors[name + _LEFT], tensors[name + _RIGHT] = factors.left, factors.right
        return tensors

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, NDArray[np.float32]]) -> WeightDirection:
        """The direction that `to_tensors` gave; other tensors among these are left alone.

        Raises:
            KeyError: a factor is missing.
        """
        names = [name.removesuffix(_LEFT) for name in tensors if name.endswith(_LEFT)]
        return cls({name: Factors(tensors[name + _LEFT], tensors[name + _RIGHT]) for name in names})

    @contextlib.contextmanager
    def step(self, loaded: LoadedModel, size: float) -> Iterator[None]:
        """Compute as if the weights were moved by `size` times this direction, while the context lasts.

        Args:
            loaded: the model; whoever calls holds its lock.
            size: the factor of the direction.

        Raises:
            ModelError: the model has no layer of such a name, or one of another shape.
        """
        layers = block_layers(loaded)
        self.require_layers(layers)
        with contextlib.ExitStack() as stack:
            for name, factors in self.factors.items():
                left, right = factors.tensors(loaded.device, loaded.dtype, size)
                stack.callback(layers[name].register_forward_hook(_adding(left, right)).remove)
            yield

    def require_layers(self, layers: Mapping[str, Any]) -> None:
        """Make sure that a model's layers (see `block_layers`) are those of this direction.

        Raises:
            ModelError: one is missing, or has another shape.
        """
        for name, factors in self.factors.items():
            if name not in layers or layer_shape(layers[name]) != factors.shape:
                raise ModelError(
                    f"the direction belongs to another model: block layer {name} is missing or has another shape"
                )


def _adding(left: Tensor, right: Tensor | None) -> Any:
    def add(_layer: object, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + (inputs[0] if right is None else inputs[0] @ right.T) @ left.T

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


def covered_share(loaded: LoadedModel) -> float:
    """The share (0 to 1) of the numbers in the blocks' matrices that a direction has a part in; see `block_layers`."""
    layers: dict[str, Any] = block_layers(loaded)
    own = sum(layer.weight.numel() for layer in layers.values())
    return float(own) / sum(weight.numel() for weight in loaded.blocks.parameters() if weight.ndim > 1)


def layer_shape(layer: Any) -> tuple[int, int]:
    """Outputs and inputs of a linear layer."""
    from torch import nn

    first, second = layer.weight.shape
    return (first, second) if isinstance(layer, nn.Linear) else (second, first)
