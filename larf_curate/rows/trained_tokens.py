"""Which tokens of a rendered conversation a trainer computes the loss on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import Issue, Unscorable
from .answer_characters import Characters, OwnText, answer_characters
from .rendering import MOST_WORK, OWN_TURNS, Renderer
from .tools import Message
from .turns import TRAIN, Conversation

_MERGED = 2  # tokens that a tokenizer may merge where the header ends and the answer starts


@dataclass(frozen=True)
class TrainedTokens:
    """A rendered conversation and its trained tokens.

    Attributes:
        ids: token ids of the conversation, at most `max_tokens` of them.
        trained: for each of `ids`, whether a trainer computes its loss; never for the first, which nothing predicts.
        tokens: how many ids there were before truncation.
        issue: `truncated`, or None.
        characters: for each of `ids`, what it stands for in the row's own turns; None where that was not asked for.
        texts: the texts of the row's assistant turns by number; empty if `characters` is None.
    """

    ids: list[int]
    trained: list[bool]
    tokens: int
    issue: Issue | None
    characters: list[Characters | None] | None = None
    texts: Mapping[int, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """The number of trained tokens."""
        return sum(self.trained)


def trained_tokens(renderer: Renderer, conversation: Conversation, *, characters: bool = False) -> TrainedTokens:
    """The conversation as token ids, with the tokens of its assistant turns marked.

    Trained are the text of each assistant turn and the token that ends the turn, as trl (`assistant_only_loss`) and
    LLaMA-Factory train them; not the header of the turn, nor what the template prints between turns. A message with
    `train: False` is left out. Where the conversation exceeds `max_tokens` its middle is cut, and the marks with it.

    Args:
        renderer: the renderer of the model.
        conversation: a row.
        characters: also find out what each trained token stands for in the row's turns.

    Raises:
        Unscorable: as for `Renderer.render`; `no_trained_tokens` where no token is left to train on; `template_error`
            where the template does not show where an answer begins and ends; `too_long` where finding that out for
            hundreds of turns would take minutes.
    """
    ids, messages, tools = renderer.encode_whole(conversation)
    marks = [False] * len(ids)
    places: list[Characters | None] = [None] * len(ids)
    texts: dict[int, str] = {}
    for message, start, stop in _answers(renderer, ids, messages, tools):
        if message.get(TRAIN, True):
            marks[start:stop] = [True] * (stop - start)
            if characters:
                own: list[OwnText] = message.get(OWN_TURNS, [])
                if len(own) * (stop - start) > MOST_WORK:  # turns that were joined are looked for one after the other
                    raise Unscorable(Issue.TOO_LONG)
                places[start:stop] = answer_characters(renderer.tokenizer, ids, start, stop, own)
                texts |= {one.turn: one.text for one in own}
    marks[0] = False
    trained = renderer.fit_in(marks)
    if not any(trained):
        raise Unscorable(Issue.NO_TRAINED_TOKENS)
    issue = Issue.TRUNCATED if len(ids) > renderer.max_tokens else None
    kept = renderer.fit_in(places) if characters else None
    return TrainedTokens(renderer.fit_in(ids), trained, len(ids), issue, kept, texts)


def _answers(
    renderer: Renderer, ids: Sequence[int], messages: Sequence[Message], tools: Any
) -> Iterator[tuple[Message, int, int]]:
    """Each assistant message, and where its trained tokens start and stop in the whole conversation's `ids`.

    The messages before an answer are rendered with the header of an answer: the answer starts where that rendering
    stops being a prefix of the whole conversation. The messages up to and with the answer are rendered too: the answer
    ends with the last control token before that rendering stops being a prefix.
    """
    numbers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    if len(numbers) * len(ids) > MOST_WORK:  # each answer takes two renderings of what comes before it
        raise Unscorable(Issue.TOO_LONG)
    for number in numbers:
        start = _start(renderer, ids, messages[:number], tools)
        is_last = number == len(messages) - 1
        through_answer = list(ids) if is_last else renderer.encode_up_to(messages[: number + 1], tools)
        yield messages[number], start, _stop(renderer, ids, through_answer, start)


def _start(renderer: Renderer, ids: Sequence[int], before: Sequence[Message], tools: Any) -> int:
    with_header = renderer.encode_up_to(before, tools, opened=True)
    start = _shared_length(with_header, ids)
    if start < len(with_header) - _MERGED:
        raise Unscorable(Issue.TEMPLATE)
    return start


def _stop(renderer: Renderer, ids: Sequence[int], through_answer: Sequence[int], start: int) -> int:
    special = renderer.special_ids
    stop = _shared_length(through_answer, ids)
    if stop < len(through_answer):
        if start < stop < len(ids) and ids[stop] in special:
            return stop + 1  # the last answer of a conversation ends on another token than the ones before it
        # Printed otherwise where it is the last (Qwen 3 drops earlier thoughts): the token that ends it is the same.
        closing = next((token for token in reversed(through_answer) if token in special), None)
        if closing is None or closing not in ids[start:]:
            raise Unscorable(Issue.TEMPLATE)
        return list(ids).index(closing, start) + 1
    return next((place + 1 for place in range(stop - 1, start - 1, -1) if ids[place] in special), stop)


def _shared_length(first: Sequence[int], second: Sequence[int]) -> int:
    """The length of the prefix that two sequences share."""
    shortest = min(len(first), len(second))
    return next((place for place in range(shortest) if first[place] != second[place]), shortest)
