"""A batch inside a model: which one this thread runs, what replaces a block's forward, and how a pass ends early."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import nn


class StopForward(Exception):  # noqa: N818 - see its docstring
    """Control flow, not an error: ends a forward pass from within, once everything that is wanted has been read."""


@dataclass(kw_only=True)
class RunningBatch:
    """Rows on their way through the blocks of a model.

    Attributes:
        last_tokens: index of each row's last token among all tokens of the batch, pads counted, int64 [rows].
        rows: their token ids, with the shared prefix.
        starts: for each row, where its first token lies among all tokens of the batch, or would lie if its prefix did
            not run by itself (so that it can be negative).
        kept: what the pass's readout keeps, by the number of the block.
    """

    last_tokens: torch.Tensor
    rows: Sequence[Sequence[int]] = ()
    starts: Sequence[int] = ()
    kept: dict[int, torch.Tensor] = field(default_factory=dict)


_this_thread = threading.local()


@contextlib.contextmanager
def running(batch: RunningBatch) -> Iterator[None]:
    """While it lasts, hooks and attention that run in this thread find this batch. A `StopForward` ends it."""
    _this_thread.batch = batch
    try:
        with contextlib.suppress(StopForward):
            yield
    finally:
        _this_thread.batch = None


def running_batch() -> RunningBatch:
    """The batch that this thread runs."""
    batch: RunningBatch = _this_thread.batch
    return batch


@contextlib.contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """While it lasts, the module runs `forward` in place of its own. Its hooks stay at work."""
    before = vars(module).get("forward")  # set by another replacement, or by a library; else the class has it
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


def output_states(block: Any, output: Any) -> torch.Tensor:
    """The hidden states [rows, tokens, hidden size] in what a block returns.

    Some blocks return several streams of states. For Gemma 3n (AltUp) this is the stream that its blocks read, for
    DeepSeek 4 (hyper-connections) the mean of all streams.
    """
    states: torch.Tensor = output[0] if isinstance(output, tuple) else output
    if states.ndim == 3:
        return states
    active = getattr(getattr(block, "config", None), "altup_active_idx", None)
    if states.ndim == 4:
        return states.mean(dim=2) if active is None else states[active]
    raise ModelError(f"{type(block).__name__} gives states of {states.ndim} dimensions, of which no state can be read")
