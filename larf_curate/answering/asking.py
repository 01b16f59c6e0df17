"""Many prompts answered once, in batches of similar length. The prompts of a batch are read together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from ..models.loading import LoadedModel
from .answer_tokens import answer_text
from .generating import Answerer

if TYPE_CHECKING:
    from torch import Tensor

_TRIED = 4  # prompts

FirstLogits = Callable[[Sequence[int], "Tensor"], object]
"""Called with the numbers of prompts and the logits of their answers' first tokens, float32 [prompts, vocabulary]."""


def answers_to(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    stop: Callable[[str], bool] | None = None,
    first: FirstLogits | None = None,
    update: Callable[[int], object] = lambda _: None,
    at_once: int = 64,
) -> list[list[int]]:
    """Greedy answers of a model, as token ids without the token that ends them.

    Args:
        loaded: the model with its head.
        prompts: token ids of each.
        max_new_tokens: the most tokens of an answer.
        stop: called with the text of an answer so far; True ends it.
        first: is given what the model expects each answer to begin with.
        update: called with the number of prompts just answered.
        at_once: prompts of a batch, whose keys and values are in memory together.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    if not prompts:
        return answers
    # Each batch is padded to its longest.
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    together = _reads_together(loaded, [prompts[number] for number in order], max_new_tokens)
    for start in range(0, len(order), at_once):
        some = order[start : start + at_once]
        answerer = Answerer(loaded, [list(prompts[number]) for number in some], max_new_tokens, reuse=together)
        batch = answerer.answers(
            stop=None if stop is None else lambda _, answer: stop(answer_text(loaded, answer)),
            first_logits=None if first is None else partial(first, some),
        )
        for number, answer in zip(some, batch, strict=True):
            answers[number] = answer
        update(len(some))
    return answers


def _reads_together(loaded: LoadedModel, by_length: Sequence[Sequence[int]], max_new_tokens: int) -> bool:
    """Whether prompts that are read together get the answers that each gets alone; tried on a few of all lengths."""
    tried = [list(prompt) for prompt in (*by_length[:: -(-len(by_length) // _TRIED)], by_length[-1])]
    return Answerer(loaded, tried, max_new_tokens).reuse
