"""One function for each row format: a row becomes a conversation, or raises `Unscorable`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..errors import Issue, Unscorable
from .prompt_columns import request_column
from .tools import Message
from .turns import Conversation, conversation_of, turns_of
from .values import answer_of, join_texts, text_of

Row = Mapping[str, Any]
Convert = Callable[[Row], Conversation]


def _exchange(user: str, assistant: str, system: str = "", before: Iterable[Message] = ()) -> Conversation:
    return conversation_of(
        [*before, {"role": "user", "content": user}, {"role": "assistant", "content": assistant}], system
    )


def alpaca(row: Row) -> Conversation:
    history: list[Message] = []
    pairs = row.get("history") or []
    if not isinstance(pairs, list | tuple):
        raise Unscorable(Issue.WRONG_TYPE)
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise Unscorable(Issue.WRONG_TYPE)
        history += [{"role": "user", "content": text_of(pair[0])}, {"role": "assistant", "content": text_of(pair[1])}]
    user = join_texts(text_of(row.get("instruction")), text_of(row.get("input")))
    return _exchange(user, answer_of(row.get("output")), text_of(row.get("system")), history)


def dolly(row: Row) -> Conversation:
    return _exchange(
        join_texts(text_of(row.get("instruction")), text_of(row.get("context"))), answer_of(row.get("response"))
    )


def question_answer(row: Row) -> Conversation:
    return _exchange(text_of(row.get("question")), answer_of(row.get("answer")), text_of(row.get("system")))


def _side(value: Any, role: str) -> list[Message]:
    """A prompt or a completion: a string, which is one turn of `role`, or chat turns."""
    if isinstance(value, list | Mapping):
        return turns_of(value)
    return [{"role": role, "content": text_of(value)}]


def _answer_turns(value: Any) -> list[Message]:
    """The turns of an answer. One of them must be the assistant's: an earlier one in the prompt is not the answer."""
    if not isinstance(value, list | Mapping):
        return [{"role": "assistant", "content": answer_of(value)}]
    turns = turns_of(value)
    if not any(message["role"] == "assistant" for message in turns):
        raise Unscorable(Issue.NO_ASSISTANT)
    return turns


def prompt_completion(row: Row) -> Conversation:
    answer = _answer_turns(row.get("completion"))
    return conversation_of(_side(row.get("prompt"), "user") + answer, text_of(row.get("system")), row.get("tools"))


def messages(row: Row) -> Conversation:
    return conversation_of(turns_of(row.get("messages")), text_of(row.get("system")), row.get("tools"))


def sharegpt(row: Row) -> Conversation:
    return conversation_of(turns_of(row.get("conversations")), text_of(row.get("system")), row.get("tools"))


_TRANSCRIPT = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")


def _transcript(text: str) -> list[Message]:
    """A whole conversation in one string, as Anthropic's hh-rlhf writes it."""
    parts = _TRANSCRIPT.split(text)
    return [
        {"role": "user" if speaker == "Human" else "assistant", "content": text.strip()}
        for speaker, text in zip(parts[1::2], parts[2::2], strict=True)
    ]


PREFERENCE_PROMPTS = ("conversations", "messages", "prompt", "instruction", "question")
"""Columns that may hold the prompt of a preference row: turns, or a text."""


def preference(side: str) -> Convert:
    """The conversion of a preference row with the answer in the column `side`, `chosen` or `rejected`."""

    def convert(row: Row) -> Conversation:
        answer = row.get(side)
        prompt = request_column(row, PREFERENCE_PROMPTS)
        if prompt is None and isinstance(answer, str) and _TRANSCRIPT.match(answer):
            return conversation_of(_transcript(answer))
        answer_turns = _answer_turns(answer)
        if prompt is None or any(message["role"] == "user" for message in answer_turns):
            messages = answer_turns  # the side holds the whole conversation
        else:
            messages = _side(row[prompt], "user") + answer_turns
            if prompt == "instruction" and text_of(row.get("input")):
                messages[0]["content"] = join_texts(messages[0]["content"], text_of(row.get("input")))
        return conversation_of(messages, text_of(row.get("system")), row.get("tools"))

    return convert
