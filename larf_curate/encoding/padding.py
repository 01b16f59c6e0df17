"""The plain forward pass: rows of similar length side by side, padded on the right."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .batching import Batch, Row, plan_padded_batches
from .hooks import RunningBatch, running
from .memory import to_device
from .readout import Readout

if TYPE_CHECKING:
    import torch

    from ..models.loading import LoadedModel


class PaddedPass:
    """Runs batches of rows through the blocks of a model of any architecture.

    Attention is causal, so no token sees the pads behind it.

    Args:
        loaded: the model; the caller holds its lock.

    Attributes:
        name: of this way to run a model.
        threaded: whether several batches may run at the same time.
    """

    name = "padded"
    threaded = False

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self._readout: Readout | None = None

    @property
    def shortcuts(self) -> tuple[str, ...]:
        """How it saves time, in words."""
        return "blocks up to the layer alone", "equal rows once", "padded to similar lengths"

    def plan(self, rows: Sequence[Row], batch_tokens: int) -> list[Batch]:
        """Batches of these rows, in the order to run them."""
        return plan_padded_batches([len(row) for row in rows], batch_tokens)

    def tokens(self, rows: Sequence[Row], _prefix: int) -> int:
        """How many tokens, pads counted, run for these rows."""
        return len(rows) * max(map(len, rows))

    @contextlib.contextmanager
    def reading(self, readout: Readout) -> Iterator[None]:
        """While it lasts, a call of the pass gives what the readout reads."""
        self._readout = readout
        with readout.installed(self.loaded.blocks, packed=False):
            yield

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
        """What a batch runs within."""
        import torch

        with torch.inference_mode(), running(batch):
            yield
