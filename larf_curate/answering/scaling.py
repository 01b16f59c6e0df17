"""One block of a model with its linear weights scaled, for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn


@contextlib.contextmanager
def scaled(block: nn.Module, factor: float) -> Iterator[None]:
    """While it lasts, the block's linear weights are `factor` times what they were.

    Biases and norms stay, as in the authors' search; so does the router of a mixture of experts. The weights
    themselves are never overwritten: each parameter points to a scaled copy and back, so that they are the same bytes
    afterwards whatever happens in between, Ctrl-C included. Where a layer's weights are quantised, or an adapter lies
    beside them, the layer's output is scaled instead, which is the same.

    Args:
        block: of a decoder.
        factor: of its linear weights, those of fused layers and experts too.

    Raises:
        ModelError: the block has no linear weights that are known as such.
    """
    by_output = {
        name: module
        for name, module in block.named_modules()
        if hasattr(module, "base_layer") or getattr(getattr(module, "weight", None), "itemsize", 2) == 1
    }
    within = tuple(f"{name}." for name in by_output)
    layers = [module for name, module in by_output.items() if not name.startswith(within)]
    parameters = [
        parameter
        for name, parameter in block.named_parameters()
        if parameter.ndim >= 2
        and not name.endswith(("router.weight", "mlp.gate.weight"))
        and not name.startswith(within)
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
