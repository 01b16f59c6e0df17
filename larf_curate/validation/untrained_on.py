"""What a validation asks, and the rows that it measures by: none of it is trained on by any arm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import DataError, Unscorable
from ..progress import say
from .arms import draw_arm, held_back_rows
from .coherence import fault_of
from .prompts import ORDINARY, ValidationPrompts, gather_prompts
from .request import ValidationRequest
from .scored_rows import ScoredRows

_ROWS_AT_ONCE = 1000
Message = Mapping[str, Any]


def prompts_of(request: ValidationRequest) -> ValidationPrompts:
    """The prompts of a validation, without those that any arm trains on.

    Raises:
        PromptsError: they cannot be read, or too few are left.
    """
    scored = request.scored
    prompts = gather_prompts(
        request.asking.prompts, _ordinary(scored, request.counts.held_back), request.asking.most_prompts
    )
    trained = _conversations(scored, _trained_rows(request))
    return prompts.without(
        str(message["content"]) for messages in trained for message in messages if message["role"] == "user"
    )


def untrained_rows(request: ValidationRequest) -> list[dict[str, Any]]:
    """The rows that are held back, without those that the dataset repeats among the rows that an arm trains on.

    Raises:
        DataError: none is left.
    """
    scored = request.scored
    numbers = held_back_rows(scored, request.counts.held_back).tolist()
    trained = {_identity(messages) for messages in _conversations(scored, _trained_rows(request))}
    fresh = [
        number
        for number in numbers
        if not any(_identity(messages) in trained for messages in _conversations(scored, [number]))
    ]
    if not fresh:
        raise DataError(
            f"all {len(numbers)} rows that are held back to measure usefulness by are trained on too, since the "
            "dataset repeats its rows: remove repeated rows first"
        )
    if len(fresh) < len(numbers):
        repeated = f"{len(numbers) - len(fresh)} of {len(numbers)} held-back rows"
        say(f"{repeated} are trained on too, since the dataset repeats rows: usefulness is measured by the others")
    return list(scored.take(fresh))


def _trained_rows(request: ValidationRequest) -> list[int]:
    """Numbers of the rows that any arm trains on."""
    scored, counts = request.scored, request.counts
    trained: set[int] = set()
    for name, seed in request.trained:
        trained.update(draw_arm(name, seed, scored, counts).rows)
    return sorted(trained)


def _conversations(scored: ScoredRows, rows: Sequence[int]) -> Iterator[Sequence[Message]]:
    """The messages of some rows; of those that are conversations."""
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        for row in scored.take(rows[start : start + _ROWS_AT_ONCE]):
            try:
                messages: Sequence[Message] = scored.row_format.convert(row).messages
            except Unscorable:
                continue
            yield messages


def _identity(messages: Sequence[Message]) -> int:
    """The same for the same words in the same turns."""
    return hash(tuple((str(message["role"]), str(message["content"])) for message in messages))


def _ordinary(scored: ScoredRows, held_back: int) -> list[str]:
    """Requests of held-back rows of one turn, without those whose own answer the gate would call incoherent.

    A translation is in another language than its request, and a table that the row asks for may look like a loop:
    that a model answers likewise says nothing against it.
    """
    requests = []
    for row in scored.take(held_back_rows(scored, held_back)):
        conversation = scored.row_format.convert(row)
        messages = conversation.messages
        if [message["role"] for message in messages] != ["user", "assistant"]:
            continue
        request = str(messages[0]["content"])
        if fault_of(request, conversation.answer) is None:
            requests.append(request)
    return list(dict.fromkeys(requests))[:ORDINARY]
