"""The plain forward pass: conversations of near-equal length side by side, padded on the right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .batching import Batch, Row, plan_batches
from .memory import moved

if TYPE_CHECKING:
    import torch

    from .loading import LoadedModel


class Enough(Exception):  # noqa: N818 - ends a forward pass, nothing is wrong
    """The highest block is done: what lies above it (the final norm) has nothing to add."""


class PaddedPass:
    """Runs batches of conversations through the blocks of a loaded model of any architecture.

    Attention is causal, so no token sees the pads behind it.

    Args:
        loaded: the model; whoever calls holds its lock.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded

    shortcuts = ("blocks up to the layer alone", "equal rows once", "padded to near-equal lengths")

    def plan(self, rows: Sequence[Row], batch_tokens: int) -> list[Batch]:
        return plan_batches([len(row) for row in rows], batch_tokens)

    def tokens(self, rows: Sequence[Row], _shared: int) -> int:
        """How many tokens, pads among them, run for these rows."""
        return len(rows) * max(map(len, rows))

    def __call__(self, rows: Sequence[Row], _shared: int, layers: Sequence[int]) -> torch.Tensor:
        """States float32 [rows, layers, hidden size] after each of `layers`, at the last token of each row."""
        import torch

        device = self.loaded.device
        padded = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.long)
        for i, row in enumerate(rows):
            padded[i, : len(row)] = torch.as_tensor(row)
        last = torch.tensor([len(row) - 1 for row in rows], device=device)
        kept: dict[int, torch.Tensor] = {}

        def keep(layer: int) -> Callable[..., None]:
            def hook(_module: object, _args: object, output: Any) -> None:
                states = output[0] if isinstance(output, tuple) else output
                kept[layer] = states[torch.arange(len(rows), device=device), last].float()
                if len(kept) == len(set(layers)):
                    raise Enough

            return hook

        handles = [self.loaded.blocks[layer].register_forward_hook(keep(layer)) for layer in sorted(set(layers))]
        try:
            with torch.inference_mode():
                self.loaded.model(input_ids=moved(padded, device), use_cache=False)
        except Enough:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return torch.stack([kept[layer] for layer in layers], dim=1)
