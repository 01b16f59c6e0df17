"""A dataset row becomes a conversation. The format is decided once per dataset, from its columns."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import Issue, RowFormatError, Unscorable
from .turns import Conversation, Message, answer_of, conversation_of, join_texts, text_of, turns_of

Row = Mapping[str, Any]
Convert = Callable[[Row], Conversation]
FormatLike = str | Callable[[Row], "Conversation | list[Message] | None"]


@dataclass(frozen=True)
class RowFormat:
    """How the rows of one dataset become conversations: the columns it reads, and the function that does it."""

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    convert: Convert

    def columns(self, available: Iterable[str]) -> list[str]:
        """The columns of `available` that this format reads: all of them for a user's own function."""
        known = {*self.required, *self.optional}
        return [name for name in available if name in known or self.name == "custom"]


def columns_of(rows: Iterable[Row]) -> list[str]:
    """Every column that any of the rows has, in the order they first appear."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _exchange(user: str, assistant: str, system: str = "", before: Iterable[Message] = ()) -> Conversation:
    return conversation_of(
        [*before, {"role": "user", "content": user}, {"role": "assistant", "content": assistant}], system
    )


def _alpaca(row: Row) -> Conversation:
    history: list[Message] = []
    past = row.get("history") or []
    if not isinstance(past, list | tuple):
        raise Unscorable(Issue.WRONG_TYPE)
    for pair in past:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise Unscorable(Issue.WRONG_TYPE)
        history += [{"role": "user", "content": text_of(pair[0])}, {"role": "assistant", "content": text_of(pair[1])}]
    user = join_texts(text_of(row.get("instruction")), text_of(row.get("input")))
    return _exchange(user, answer_of(row.get("output")), text_of(row.get("system")), history)


def _dolly(row: Row) -> Conversation:
    return _exchange(
        join_texts(text_of(row.get("instruction")), text_of(row.get("context"))), answer_of(row.get("response"))
    )


def _question_answer(row: Row) -> Conversation:
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


def _prompt_completion(row: Row) -> Conversation:
    answer = _answer_turns(row.get("completion"))
    return conversation_of(_side(row.get("prompt"), "user") + answer, text_of(row.get("system")), row.get("tools"))


def _messages(row: Row) -> Conversation:
    return conversation_of(turns_of(row.get("messages")), text_of(row.get("system")), row.get("tools"))


def _sharegpt(row: Row) -> Conversation:
    return conversation_of(turns_of(row.get("conversations")), text_of(row.get("system")), row.get("tools"))


_TRANSCRIPT = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")


def _transcript(text: str) -> list[Message]:
    """A whole conversation in one string, as Anthropic's hh-rlhf writes it."""
    parts = _TRANSCRIPT.split(text)
    return [
        {"role": "user" if who == "Human" else "assistant", "content": said.strip()}
        for who, said in zip(parts[1::2], parts[2::2], strict=True)
    ]


_PROMPT_COLUMNS = ("conversations", "messages", "prompt", "instruction", "question")


def _preference(side: str) -> Convert:
    def convert(row: Row) -> Conversation:
        answer = row.get(side)
        asked = next((name for name in _PROMPT_COLUMNS if row.get(name) is not None), None)
        if asked is None and isinstance(answer, str) and _TRANSCRIPT.match(answer):
            return conversation_of(_transcript(answer))
        last = _answer_turns(answer)
        if asked is None or any(message["role"] == "user" for message in last):
            messages = last  # the side holds the whole conversation
        else:
            messages = _side(row[asked], "user") + last
            if asked == "instruction" and text_of(row.get("input")):
                messages[0]["content"] = join_texts(messages[0]["content"], text_of(row.get("input")))
        return conversation_of(messages, text_of(row.get("system")), row.get("tools"))

    return convert


_PREFERENCE = (*_PROMPT_COLUMNS, "input", "system", "tools")

# In the order of detection: the first whose required columns are all there.
FORMATS: dict[str, RowFormat] = {
    form.name: form
    for form in (
        RowFormat("preference", ("chosen", "rejected"), _PREFERENCE, _preference("chosen")),
        RowFormat("preference-rejected", ("chosen", "rejected"), _PREFERENCE, _preference("rejected")),
        RowFormat("messages", ("messages",), ("system", "tools"), _messages),
        RowFormat("sharegpt", ("conversations",), ("system", "tools"), _sharegpt),
        RowFormat("alpaca", ("instruction", "output"), ("input", "system", "history"), _alpaca),
        RowFormat("dolly", ("instruction", "response"), ("context",), _dolly),
        RowFormat("prompt-completion", ("prompt", "completion"), ("system", "tools"), _prompt_completion),
        RowFormat("question-answer", ("question", "answer"), ("system",), _question_answer),
    )
}


def _custom(function: Callable[[Row], Conversation | list[Message] | None]) -> RowFormat:
    def convert(row: Row) -> Conversation:
        found = function(row)
        if isinstance(found, Conversation):
            return conversation_of(turns_of(list(found.messages)), tools=list(found.tools))
        return conversation_of(turns_of(found))

    return RowFormat("custom", (), (), convert)


def resolve_format(form: FormatLike, columns: Iterable[str]) -> RowFormat:
    """The format of a dataset with these columns: `"auto"`, a name out of `FORMATS`, or the user's own function.

    A function takes a row (a mapping of column to value) and returns chat messages, a `Conversation`, or None for a
    row that has nothing to score.

    Raises:
        RowFormatError: no format fits the columns, or the named one lacks a column.
    """
    columns = list(columns)
    if callable(form):
        return _custom(form)
    if form == "auto":
        for known in FORMATS.values():
            if set(known.required) <= set(columns):
                return known
        wanted = "; ".join(f"{known.name}: {', '.join(known.required)}" for known in FORMATS.values())
        raise RowFormatError(
            f"the columns ({', '.join(columns) or 'none'}) fit no known row format. Rename them to one of [{wanted}], "
            "or pass format= a function that turns a row into chat messages"
        )
    if form not in FORMATS:
        raise RowFormatError(f"unknown row format {form!r}; known: auto, {', '.join(FORMATS)}")
    missing = [name for name in FORMATS[form].required if name not in columns]
    if missing:
        raise RowFormatError(
            f"row format {form!r} needs the column {', '.join(map(repr, missing))}; "
            f"the dataset has: {', '.join(columns) or 'none'}"
        )
    return FORMATS[form]
