"""What stands above the blocks: final norm and language-model head, for a few tokens at a time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from .hooks import replaced_forward

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.loading import LoadedModel

_PIECE = 16 * 2**20
"""Logits in memory at once, for each thread: 64 MiB in float32. A vocabulary has 50 to 260 thousand entries."""


class LossHead:
    """Losses of next tokens out of the states that the blocks end with.

    The model's own code of the head runs, with all that it does to logits (Gemma caps them, Granite and Cohere scale
    them): while losses are computed, its decoder hands over the states it is given.

    Args:
        loaded: the model with its head; whoever calls holds its lock.

    Raises:
        ModelError: the model was loaded without its head.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self._model = loaded.model
        self._decoder = loaded.model.base_model
        if self._decoder is loaded.model or loaded.model.get_output_embeddings() is None:
            raise ModelError(f"{type(loaded.model).__name__} has no language-model head, so no token has a loss")
        self._current = threading.local()

    @contextlib.contextmanager
    def installed(self, read: Callable[[Tensor], None]) -> Iterator[None]:
        """While it lasts, `read` gets what the decoder ends with wherever the model runs.

        Args:
            read: is given the states after the final norm, [rows, tokens, hidden size]; may call `losses`.
        """
        forward = self._decoder.forward

        def run(*args: Any, **kwargs: Any) -> Any:
            states = getattr(self._current, "states", None)
            if states is not None:
                return _handed_over(states)
            output = forward(*args, **kwargs)
            read(output[0])
            return output

        with replaced_forward(self._decoder, run):
            yield

    def losses(self, states: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, in nats, of each target under the logits of its state; float32 [tokens].

        Args:
            states: after the final norm, [tokens, hidden size].
            targets: the token that follows each, int64 [tokens].
        """
        import torch

        vocabulary = self._model.config.get_text_config(decoder=True).vocab_size
        size = max(1, _PIECE // vocabulary)
        pieces = []
        for piece, wanted in zip(torch.split(states, size), torch.split(targets, size), strict=True):
            self._current.states = piece[None]
            try:
                logits = self._model(input_ids=wanted[None], use_cache=False).logits[0]
            finally:
                self._current.states = None
            pieces.append(torch.nn.functional.cross_entropy(logits.float(), wanted, reduction="none"))
        return torch.cat(pieces)


def _handed_over(states: Tensor) -> Any:
    """These states in the form of a decoder's output."""
    from transformers.modeling_outputs import BaseModelOutput

    class States(BaseModelOutput):  # type: ignore[misc,unused-ignore]
        """States alone: there is nothing else that a head could copy into its result (caches, router logits)."""

        def __getattr__(self, _name: str) -> None:
            return None

    return States(last_hidden_state=states)
