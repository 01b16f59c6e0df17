"""The margin by which a model refuses harmful requests, and the direction in its weights along which it grows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..answering.prompts import prompt_tokens, require_enough
from ..encoding.directions import Factors, WeightDirection, block_layers
from ..encoding.encoder import Encoder
from ..encoding.memory import is_out_of_memory
from ..errors import ModelError, PromptsError
from ..models.loading import LoadedModel
from ..models.quantising import stored_quantisation
from ..progress import progress as show_progress
from ..rows.wording import refuses, settled

if TYPE_CHECKING:
    from torch import Tensor

LEAST_REFUSED = 0.25
"""The smallest share of the prompts that a model has to refuse: otherwise there is little refusing to lose."""

REFUSAL_TOKENS = 32
"""Tokens of an answer by which it is known whether the answer refuses."""
_RARE = 0.02  # share of the refusals; a token that begins fewer of them does not count as an opening
_BATCH = 16  # prompts of one backward pass


@dataclass(frozen=True)
class Refusals:
    """Which harmful requests a model refuses, and with what first tokens.

    Attributes:
        ids: token ids of the prompts, with the header of the answer.
        refused: for each prompt, whether the model refuses it, judged by wording.
        openings: the first tokens of its refusals.
    """

    ids: tuple[tuple[int, ...], ...]
    refused: tuple[bool, ...]
    openings: tuple[int, ...]

    def halves(self) -> tuple[Refusals, Refusals]:
        """Every second prompt, and the others, with the same openings."""
        first, second = (Refusals(self.ids[start::2], self.refused[start::2], self.openings) for start in (0, 1))
        return first, second

    def shares(self) -> tuple[float, float]:
        """The share of the prompts that each of `halves` has: the second has one less where their number is odd."""
        first, second = (len(half.ids) / len(self.ids) for half in self.halves())
        return first, second

    @property
    def share(self) -> float:
        """The share of the prompts that the model refuses, 0 to 1."""
        return sum(self.refused) / len(self.refused)


def find_refusals(encoder: Encoder, prompts: Sequence[str], *, progress: bool = True) -> Refusals:
    """Let a model (loaded with its head) answer harmful requests; find its refusals and their first tokens.

    Args:
        encoder: the encoder of the model; whoever calls holds its lock.
        prompts: the requests.
        progress: show how far it is.

    Raises:
        PromptsError: there are too few prompts, one cannot be asked, the model refuses too few of them, or its refusals
            begin with the same tokens as its compliances.
    """
    from ..answering.asking import answers_to

    require_enough(prompts)
    ids = prompt_tokens(encoder.renderer, prompts)
    with show_progress(len(ids), "asking", unit="prompt", show=progress) as update:
        answers = answers_to(
            encoder.loaded, ids, REFUSAL_TOKENS, stop=lambda text: settled(text) is not None, update=update
        )
    return refusals_among(encoder.loaded, ids, answers)


def refusals_among(loaded: LoadedModel, ids: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Refusals:
    """Find the refusals among answers to harmful requests, and their first tokens.

    Args:
        loaded: the model that answered, untrained since.
        ids: token ids of the requests.
        answers: greedy ones, as token ids: each to its end, or until its words settle whether it refuses, or
            `REFUSAL_TOKENS` of it; what comes after these is not looked at.

    Raises:
        PromptsError: too few of the answers refuse, or refusals begin with the same tokens as compliances.
    """
    from ..answering.answer_tokens import answer_text

    refused = [refuses(answer_text(loaded, list(answer[:REFUSAL_TOKENS]))) for answer in answers]
    share = sum(refused) / len(refused)
    if share < LEAST_REFUSED:
        raise PromptsError(
            f"the model refuses {sum(refused)} of {len(refused)} harmful requests ({share:.0%}): it has little refusing"
            " that a row could wear away; take a model that was aligned, and prompts in its language"
        )
    first = [answer[0] for answer, refusal in zip(answers, refused, strict=True) if refusal and answer]
    openings = {token for token in set(first) if first.count(token) >= max(1, _RARE * len(first))}
    complying = [answer[0] for answer, refusal in zip(answers, refused, strict=True) if not refusal and answer]
    # A token that begins more compliances than refusals does not tell one from the other.
    openings = {token for token in openings if first.count(token) > complying.count(token)}
    if not openings:
        raise PromptsError(
            "the model begins its refusals with the same tokens as its compliances: its margin is not defined"
        )
    return Refusals(tuple(map(tuple, ids)), tuple(refused), tuple(sorted(openings)))


def require_gradients(loaded: LoadedModel) -> None:
    """Find out before a model is asked anything that its weights have no gradient.

    Raises:
        ModelError: they are quantised, by us or in the model's files.
    """
    stored = None if loaded.quantised else stored_quantisation(loaded.model.config)
    if loaded.quantised or stored:
        way_out = "take dtype float32 or bfloat16" if loaded.quantised else "give the model that they were made from"
        raise ModelError(
            "what a row does to refusing needs a gradient of the weights, and those that are quantised "
            f"({loaded.quantised or stored}) have none: {way_out}"
        )


def margin(loaded: LoadedModel, refusals: Refusals) -> float:
    """The log-odds that an answer begins with one of the refusals' first tokens, averaged over the prompts."""
    return float(np.mean(margins(loaded, refusals)))


