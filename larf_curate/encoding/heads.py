"""What stands above the blocks: final norm and language-model head, for a few tokens at a time."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self

from ..errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.loading import LoadedModel

_PIECE = 16 * 2**20
"""Logits in memory at once, for each thread: 64 MiB in float32. A vocabulary has 50 to 260 thousand entries."""


class LossHead:
    """Losses of next tokens out of the states that the blocks end with.

    The model's own code of the head runs, with all that it does to logits (Gemma caps them, Granite and Cohere scale
    them): while a `with` block lasts, its decoder is replaced by one that hands over the states it is given.

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

    def __enter__(self) -> Self:
        self._forward = self._decoder.forward
        self._own = "forward" in vars(self._decoder)
        self._decoder.forward = self._hand_over
        return self

    def __exit__(self, *_: object) -> None:
        if self._own:
            self._decoder.forward = self._forward
        else:
            del self._decoder.forward

    def decode(self, **inputs: Any) -> Tensor:
        """Run the decoder itself: states after the final norm, [1, tokens, hidden size]."""
        states: Tensor = self._forward(**inputs)[0]
        return states

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
        for piece, wanted in zip(states.split(size), targets.split(size), strict=True):
            self._current.states = piece[None]
            logits = self._model(input_ids=wanted[None], use_cache=False).logits[0]
            pieces.append(torch.nn.functional.cross_entropy(logits.float(), wanted, reduction="none"))
        self._current.states = None
        return torch.cat(pieces)

    def _hand_over(self, *_: Any, **__: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutput

        class States(BaseModelOutput):  # type: ignore[misc,unused-ignore]
            """States alone: there is nothing else that a head could copy into its result (caches, router logits)."""

            def __getattr__(self, _name: str) -> None:
                return None

        return States(last_hidden_state=self._current.states)
