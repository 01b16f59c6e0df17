"""Tool calls, their results and the specifications of tools, in the form that chat templates read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import Issue, Unscorable
from .values import parse_json, text_of, without_nulls

Message = dict[str, Any]
"""One turn as chat templates read it: `role`, `content`, and `tool_calls` where there are any."""


def tool_call(call: Any, *, from_text: bool = False) -> dict[str, Any]:
    """One call in the form chat templates read: `arguments` as an object.

    Args:
        call: with `name` and `arguments` (or `parameters`), or with these under `function`.
        from_text: the call was JSON in a string, so its nulls are its own; see `without_nulls`.

    Raises:
        Unscorable: it is no object, or its name is no text.
    """
    if not isinstance(call, Mapping):
        raise Unscorable(Issue.WRONG_TYPE)
    function: Mapping[str, Any] = call["function"] if isinstance(call.get("function"), Mapping) else call
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        try:
            arguments = parse_json(arguments)
        except ValueError:
            pass  # an open string is what the row says: templates print it as it is
    elif not from_text:
        arguments = without_nulls(arguments)
    described = {"name": text_of(function.get("name")), "arguments": arguments or {}}
    return {"id": str(call.get("id")), "type": "function", "function": described}


def number_calls(messages: list[Message]) -> None:
    """Give every call an id of nine characters (Mistral's rule), and every result the id of the call it answers.

    A result without an id of its own answers the oldest call that has no result yet.
    """
    renamed: dict[str, str] = {}
    unanswered: list[str] = []
    calls = (call for message in messages for call in message.get("tool_calls", ()))
    numbers = {id(call): f"call{number:05d}" for number, call in enumerate(calls)}
    for message in messages:
        for call in message.get("tool_calls", ()):
            renamed[call["id"]] = call["id"] = numbers[id(call)]
            unanswered.append(call["id"])
        if message["role"] == "tool":
            answered = renamed.get(message.get("tool_call_id", ""), unanswered[0] if unanswered else None)
            if answered is not None:
                message["tool_call_id"] = answered
                unanswered = [name for name in unanswered if name != answered]


def tools_of(value: Any) -> tuple[tuple[dict[str, Any], ...], str]:
    """Tool specifications as templates read them, or, where they are not JSON, as a text for the system turn."""
    if not isinstance(value, str):
        value = without_nulls(value)
    else:
        try:
            value = parse_json(value) if value.strip() else None
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
