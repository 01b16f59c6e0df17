"""Losses of next tokens through a model's own language-model head, for a few tokens at a time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from ..models.blocks import decoder_of
from .hooks import replaced_forward

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.loading import LoadedModel

LOGITS_AT_ONCE = 16 * 2**20
"""Logits in memory for each thread: 64 MiB in float32. A vocabulary has 50 to 260 thousand entries."""


class LossHead:
    """Computes losses of next tokens from the states after the final norm.

    The model's own code computes the logits, since some models change them after the head (Gemma caps them, Granite and
    Cohere scale them). While losses are computed, the decoder is replaced: it returns the states to compute them from.

    Args:
        loaded: the model with its head; whoever calls holds its lock.
        logits_at_once: how many logits may be in memory for each thread.

    Raises:
        ModelError: the model was loaded without its head.
    """

    def __init__(self, loaded: LoadedModel, logits_at_once: int = LOGITS_AT_ONCE) -> None:
        self._logits_at_once = logits_at_once
        self._model = loaded.model
        self._decoder = decoder_of(loaded.model)
        if not loaded.has_head:
            raise ModelError(f"{type(loaded.model).__name__} has no language-model head, so no token has a loss")
        self._current = threading.local()

    @contextlib.contextmanager
    def installed(self, read: Callable[[Tensor], None]) -> Iterator[None]:
        """Call `read` in every forward pass of the model, while the context lasts.

        Args:
            read: called with the states after the final norm, [rows, tokens, hidden size]; may call `losses`.
        """
        forward = self._decoder.forward

        def run(*args: Any, **kwargs: Any) -> Any:
            states = getattr(self._current, "states", None)
            if states is not None:
                return _decoder_output(states)
            output = forward(*args, **kwargs)
            read(output[0])
            return output

        with replaced_forward(self._decoder, run):
            yield

    def losses(self, states: Tensor, targets: Tensor) -> Tensor:
        """The cross-entropy of each target in nats, under the logits of its state: float32 [tokens].

        Args:
            states: after the final norm, [tokens, hidden size].
            targets: ids of the tokens that follow, int64 [tokens].
        """
        import torch

        vocabulary = self._model.config.get_text_config(decoder=True).vocab_size
        size = max(1, self._logits_at_once // vocabulary)
        losses = []
        for some_states, some_targets in zip(torch.split(states, size), torch.split(targets, size), strict=True):
            self._current.states = some_states[None]
            try:
                logits = self._model(input_ids=some_targets[None], use_cache=False).logits[0]
            finally:
                self._current.states = None
            losses.append(torch.nn.functional.cross_entropy(logits.float(), some_targets, reduction="none"))
        return torch.cat(losses)


def _decoder_output(states: Tensor) -> Any:
    """The states in the class that a decoder returns."""
    from transformers.modeling_outputs import BaseModelOutput

    class States(BaseModelOutput):  # type: ignore[misc,unused-ignore]
        """The states alone: every other field (caches, router logits) is None."""

        def __getattr__(self, _name: str) -> None:
            return None

    return States(last_hidden_state=states)