def margins(loaded: LoadedModel, refusals: Refusals) -> NDArray[np.float64]:
    """The same of each prompt: float64 [prompts]."""
    import torch

    with torch.inference_mode():
        odds = [_log_odds(loaded, refusals, numbers).cpu().double().numpy() for numbers in _batches(refusals)]
    return np.concatenate(odds)


def margin_gradient(loaded: LoadedModel, refusals: Refusals, *, progress: bool = True) -> WeightDirection:
    """The gradient of the margin with respect to the blocks' weight matrices; as large as the blocks.

    Args:
        loaded: the model with its head, not quantised; whoever calls holds its lock.
        refusals: the prompts of the margin.
        progress: show how far it is.

    Raises:
        ModelError: the weights have no gradient (`require_gradients`), or one that is zero or infinite.
    """
    import torch
    from torch import nn

    require_gradients(loaded)
    layers: dict[str, Any] = block_layers(loaded)
    weights = [layer.weight for layer in layers.values()]
    with show_progress(len(refusals.ids), "margin", unit="prompt", show=progress) as update, torch.enable_grad():
        for weight in weights:
            weight.requires_grad_(True)
        try:
            with _in_memory(weights):
                for numbers in _batches(refusals):
                    torch.autograd.backward(_log_odds(loaded, refusals, numbers).sum() / len(refusals.ids))
                    update(len(numbers))
            gradients = {name: layer.weight.grad for name, layer in layers.items() if layer.weight.grad is not None}
        finally:
            for weight in weights:
                weight.requires_grad_(False)
                weight.grad = None
    factors = {}
    for name in list(gradients):
        gradient = gradients.pop(name)
        matrix = gradient if isinstance(layers[name], nn.Linear) else gradient.T
        factors[name] = Factors(matrix.float().cpu().numpy())
    gradient_of_all = WeightDirection(factors)
    if not 0 < gradient_of_all.norm < np.inf:
        raise ModelError(
            f"the gradient of the margin of refusing has the norm {gradient_of_all.norm:g}: what a row does to refusing"
            " cannot be measured on this model"
        )
    return gradient_of_all


@contextlib.contextmanager
def _in_memory(weights: Sequence[Any]) -> Iterator[None]:
    """Say what did not fit where a gradient of these weights does not fit in memory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        needed = sum(weight.numel() * weight.element_size() for weight in weights) / 2**30
        raise ModelError(
            f"a gradient of the blocks' weights ({needed:.1f} GiB) does not fit in memory beside the model: take "
            "bfloat16, or a device with more of it"
        ) from None


def _batches(refusals: Refusals) -> list[range]:
    """Numbers of the prompts, a batch at a time."""
    count = len(refusals.ids)
    return [range(start, min(start + _BATCH, count)) for start in range(0, count, _BATCH)]


def _log_odds(loaded: LoadedModel, refusals: Refusals, numbers: range) -> Tensor:
    """For some of the prompts, by number: log p(refusal's first token) - log p(any other token); float32 [prompts]."""
    import torch

    rows = [refusals.ids[number] for number in numbers]
    longest = max(map(len, rows))
    padded = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=loaded.device)
    real = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=loaded.device)
    last = torch.tensor([len(row) - 1 for row in rows], device=loaded.device)
    # Causal attention: no token sees the padding after it. The head runs only where some row has its last token.
    places, index_of_row = torch.unique(last, return_inverse=True)
    logits = loaded.model(input_ids=padded, attention_mask=real, use_cache=False, logits_to_keep=places).logits
    return opening_odds(logits[torch.arange(len(rows), device=loaded.device), index_of_row].float(), refusals)


def opening_odds(logits: Tensor, refusals: Refusals) -> Tensor:
    """The log-odds that an answer begins with one of the refusals' first tokens.

    Args:
        logits: the logits of the answers' first tokens, float32 [prompts, vocabulary].
        refusals: the refusals whose first tokens are meant.

    Returns:
        float32 [prompts].
    """
    import torch

    opening = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    opening[list(refusals.openings)] = True
    never = torch.tensor(-torch.inf, device=logits.device)
    odds: Tensor = logits.where(opening, never).logsumexp(-1) - logits.where(~opening, never).logsumexp(-1)
    return odds
