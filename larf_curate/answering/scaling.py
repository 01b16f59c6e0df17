"""One block of a model with its linear weights scaled, for a while: by one factor, or by one for each row."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

_ROUTERS = ("router.weight", "mlp.gate.weight")


class RowFactors:
    """By how much the linear weights of a block are scaled for each row of the batch that runs.

    Attributes:
        values: float32 [rows], on the device of the block.
    """

    values: Tensor


@contextlib.contextmanager
def scaled_by_row(block: nn.Module, factors: RowFactors) -> Iterator[None]:
    """While it lasts, the block's linear weights are, for row r of a batch, `factors.values[r]` times what they were.

    As for `scaled`, biases, norms and routers stay. The rows share the weights, so what each layer puts out is scaled.

    Args:
        block: a block of a decoder.
        factors: read at each pass; the caller sets them before it.

    Raises:
        ModelError: the block has linear weights outside of linear layers, such as those of fused experts; or, during a
            pass, a layer is not given the rows one by one.
    """
    layers, parameters = _linear_layers(block)
    if parameters or not layers:
        raise ModelError(f"{type(block).__name__} has linear weights that cannot be scaled row by row")

    def scale_output(layer: Any, _args: object, output: Tensor) -> Tensor:
        if output.ndim != 3 or len(output) != len(factors.values):
            raise ModelError(f"{type(block).__name__} mixes the rows of a batch before a linear layer")
        by_row = factors.values[:, None, None]
        exact = output.float()
        bias = getattr(layer, "bias", None)
        return (exact * by_row if bias is None else exact * by_row + bias * (1 - by_row)).to(output.dtype)

    handles = [layer.register_forward_hook(scale_output) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _linear_layers(block: nn.Module) -> tuple[list[nn.Module], list[str]]:
    """Linear layers of a block, an adapter's with what it is beside, and linear weights that are in none of them."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    layers = {
        name: module
        for name, module in block.named_modules()
        if isinstance(module, nn.Linear | Conv1D) or _holds_more_than_weights(module)
    }
    within = tuple(f"{name}." for name in layers)
    outermost = {name: module for name, module in layers.items() if not name.startswith(within)}
    routers = [name for name in outermost if f"{name}.weight".endswith(_ROUTERS)]
    elsewhere = [
        name
        for name, parameter in block.named_parameters()
        if parameter.ndim >= 2 and not name.endswith(_ROUTERS) and not name.startswith(within)
    ]
    return [module for name, module in outermost.items() if name not in routers], elsewhere


def _holds_more_than_weights(module: nn.Module) -> bool:
    """Whether a layer is quantised, or has an adapter beside it: its own weights are then not all there is to scale."""
    return hasattr(module, "base_layer") or getattr(getattr(module, "weight", None), "itemsize", 2) == 1


@contextlib.contextmanager
def scaled(block: nn.Module, factor: float) -> Iterator[None]:
    """While it lasts, the block's linear weights are `factor` times what they were.

    Biases and norms stay, as in the authors' search; so does the router of a mixture of experts. The weights
    themselves are never overwritten: each parameter points to a scaled copy and back, so that they are the same bytes
    afterwards whatever happens in between, Ctrl-C included. Where a layer's weights are quantised, or an adapter lies
    beside them, the layer's output is scaled instead, which is the same.

    Args:
        block: a block of a decoder.
        factor: the factor of its linear weights, including the weights of fused layers and experts.

    Raises:
        ModelError: the block has no linear weights that are known as such.
    """
    by_output = {name: module for name, module in block.named_modules() if _holds_more_than_weights(module)}
    within = tuple(f"{name}." for name in by_output)
    layers = [module for name, module in by_output.items() if not name.startswith(within)]
    parameters = [
        parameter
        for name, parameter in block.named_parameters()
        if parameter.ndim >= 2 and not name.endswith(_ROUTERS) and not name.startswith(within)
    ]
    if not parameters and not layers:
        raise ModelError(f"{type(block).__name__} keeps its linear weights in a form that the search cannot scale")
    unscaled = [parameter.data for parameter in parameters]

    def scale_output(layer: Any, _args: object, output: Tensor) -> Tensor:
        return output * factor if layer.bias is None else output * factor + layer.bias * (1 - factor)

    handles = [layer.register_forward_hook(scale_output) for layer in layers]
    try:
        for parameter, weights in zip(parameters, unscaled, strict=True):
            parameter.data = weights * factor
        yield
    finally:
        for handle in handles:
            handle.remove()
        interrupted: KeyboardInterrupt | None = None
        while True:
            try:
                for parameter, weights in zip(parameters, unscaled, strict=True):
                    parameter.data = weights
                break
            except KeyboardInterrupt as error:  # a second Ctrl-C, right here
                interrupted = error
        if interrupted is not None:
            raise interrupted
