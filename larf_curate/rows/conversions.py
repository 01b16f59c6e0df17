"""One function for each row format: a row becomes a conversation, or raises `Unscorable`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from ..errors import Issue, Unscorable
from .choices import answer_with_choice, choices_of
from .prompt_columns import CONTEXT_COLUMNS, PREFERENCE_PROMPTS, SYSTEM_COLUMNS, TOOLS_COLUMNS, request_column
from .tools import Message
from .transcripts import turns_in_text
from .turns import Conversation, conversation_of, turns_of
from .values import answer_of, join_texts, kind_of_value, structure_of, text_of

Row = Mapping[str, Any]

SEPARATOR = "\n"
"""What stands between a request and its input, as the authors of LARF and LLaMA-Factory join them."""


class Convert(Protocol):
    """A row becomes a conversation; raises `Unscorable` where it holds none."""

    def __call__(self, row: Row, *, join: str = SEPARATOR) -> Conversation:
        """Convert one row.

        Args:
            row: column to value.
            join: what stands between a request and its input, or a template with `{instruction}` and `{input}`.
        """
        ...


def join_request(request: str, *more: str, join: str = SEPARATOR) -> str:
    r"""A user's turn out of a request and what it is about.

    >>> join_request("Add.", "1 2")
    'Add.\n1 2'
    >>> join_request("Add.", "1 2", join="### Instruction:\n{instruction}\n\n### Input:\n{input}")
    '### Instruction:\nAdd.\n\n### Input:\n1 2'
    """
    if "{instruction}" not in join:
        return join_texts(request, *more, separator=join)
    values = {"{instruction}": request, "{input}": join_texts(*more, separator=SEPARATOR)}
    return re.sub(r"\{instruction\}|\{input\}", lambda match: values[match[0]], join)


def exchange(request: str, answer: str, *, before: Iterable[str] = (), after: Iterable[str] = ()) -> Convert:
    """The conversion of a row with one request and one answer, each a text in a column of its own.

    Args:
        request: its column.
        answer: its column.
        before: columns that belong before the request in the user's turn.
        after: columns that belong after it.
    """

    def convert(row: Row, *, join: str = SEPARATOR) -> Conversation:
        leading = [text_of(row.get(name), name) for name in before]
        following = [text_of(row.get(name), name) for name in after]
        choices = choices_of(row.get("choices"))
        reply = answer_with_choice(row.get(answer), choices) if choices else row.get(answer)
        asked = join_texts(*leading, text_of(row.get(request), request), separator=SEPARATOR)
        user = join_request(asked, *following, "\n".join(choices), join=join)
        messages = [*_history(row), {"role": "user", "content": user}]
        return _conversation([*messages, {"role": "assistant", "content": answer_of(reply, answer)}], row)

    return convert


def _history(row: Row) -> list[Message]:
    """Earlier exchanges: pairs of request and answer, or turns."""
    pairs, _ = structure_of(row.get("history"))
    if not pairs:
        return []
    if not isinstance(pairs, list | tuple):
        raise Unscorable(Issue.WRONG_TYPE, f"column 'history' holds {kind_of_value(pairs)} where pairs are wanted")
    if all(isinstance(pair, Mapping) for pair in pairs):
        return turns_of(list(pairs), "history")
    messages: list[Message] = []
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise Unscorable(Issue.WRONG_TYPE, "column 'history' holds something other than pairs")
        messages.append({"role": "user", "content": text_of(pair[0], "history")})
        messages.append({"role": "assistant", "content": text_of(pair[1], "history")})
    return messages


def _conversation(messages: list[Message], row: Row) -> Conversation:
    """With the system turn and the tools of the row."""
    system = join_texts(*dict.fromkeys(text_of(row.get(name), name) for name in SYSTEM_COLUMNS))
    tools = request_column(row, TOOLS_COLUMNS)
    return conversation_of(messages, system, None if tools is None else row[tools])


def _side(value: Any, role: str, column: str) -> list[Message]:
    """A prompt or a completion: a string, which is one turn of `role`, or chat turns."""
    structure, _ = structure_of(value)
    if isinstance(structure, Mapping | list) and (not isinstance(value, str) or _are_turns(structure)):
        return turns_of(value, column)
    return [{"role": role, "content": text_of(value, column)}]


def _are_turns(value: Any) -> bool:
    """Whether JSON in a text is chat turns, not a text that happens to be JSON."""
    turns = value if isinstance(value, list) else [value]
    return bool(turns) and all(isinstance(turn, Mapping) and ("role" in turn or "from" in turn) for turn in turns)


def _answer_turns(value: Any, column: str) -> list[Message]:
    """The turns of an answer. One of them must be the assistant's: an earlier one in the prompt is not the answer."""
    turns = _side(value, "assistant", column)
    if not any(message["role"] == "assistant" for message in turns):
        raise Unscorable(Issue.NO_ASSISTANT, f"column {column!r} has no assistant turn")
    if len(turns) == 1 and not turns[0].get("tool_calls"):
        answer_of(turns[0]["content"], column)
    return turns


def prompt_completion(row: Row, *, join: str = SEPARATOR) -> Conversation:
    """`prompt` and `completion`: texts or turns; `input` and `context` follow a prompt that is a text."""
    answer = _answer_turns(row.get("completion"), "completion")
    return _conversation(_history(row) + _prompt_turns(row, "prompt", CONTEXT_COLUMNS, join) + answer, row)


def _prompt_turns(row: Row, column: str, after: Iterable[str], join: str) -> list[Message]:
    turns = _side(row.get(column), "user", column)
    more = [text_of(row.get(name), name) for name in after]
    if isinstance(row.get(column), str) and any(transcript.strip() for transcript in more):
        turns[-1]["content"] = join_request(turns[-1]["content"], *more, join=join)
    return turns


def messages(row: Row, *, join: str = SEPARATOR) -> Conversation:  # noqa: ARG001 - there is nothing to join
    """Chat messages in the column `messages`."""
    return _conversation(turns_of(row.get("messages"), "messages"), row)


def sharegpt(row: Row, *, join: str = SEPARATOR) -> Conversation:  # noqa: ARG001 - likewise
    """Chat messages in the column `conversations`."""
    return _conversation(turns_of(row.get("conversations"), "conversations"), row)


def preference(side: str) -> Convert:
    """The conversion of a preference row with the answer in the column `side`, `chosen` or `rejected`."""

    def convert(row: Row, *, join: str = SEPARATOR) -> Conversation:
        prompt = request_column(row, PREFERENCE_PROMPTS)
        answer = row.get(side)
        if prompt is None and isinstance(answer, str) and (transcript := turns_in_text(answer)):
            return _conversation(transcript, row)
        turns = _answer_turns(answer, side)
        if any(message["role"] == "user" for message in turns):
            return _conversation(turns, row)  # the side holds the whole conversation
        if prompt is None:
            raise Unscorable(Issue.NO_USER, f"no column holds a prompt: {', '.join(PREFERENCE_PROMPTS)}")
        after = [name for name in CONTEXT_COLUMNS if name != prompt]
        return _conversation(_history(row) + _prompt_turns(row, prompt, after, join) + turns, row)

    return convert


def transcript(row: Row, *, join: str = SEPARATOR) -> Conversation:  # noqa: ARG001 - likewise
    """A whole conversation in the column `transcript`, written out by one of the known templates."""
    whole = text_of(row.get("text"), "text")
    turns = turns_in_text(whole)
    if not turns and whole.strip():
        raise Unscorable(Issue.NO_USER, "column 'text' holds no transcript that is known")
    return _conversation(turns, row)
