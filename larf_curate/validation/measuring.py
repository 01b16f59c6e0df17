"""What one model does with the prompts: its answers, its margin of refusing, and its losses."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..answering.answer_tokens import answer_text
from ..answering.prompts import prompt_tokens
from ..encoding.encoder import Encoder
from ..encoding.losses import token_losses
from ..encoding.runtime import Runtime
from ..errors import Issue, ModelError, Unscorable
from ..models.loading import LoadedModel
from ..models.options import ModelOptions
from ..progress import progress
from ..rows.rendering import Renderer
from ..rows.trained_tokens import trained_tokens
from ..rows.turns import Conversation
from ..rows.wording import settled
from ..scoring.margin import REFUSAL_TOKENS, Refusals, opening_odds, refusals_among
from .prompts import RefusalChoice, ValidationPrompts
from .training_rows import TrainingRow

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Measured:
    """What one trained model did; every list is in the order of its prompts or rows.

    Attributes:
        arm, seed: which model it is.
        rows, trained_tokens: what it was trained on.
        training_loss: mean over the steps, in nats a token; 0 where nothing was trained.
        margin: log-odds of refusing, of each harmful prompt.
        choice: for each `RefusalChoice`, the log-likelihood of a token of the refusing answer minus the log-likelihood
            of a token of the complying one.
        harmful, sensitive, ordinary: answers.
        held_back_losses: mean loss of each held-back row, in nats a token.
        seconds: how long each part took: `training`, `answering`, `losses`.
    """

    arm: str
    seed: int
    rows: int
    trained_tokens: int
    training_loss: float
    margin: tuple[float, ...]
    choice: tuple[float, ...]
    harmful: tuple[str, ...]
    sensitive: tuple[str, ...]
    ordinary: tuple[str, ...]
    held_back_losses: tuple[float, ...]
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def counts(self) -> tuple[int, ...]:
        """How many prompts, choices and rows it was measured on."""
        lists = (self.margin, self.choice, self.harmful, self.sensitive, self.ordinary, self.held_back_losses)
        return tuple(map(len, lists))


@dataclass(frozen=True)
class AnswerLimits:
    """How long answers are.

    Attributes:
        tokens: the most of one.
        stop_at_refusal: whether an answer ends as soon as its words refuse, by the rules of the wording judge. What
            would follow takes most of the time with a model that refuses. A judge that reads on would find answers
            that refuse first and comply then.
    """

    tokens: int
    stop_at_refusal: bool = False


@dataclass(frozen=True)
class _Asked:
    """What a model answers to some prompts, in their order.

    Attributes:
        answers: token ids of each.
        first: numbers of prompts of which the margin is measured, and the logits of the first tokens of their answers.
    """

    answers: list[list[int]]
    first: list[tuple[list[int], Tensor]]

    def odds(self, refusals: Refusals) -> NDArray[np.float64]:
        """The log-odds that each of these answers begins as refusals do, float64 [prompts]."""
        odds = np.zeros(sum(len(numbers) for numbers, _ in self.first))
        for numbers, logits in self.first:
            odds[numbers] = opening_odds(logits, refusals).double().numpy()
        return odds


def _ask(
    loaded: LoadedModel, prompts: Sequence[Sequence[int]], tokens: int, harmful: int, limits: AnswerLimits, label: str
) -> _Asked:
    """Ask a model for greedy answers of at most `tokens` tokens; the margin is that of the first `harmful` prompts."""
    from ..answering.asking import answers_to

    first: list[tuple[list[int], Tensor]] = []

    def keep(numbers: Sequence[int], logits: Tensor) -> None:
        # Kept whole: with which tokens a model's refusals begin is known only when it has answered all prompts.
        places = [place for place, number in enumerate(numbers) if number < harmful]
        first.append(([numbers[place] for place in places], logits[places].cpu()))

    stop = (lambda text: settled(text) is True) if limits.stop_at_refusal else None
    with progress(len(prompts), label, unit="prompt") as update:
        answers = answers_to(loaded, prompts, tokens, stop=stop, first=keep, update=update)
    return _Asked(answers, first)


def mean_losses(runtime: Runtime, rows: Sequence[TrainingRow]) -> list[float]:
    """The mean loss of each row's trained tokens, in nats.

    NaN for a row that does not fit in memory, or holds a token that the model can never write.
    """
    marks = [[weight > 0 for weight in row.weights] for row in rows]
    losses = token_losses(runtime, [list(row.ids) for row in rows], marks)
    means = [float("nan") if values is None else float(values.mean()) for values in losses.values]
    return [mean if math.isfinite(mean) else float("nan") for mean in means]


def answer_rows(
    renderer: Renderer, pairs: Sequence[tuple[str, str]], *, whole: bool = True
) -> list[TrainingRow | None]:
    """Prompts with answers, as rows whose trained tokens are those of the answer; None for an empty answer.

    Args:
        renderer: the renderer of the model.
        pairs: pairs of a prompt and an answer.
        whole: whether the token that ends the answer counts too; not where answers may be cut, since a model finds an
            end in the middle of a sentence all but impossible.
    """
    rows: list[TrainingRow | None] = []
    for prompt, answer in pairs:
        messages = ({"role": "user", "content": prompt}, {"role": "assistant", "content": answer})
        try:
            if not answer.strip():
                raise Unscorable(Issue.EMPTY_ANSWER)
            tokens = trained_tokens(renderer, Conversation(messages))
        except Unscorable:
            rows.append(None)
        else:
            weights = list(map(float, tokens.trained))
            if not whole and tokens.count > 1:
                weights[max(place for place, mark in enumerate(tokens.trained) if mark)] = 0.0
            rows.append(TrainingRow(tuple(tokens.ids), tuple(weights)))
    return rows


def answer_losses(
    runtime: Runtime, renderer: Renderer, pairs: Sequence[tuple[str, str]], *, whole: bool = True
) -> list[float]:
    """The mean loss of each answer to its prompt, in nats a token; NaN for an empty answer. See `answer_rows`."""
    rows = answer_rows(renderer, pairs, whole=whole)
    losses = iter(mean_losses(runtime, [row for row in rows if row is not None]))
    return [float("nan") if row is None else next(losses) for row in rows]


def choice_odds(runtime: Runtime, renderer: Renderer, choices: Sequence[RefusalChoice]) -> list[float]:
    """For each choice, how much likelier a token of the refusing answer is than one of the complying: nats."""
    pairs = [(choice.prompt, answer) for choice in choices for answer in (choice.refusing, choice.complying)]
    losses = np.array(answer_losses(runtime, renderer, pairs)).reshape(-1, 2)
    return [float(value) for value in losses[:, 1] - losses[:, 0]]


def measure(
    loaded: LoadedModel,
    options: ModelOptions,
    prompts: ValidationPrompts,
    refusals: Refusals | None,
    held_back: Sequence[TrainingRow],
    *,
    limits: AnswerLimits,
    label: str,
) -> tuple[Refusals, Measured]:
    """Ask a model everything. What only its training knows (arm, seed, rows) is left empty.

    Args:
        loaded: the model with its head.
        options: the options with which it was loaded.
        prompts: what to ask.
        refusals: the refusals of the model before any training: the harmful prompts, and what its refusals begin with.
            None where it is this model: then they are found among its answers.
        held_back: rows by whose loss usefulness is measured.
        limits: the limits of an answer.
        label: what is being done, for the progress bars.

    Returns:
        The refusals, given or found, and what was measured.

    Raises:
        ModelError: the model computes something else than numbers.
        PromptsError: the chat template refuses a prompt; without `refusals`, also as for `refusals_among`.
    """
    runtime = Runtime(loaded)
    renderer = Encoder(options, runtime).renderer
    began = time.monotonic()
    ids = prompt_tokens(renderer, (*prompts.harmful, *prompts.sensitive, *prompts.ordinary))
    harmful, sensitive = len(prompts.harmful), len(prompts.sensitive)
    tokens = limits.tokens if refusals is not None else max(limits.tokens, REFUSAL_TOKENS)
    asked = _ask(loaded, ids, tokens, harmful, limits, label)
    if refusals is None:
        refusals = refusals_among(loaded, ids[:harmful], asked.answers[:harmful])
    answers = tuple(answer_text(loaded, answer[: limits.tokens]) for answer in asked.answers)
    margin = asked.odds(refusals)
    if not np.isfinite(margin).all():
        raise ModelError(f"{label}: the model's logits are no numbers: take another dtype, or a smaller learning rate")
    answered_at = time.monotonic()
    choice = choice_odds(runtime, renderer, prompts.choices) if prompts.choices else []
    losses = mean_losses(runtime, held_back)
    return refusals, Measured(
        arm="",
        seed=0,
        rows=0,
        trained_tokens=0,
        training_loss=0.0,
        margin=tuple(map(float, margin)),
        choice=tuple(choice),
        harmful=answers[:harmful],
        sensitive=answers[harmful : harmful + sensitive],
        ordinary=answers[harmful + sensitive :],
        held_back_losses=tuple(losses),
        seconds={"answering": answered_at - began, "losses": time.monotonic() - answered_at},
    )
