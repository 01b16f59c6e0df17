"""The plain forward pass: conversations of near-equal length side by side, padded on the right."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .batching import Batch, Row, plan_batches
from .memory import moved

if TYPE_CHECKING:
    import torch

    from ..models.loading import LoadedModel


class Enough(Exception):  # noqa: N818 - ends a forward pass, nothing is wrong
    """The highest block is done: what lies above it (the final norm) has nothing to add."""


class PaddedPass:
    """Runs batches of conversations through the blocks of a loaded model of any architecture.

    Attention is causal, so no token sees the pads behind it.

    Args:
        loaded: the model; whoever calls holds its lock.
    """

    in_threads = False
    shortcuts = ("blocks up to the layer alone", "equal rows once", "padded to near-equal lengths")
    shortcuts_seen = ()

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self._layers: Sequence[int] = ()
        self._last: torch.Tensor | None = None
        self._kept: dict[int, torch.Tensor] = {}

    def plan(self, rows: Sequence[Row], batch_tokens: int) -> list[Batch]:
        return plan_batches([len(row) for row in rows], batch_tokens)

    def tokens(self, rows: Sequence[Row], _shared: int) -> int:
        """How many tokens, pads among them, run for these rows."""
        return len(rows) * max(map(len, rows))

    @contextlib.contextmanager
    def at_work(self, layers: Sequence[int]) -> Iterator[None]:
        """Within, calls give the states after each of `layers`."""
        with contextlib.ExitStack() as stack:
            self._layers = layers
            for layer in set(layers):
                stack.callback(self.loaded.blocks[layer].register_forward_hook(self._keeper(layer)).remove)
            yield

    def __call__(self, rows: Sequence[Row], _shared: int) -> torch.Tensor:
        """States float32 [rows, layers, hidden size] at the last token of each row."""
        import torch

        device = self.loaded.device
        padded = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.long)
        for i, row in enumerate(rows):
            padded[i, : len(row)] = torch.as_tensor(row)
        self._last = moved(torch.tensor([len(row) - 1 for row in rows]), device)
        self._kept.clear()
        with torch.inference_mode(), contextlib.suppress(Enough):
            self.loaded.model(input_ids=moved(padded, device), use_cache=False)
        return torch.stack([self._kept[layer] for layer in self._layers], dim=1)

    def _keeper(self, layer: int) -> Callable[..., None]:
        import torch

        def keep(_module: object, _args: object, output: Any) -> None:
            states = output[0] if isinstance(output, tuple) else output
            self._kept[layer] = states[torch.arange(len(states), device=states.device), self._last].float()
            if layer == max(self._layers):
                raise Enough

        return keep
