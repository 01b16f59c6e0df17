"""What a pass reads from a model while a batch runs through its blocks: the states of last tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import ModelError
from .hooks import RunningBatch, StopForward, output_states, replaced_forward, running_batch
from .packed_batch import Step, running_packed_batch

if TYPE_CHECKING:
    import torch
    from torch import nn


class Readout(Protocol):
    """What is read at the top of the blocks: states of last tokens, losses, or keys and values."""

    def longest_prefix(self, row: Sequence[int]) -> int:
        """How many first tokens of a row may run by themselves, because nothing is read of them."""

    def installed(self, blocks: nn.ModuleList, *, packed: bool) -> contextlib.AbstractContextManager[None]:
        """While it lasts, batches that run through the blocks are read, and end where nothing above is wanted.

        Args:
            blocks: the model's blocks, from the first on.
            packed: whether batches are packed (`PackedBatch`); else they are padded. A packed batch with `is_prefix` is
                not read: it only has to run the attention of every block that the rows behind it will run.
        """

    def result(self, batch: RunningBatch) -> torch.Tensor:
        """What was read of a batch that has run, [rows, ...]."""

    def shortcuts(self, *, packed: bool) -> tuple[str, ...]:
        """What of the model is left out because nothing is read of it, in words."""


class LastTokenStates:
    """Reads the state of each row's last token after chosen blocks; the pass ends with the highest of them.

    In a packed pass, the highest block computes keys and values of all tokens, and everything else of the last tokens
    alone: nobody reads the states of the others.

    Args:
        layers: block numbers, in the order in which their states are wanted.
    """

    def __init__(self, layers: Sequence[int]) -> None:
        self.layers = tuple(layers)

    def longest_prefix(self, row: Sequence[int]) -> int:
        """All but the last."""
        return len(row) - 1

    @contextlib.contextmanager
    def installed(self, blocks: nn.ModuleList, *, packed: bool) -> Iterator[None]:
        """See `Readout`."""
        highest = max(self.layers)
        with contextlib.ExitStack() as stack:
            for layer in sorted(set(self.layers)):
                keep = _keep_and_stop(layer, trimmed=packed) if layer == highest else _keep(layer)
                stack.callback(blocks[layer].register_forward_hook(keep).remove)
            if packed:
                trimmed = _last_tokens_alone(blocks[highest].forward)
                stack.enter_context(replaced_forward(blocks[highest], trimmed))
            yield

    def shortcuts(self, *, packed: bool) -> tuple[str, ...]:
        """See `Readout`."""
        blocks = "blocks up to the layer alone"
        return (blocks, "last tokens alone in the last block") if packed else (blocks,)

    def result(self, batch: RunningBatch) -> torch.Tensor:
        """States float32 [rows, layers, hidden size].

        Raises:
            ModelError: the model has passed over one of the blocks.
        """
        import torch

        if passed_over := [layer for layer in self.layers if layer not in batch.kept]:
            raise ModelError(
                f"block {passed_over[0]} does not run on text alone (it attends to pictures): choose another layer"
            )
        return torch.stack([batch.kept[layer] for layer in self.layers], dim=1)


def _keep(layer: int) -> Callable[..., None]:
    """A forward hook that keeps the states of the last tokens."""

    def hook(block: object, _args: object, output: Any) -> None:
        batch = running_batch()
        batch.kept[layer] = output_states(block, output).flatten(0, 1)[batch.last_tokens].float()

    return hook


def _keep_and_stop(layer: int, *, trimmed: bool) -> Callable[..., None]:
    """The same for the highest block, above which nothing is wanted. `trimmed`: it gives the last tokens alone."""

    def hook(block: object, _args: object, output: Any) -> None:
        batch, states = running_batch(), output_states(block, output).flatten(0, 1)
        batch.kept[layer] = (states if trimmed else states[batch.last_tokens]).float()
        raise StopForward

    return hook


def _last_tokens_alone(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The forward of a block in two steps: keys and values of all tokens, then the block on the last tokens alone.

    Only the block knows how its keys come about (norms, rotary positions, quantised or adapted weights), so it runs for
    them too: its attention takes them, and ends that run with `StopForward` (`PackedBatch.with_prefix`).
    """

    def run(*args: Any, **kwargs: Any) -> Any:
        batch = running_packed_batch()
        batch.step = Step.KEYS_AND_VALUES
        with contextlib.suppress(StopForward):
            forward(*args, **kwargs)
        if batch.last_keys_values is None:
            raise NotImplementedError("a block whose attention does not go through transformers' interface")
        if batch.is_prefix:
            raise StopForward
        batch.step = Step.LAST_TOKENS
        tokens = (args[0] if args else kwargs["hidden_states"]).shape[1]
        return forward(*_tokens_at(args, tokens, batch.last_tokens), **_tokens_at(kwargs, tokens, batch.last_tokens))

    return run


def _tokens_at(value: Any, tokens: int, index: torch.Tensor) -> Any:
    """The same arguments, with every tensor that has an entry for each of `tokens` tokens cut to those at `index`."""
    import torch

    if isinstance(value, torch.Tensor):
        if value.ndim > 1 and value.shape[1] == tokens:
            return value[:, index]
        return value[index] if value.ndim == 1 and len(value) == tokens else value
    if isinstance(value, dict):
        return {name: _tokens_at(item, tokens, index) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_tokens_at(item, tokens, index) for item in value)
    return value
