"""A dataset row becomes a conversation. The format is decided once per dataset, from its columns."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import Issue, RowFormatError, Unscorable

Row = Mapping[str, Any]
Message = dict[str, Any]


@dataclass(frozen=True)
class Conversation:
    """Chat messages (`role`, `content`, and `tool_calls` where there are any) that end on an assistant turn."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()

    @property
    def prompt(self) -> str:
        """All turns before the last, as one text: what two answers to the same request share."""
        return "\n\n".join(str(message["content"]) for message in self.messages[:-1])

    @property
    def answer(self) -> str:
        """The text of the last assistant turn; the calls as JSON where it only calls tools."""
        last = self.messages[-1]
        return str(last["content"]) or json.dumps(last.get("tool_calls", ""), ensure_ascii=False)


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


# One field -----------------------------------------------------------------------------------------------------------


def _text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Unscorable(Issue.WRONG_TYPE)
    return value


def _answer(value: Any) -> str:
    text = _text(value)
    if not text.strip():
        raise Unscorable(Issue.EMPTY_ANSWER)
    return text


def _join(*texts: str) -> str:
    return "\n\n".join(text for text in texts if text.strip())


def _content(value: Any) -> str:
    """A turn's content: a string, null, or a list of typed parts whose text lies under `text` or `value`."""
    if not isinstance(value, list):
        return _text(value)
    texts: list[str] = []
    for part in value:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Mapping) and str(part.get("type") or "text").endswith("text"):
            texts.append(_text(part["text"] if part.get("text") is not None else part.get("value")))
        else:
            raise Unscorable(Issue.NOT_TEXT if isinstance(part, Mapping) else Issue.WRONG_TYPE)
    return "".join(texts)


_ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt", "chatbot"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "observation", "tool_response", "function_response", "ipython"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "function_call"),
}


def _tool_call(call: Any, number: int) -> dict[str, Any]:
    """One call in the form chat templates read: `arguments` as an object, an id of nine characters (Mistral's rule)."""
    if not isinstance(call, Mapping):
        raise Unscorable(Issue.WRONG_TYPE)
    function = call.get("function") if isinstance(call.get("function"), Mapping) else call
    assert isinstance(function, Mapping)
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            pass  # an open string is what the row says: templates print it as it is
    name = _text(function.get("name"))
    identity = call.get("id") if isinstance(call.get("id"), str) else f"call{number:05d}"
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments or {}}}


def _turn(turn: Any, number: int) -> Message:
    """One turn in either spelling: role/content (OpenAI) or from/value (ShareGPT). Unknown extra keys are left out."""
    if not isinstance(turn, Mapping):
        raise Unscorable(Issue.WRONG_TYPE)
    named = turn.get("role") if turn.get("role") is not None else turn.get("from")
    role = _ROLES.get(named.lower()) if isinstance(named, str) else None
    if role is None:
        raise Unscorable(Issue.UNKNOWN_ROLE if isinstance(named, str) else Issue.WRONG_TYPE)
    content = _content(turn["content"] if turn.get("content") is not None else turn.get("value"))
    message: Message = {"role": role, "content": content}
    calls = turn.get("tool_calls")
    if role == "function_call":
        message["role"] = "assistant"
        try:
            parsed = json.loads(content)
        except ValueError:
            return message  # not JSON: the call stays the text it is
        calls = parsed if isinstance(parsed, list) else [parsed]
        if not all(isinstance(call, Mapping) for call in calls):
            return message
        message["content"] = ""
    if calls:
        if not isinstance(calls, list):
            raise Unscorable(Issue.WRONG_TYPE)
        message["tool_calls"] = [_tool_call(call, number + i) for i, call in enumerate(calls)]
    for key in ("name", "tool_call_id", "reasoning_content"):
        if isinstance(turn.get(key), str):
            message[key] = turn[key]
    return message


def _turns(value: Any) -> list[Message]:
    """A list of turns, or one turn alone; also the mapping of lists that old `datasets` sequences come back as."""
    if isinstance(value, Mapping):
        if value and all(isinstance(column, list) for column in value.values()) and ({"role", "from"} & set(value)):
            value = [dict(zip(value, turn, strict=False)) for turn in zip(*value.values(), strict=False)]
        else:
            value = [value]
    if value is None:
        raise Unscorable(Issue.EMPTY_CONVERSATION)
    if not isinstance(value, list):
        raise Unscorable(Issue.WRONG_TYPE)
    messages: list[Message] = []
    for number, turn in enumerate(value):
        message = _turn(turn, number)
        if message["role"] == "tool" and "tool_call_id" not in message and messages:
            calls = messages[-1].get("tool_calls")
            if calls:
                message["tool_call_id"] = calls[0]["id"]
        messages.append(message)
    return messages


