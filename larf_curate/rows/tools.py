"""Tool calls, their results and the specifications of tools, in the form that chat templates read."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from typing import Any

from ..errors import Issue, Unscorable
from ..json_fields import Undecoded
from .values import kind_of_value, parse_row_json, structure_of, without_nulls

Message = dict[str, Any]
"""One turn as chat templates read it: `role`, `content`, and `tool_calls` where there are any."""


def tool_call(call: Any, *, from_text: bool = False) -> dict[str, Any]:
    """One call in the form chat templates read: `arguments` as an object.

    Args:
        call: an object with `name` and `arguments` (or `parameters`), or with these under `function`.
        from_text: the call was JSON in a string, so its nulls are its own; see `without_nulls`.

    Raises:
        Unscorable: it is no object, or its name is no text.
    """
    if not isinstance(call, Mapping):
        raise Unscorable(Issue.WRONG_TYPE, f"a tool call is {kind_of_value(call)} where an object is wanted")
    function: Mapping[str, Any] = call["function"] if isinstance(call.get("function"), Mapping) else call
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        try:
            arguments = parse_row_json(arguments)
        except ValueError:
            pass  # an open string is what the row says: templates print it as it is
    elif not from_text:
        arguments = without_nulls(arguments)
    name = function.get("name")
    if name is not None and not isinstance(name, str):
        raise Unscorable(Issue.WRONG_TYPE, f"the name of a tool call is {kind_of_value(name)}")
    return {
        "id": str(call.get("id")),
        "type": "function",
        "function": {"name": name or "", "arguments": arguments or {}},
    }


def tool_calls(value: Any, *, from_text: bool = False) -> list[dict[str, Any]]:
    """The calls of a turn: a list of them, one alone, or either as a JSON string; empty where there are none.

    Args:
        value: what lies under `tool_calls`.
        from_text: see `tool_call`; a JSON string says so by itself.

    Raises:
        Unscorable: it is something else.

    >>> tool_calls('[{"name": "weather", "arguments": {"city": "Rome"}}]')[0]["function"]
    {'name': 'weather', 'arguments': {'city': 'Rome'}}
    >>> tool_calls("[]"), tool_calls(None)
    ([], [])
    """
    calls, parsed = structure_of(value)
    if not calls or calls == "null":
        return []
    if isinstance(calls, Mapping):
        calls = [calls]
    if not isinstance(calls, list):
        raise Unscorable(Issue.WRONG_TYPE, f"the tool calls of a turn are {kind_of_value(calls)}")
    return [tool_call(call, from_text=from_text or parsed) for call in calls]


def calls_in_text(text: str) -> list[dict[str, Any]]:
    """The calls that a text is, as JSON; none where it is something else."""
    try:
        parsed = parse_row_json(text)
    except ValueError:
        return []
    calls = parsed if isinstance(parsed, list) else [parsed]
    if not all(isinstance(call, Mapping) for call in calls):
        return []
    return [tool_call(call, from_text=True) for call in calls]


def number_calls(messages: list[Message]) -> None:
    """Give every call an id of nine characters (Mistral's rule), and every result the id of the call it answers.

    A result without an id of its own answers the oldest call that has no result yet.
    """
    renamed: dict[str, str] = {}
    unanswered: deque[str] = deque()  # with some that are answered by now
    done: set[str] = set()
    calls = (call for message in messages for call in message.get("tool_calls", ()))
    numbers = {id(call): f"call{number:05d}" for number, call in enumerate(calls)}
    for message in messages:
        for call in message.get("tool_calls", ()):
            renamed[call["id"]] = call["id"] = numbers[id(call)]
            unanswered.append(call["id"])
        if message["role"] == "tool":
            while unanswered and unanswered[0] in done:
                unanswered.popleft()
            answered = renamed.get(message.get("tool_call_id", ""), unanswered[0] if unanswered else None)
            if answered is not None:
                message["tool_call_id"] = answered
                done.add(answered)


def tools_of(value: Any) -> tuple[tuple[dict[str, Any], ...], str]:
    """Tool specifications as templates read them, or, where they are not JSON, as a text for the system turn.

    Raises:
        Unscorable: they are JSON that cannot be read.
    """
    if isinstance(value, Undecoded):
        raise Unscorable(Issue.WRONG_TYPE, "the tools are JSON that cannot be read, nested too deep for example")
    if not isinstance(value, str):
        value = without_nulls(value)
    else:
        try:
            value = parse_row_json(value) if value.strip() else None
        except ValueError:
            return (), value
    if not value:
        return (), ""
    listed = value if isinstance(value, list) else [value]
    if not all(isinstance(tool, Mapping) for tool in listed):
        return (), json.dumps(value, ensure_ascii=False)
    return tuple(map(_tool, listed)), ""


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(tool.get("function"), Mapping):
        return dict(tool)
    described = {key: value for key, value in tool.items() if key not in ("type", "function")}
    return {"type": "function", "function": described}


def reasoning_of(turn: Mapping[str, Any]) -> str:
    """What an assistant's turn thinks before it answers, under any of the keys that datasets use."""
    texts = (turn.get(key) for key in REASONING_KEYS)
    return next((text for text in texts if isinstance(text, str) and text), "")


REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
"""Keys of a turn that hold reasoning, in datasets and in chat templates; a `Message` has the first of them."""


def functions_of(turn: Mapping[str, Any]) -> str:
    """The tools that a system turn lists under `functions` (open-instruct's data), as the text they are."""
    functions = turn.get("functions")
    if functions is None or isinstance(functions, str):
        return functions or ""
    return json.dumps(without_nulls(functions), ensure_ascii=False) if functions else ""


def function_calls_of(turn: Mapping[str, Any]) -> str:
    """The calls that an assistant's turn holds as a text under `function_calls` (open-instruct's data)."""
    calls = turn.get("function_calls")
    if calls is None or isinstance(calls, str):
        return calls or ""
    return json.dumps(without_nulls(calls), ensure_ascii=False) if calls else ""


def legacy_call(turn: Mapping[str, Any], *, from_text: bool = False) -> list[dict[str, Any]]:
    """The one call of a turn in OpenAI's old spelling, under `function_call`."""
    call = turn.get("function_call")
    return [] if call == "none" else tool_calls(call, from_text=from_text)
