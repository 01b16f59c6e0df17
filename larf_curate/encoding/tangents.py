"""Losses and their derivatives along a direction in one forward pass, by forward-mode differentiation.

Each linear layer on which the direction has a part passes on y' = W x' + V x beside y = W x. Half precision needs this:
there the difference of two losses is lost in rounding, while the derivative is not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .directions import WeightDirection, block_layers
from .hooks import RunningBatch, running
from .jobs import run_rows
from .losses import LossReadout, TokenLosses, own_places, own_values, trained_places
from .padding import PaddedPass
from .runtime import Runtime

if TYPE_CHECKING:
    import torch

    from ..models.loading import LoadedModel

_BATCH_TOKENS_ON_CPU, _BATCH_TOKENS = 2048, 8192  # with their pads; a pass holds every number twice


def token_tangents(
    runtime: Runtime,
    ids: Sequence[Sequence[int]],
    trained: Sequence[Sequence[bool]],
    direction: WeightDirection,
    *,
    batch_tokens: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> tuple[TokenLosses, TokenLosses]:
    """The loss of each trained token, and its derivative along a direction.

    Rows run in padded batches, with attention as plain products, which is what forward mode can differentiate.

    Args:
        runtime: the runtime of a model that was loaded with its head.
        ids, trained: as for `token_losses`.
        direction: the direction along which the derivative is taken.
        batch_tokens: tokens of a batch, pads counted; None takes what suits the device.
        progress: called with the number of rows just done.

    Returns:
        Losses in nats, and derivatives.

    Raises:
        ModelError: the model was loaded without its head, or has no such layers.
    """
    loaded = runtime.loaded
    places = trained_places(ids, trained)
    readout = _TangentReadout(runtime, places)
    with_tangents = Runtime(loaded, _TangentPass(loaded))
    with_tangents.lock = runtime.lock  # one model, one user at a time
    size = batch_tokens or (_BATCH_TOKENS_ON_CPU if loaded.device.type == "cpu" else _BATCH_TOKENS)
    with _carried(direction, loaded):
        result = run_rows(with_tangents, ids, readout, (readout.widest, 2), batch_tokens=size, progress=progress)
    pairs = own_values(result, own_places(ids, trained, places))
    losses, tangents = (
        TokenLosses([None if pair is None else pair[:, side] for pair in pairs], result.issues, result.execution)
        for side in (0, 1)
    )
    return losses, tangents


@contextlib.contextmanager
def _carried(direction: WeightDirection, loaded: LoadedModel) -> Iterator[None]:
    """While it lasts, the direction's layers pass on what a change of their weights along it would do."""
    import torch

    forward_ad = _forward_ad()
    layers = block_layers(loaded)
    direction.require_layers(layers)

    def carrying(left: torch.Tensor, right: torch.Tensor | None) -> Any:
        def add(_layer: object, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            states = forward_ad.unpack_dual(inputs[0]).primal
            change = (states if right is None else states @ right.T) @ left.T
            moved: torch.Tensor = output + forward_ad.make_dual(torch.zeros_like(change), change)
            return moved

        return add

    with contextlib.ExitStack() as stack:
        for name, factors in direction.factors.items():
            left, right = factors.tensors(loaded.device, loaded.dtype)
            stack.callback(layers[name].register_forward_hook(carrying(left, right)).remove)
        yield


def _forward_ad() -> Any:
    """Torch's module for it, which has no types."""
    from torch.autograd import forward_ad

    return forward_ad


class _TangentPass(PaddedPass):
    """The plain pass, with a derivative carried beside every number."""

    name = "forward mode"

    @property
    def shortcuts(self) -> tuple[str, ...]:
        """How it saves time, in words."""
        return "equal rows once", "padded to similar lengths"

    @contextlib.contextmanager
    def _running(self, batch: RunningBatch) -> Iterator[None]:
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel

        with torch.no_grad(), _forward_ad().dual_level(), sdpa_kernel(SDPBackend.MATH), running(batch):
            yield


class _TangentReadout(LossReadout):
    """Reads losses and their derivatives, [rows, most trained tokens of any row, 2]."""

    def _kept(self, losses: torch.Tensor) -> torch.Tensor:
        import torch

        loss, tangent = _forward_ad().unpack_dual(losses)
        return torch.stack([loss, torch.zeros_like(loss) if tangent is None else tangent], dim=-1)