def _tools(value: Any) -> tuple[tuple[dict[str, Any], ...], str]:
    """Tool specifications as templates read them, or, where they are not JSON, as a text for the system turn."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except ValueError:
            return (), value
    if not value:
        return (), ""
    listed = value if isinstance(value, list) else [value]
    if not all(isinstance(tool, Mapping) for tool in listed):
        return (), json.dumps(value, ensure_ascii=False)
    return tuple(
        dict(tool) if "function" in tool else {"type": "function", "function": dict(tool)} for tool in listed
    ), ""


def _conversation(messages: list[Message], system: str = "", tools: Any = None) -> Conversation:
    """Cut what follows the last assistant turn, and refuse what has none or an empty one."""
    if not messages:
        raise Unscorable(Issue.EMPTY_CONVERSATION)
    last = max((i for i, message in enumerate(messages) if message["role"] == "assistant"), default=-1)
    if last < 0:
        raise Unscorable(Issue.NO_ASSISTANT)
    messages = messages[: last + 1]
    if not messages[-1]["content"].strip() and not messages[-1].get("tool_calls"):
        raise Unscorable(Issue.EMPTY_ANSWER)
    specifications, loose = _tools(tools)
    system = _join(system, loose)
    if system:
        if messages[0]["role"] == "system":
            messages[0] = {**messages[0], "content": _join(system, messages[0]["content"])}
        else:
            messages.insert(0, {"role": "system", "content": system})
    return Conversation(tuple(messages), specifications)


def _exchange(user: str, assistant: str, system: str = "", before: Iterable[Message] = ()) -> Conversation:
    return _conversation(
        [*before, {"role": "user", "content": user}, {"role": "assistant", "content": assistant}], system
    )


# The formats ---------------------------------------------------------------------------------------------------------


def _alpaca(row: Row) -> Conversation:
    history: list[Message] = []
    for pair in row.get("history") or []:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise Unscorable(Issue.WRONG_TYPE)
        history += [{"role": "user", "content": _text(pair[0])}, {"role": "assistant", "content": _text(pair[1])}]
    user = _join(_text(row["instruction"]), _text(row.get("input")))
    return _exchange(user, _answer(row["output"]), _text(row.get("system")), history)


def _dolly(row: Row) -> Conversation:
    return _exchange(_join(_text(row["instruction"]), _text(row.get("context"))), _answer(row["response"]))


def _question_answer(row: Row) -> Conversation:
    return _exchange(_text(row["question"]), _answer(row["answer"]), _text(row.get("system")))


def _side(value: Any, role: str) -> list[Message]:
    """A prompt or a completion: a string, which is one turn of `role`, or chat turns."""
    if isinstance(value, list | Mapping):
        return _turns(value)
    return [{"role": role, "content": _text(value)}]


def _prompt_completion(row: Row) -> Conversation:
    if isinstance(row["completion"], str) or row["completion"] is None:
        _answer(row["completion"])
    messages = _side(row["prompt"], "user") + _side(row["completion"], "assistant")
    return _conversation(messages, _text(row.get("system")), row.get("tools"))


def _messages(row: Row) -> Conversation:
    return _conversation(_turns(row["messages"]), _text(row.get("system")), row.get("tools"))


def _sharegpt(row: Row) -> Conversation:
    return _conversation(_turns(row["conversations"]), _text(row.get("system")), row.get("tools"))


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
        answer = row[side]
        asked = next((name for name in _PROMPT_COLUMNS if row.get(name) is not None), None)
        if isinstance(answer, str) or answer is None:
            if asked is None:
                messages = _transcript(_answer(answer))
                return _conversation(messages or [{"role": "assistant", "content": _answer(answer)}])
            last = [{"role": "assistant", "content": _answer(answer)}]
        else:
            last = _turns(answer)
        if asked is None or any(message["role"] == "user" for message in last):
            messages = last  # the side holds the whole conversation
        else:
            messages = _side(row[asked], "user") + last
            if asked == "instruction" and _text(row.get("input")):
                messages[0]["content"] = _join(messages[0]["content"], _text(row.get("input")))
        return _conversation(messages, _text(row.get("system")), row.get("tools"))

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
            found = list(found.messages)
        return _conversation(_turns(found))

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
