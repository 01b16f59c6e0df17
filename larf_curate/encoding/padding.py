"""The plain forward pass: rows of similar length side by side, padded on the right."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .batching import Batch, Row, plan_padded_batches
from .hooks import RunningBatch, running
from .limits import Limits, limits_of
from .memory import to_device
from .readout import Readout

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..models.loading import LoadedModel


class PaddedPass:
    """Runs batches of rows through the blocks of a model of any architecture.

    Attention is causal, so no token sees the pads behind it.

    Args:
        loaded: the model; the caller holds its lock.
        one_by_one: one row in each batch: the model's own full pass, and the measure of every other way to run it.
        limits: how long rows may be; by default what the model's config says.

    Attributes:
        name: the name of this way to run a model.
        threaded: whether several batches may run at the same time.
    """

    name = "padded"
    threaded = False

    def __init__(self, loaded: LoadedModel, *, one_by_one: bool = False, limits: Limits | None = None) -> None:
        self.loaded = loaded
        self.one_by_one = one_by_one
        if one_by_one:
            self.name = "one by one"
        decoder = loaded.model.config.get_text_config(decoder=True)
        self.limits = limits_of(decoder, len(loaded.blocks)) if limits is None else limits
        self._readout: Readout | None = None

    @property
    def shortcuts(self) -> tuple[str, ...]:
        """How it saves time, in words."""
        way = "rows one by one" if self.one_by_one else "padded to similar lengths"
        return "equal rows once", way

    def plan(self, rows: Sequence[Row], batch_tokens: int) -> list[Batch]:
        """Batches of these rows, in the order to run them."""
        if self.one_by_one:
            return [Batch([i]) for i in sorted(range(len(rows)), key=lambda i: -len(rows[i]))]
        return plan_padded_batches([len(row) for row in rows], batch_tokens)

    def tokens(self, rows: Sequence[Row], _prefix: int) -> int:
        """How many tokens, pads counted, run for these rows."""
        return len(rows) * max(map(len, rows))

    @contextlib.contextmanager
    def reading(self, readout: Readout) -> Iterator[None]:
        """While it lasts, a call of the pass gives what the readout reads."""
        self._readout = readout
        with readout.installed(self.loaded.blocks, packed=False):
            try:
                yield
            finally:
                if self.one_by_one:
                    _forget_lengths(self.loaded.model)

    def __call__(self, rows: Sequence[Row], _prefix: int) -> torch.Tensor:
        """Run one batch.

        Args:
            rows: token ids; fastest where they are of similar length.
            _prefix: how many first tokens they share; of no use here.

        Returns:
            What the readout reads, [rows, ...].
        """
        import torch

        assert self._readout is not None, "call it within `reading`"
        device, width = self.loaded.device, max(map(len, rows))
        if self.one_by_one:
            _forget_lengths(self.loaded.model)
        ids = torch.zeros((len(rows), width), dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.as_tensor(row)
        last = torch.tensor([i * width + len(row) - 1 for i, row in enumerate(rows)])
        starts = range(0, len(rows) * width, width)
        batch = RunningBatch(last_tokens=to_device(last, device), rows=rows, starts=starts)
        with self._running(batch):
            self.loaded.model(input_ids=to_device(ids, device), use_cache=False)
        return self._readout.result(batch)

    @contextlib.contextmanager
    def _running(self, batch: RunningBatch) -> Iterator[None]:
        """The context in which a batch runs."""
        import torch

        with torch.inference_mode(), running(batch):
            yield


def _forget_lengths(model: nn.Module) -> None:
    """Reset the frequencies of dynamic NTK before the next row: it keeps the frequencies of the longest row so far."""
    for module in model.modules():
        for name in [name for name in vars(module) if name.endswith("max_seq_len_cached")]:
            prefix = name.removesuffix("max_seq_len_cached")
            original = getattr(module, f"{prefix}original_inv_freq", None)
            current = getattr(module, f"{prefix}inv_freq", None)
            if original is not None and current is not None and getattr(module, name) != module.original_max_seq_len:
                module.register_buffer(f"{prefix}inv_freq", original.to(current.device), persistent=False)
                setattr(module, name, module.original_max_seq_len)
