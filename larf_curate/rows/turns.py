"""Turns of any spelling become chat messages, and messages a conversation that ends on the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import Issue, Unscorable
from .tools import Message, number_calls, tool_call, tools_of
from .values import join_texts, parse_json, text_of

TRAIN = "train"
"""Key of a chat message that is False where the row says that no loss is taken of it; templates never see it."""


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


def _content(value: Any) -> str:
    """A turn's content: a string, null, or a list of typed parts whose text lies under `text` or `value`."""
    if not isinstance(value, list):
        return text_of(value)
    texts: list[str] = []
    for part in value:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Mapping) and str(part.get("type") or "text").endswith("text"):
            texts.append(text_of(part["text"] if part.get("text") is not None else part.get("value")))
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


def _turn(turn: Any) -> Message:
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
            parsed = parse_json(content)
        except ValueError:
            return message  # not JSON: the call stays the text it is
        calls = parsed if isinstance(parsed, list) else [parsed]
        if not all(isinstance(call, Mapping) for call in calls):
            return message
        message["content"] = ""
    if calls:
        if not isinstance(calls, list):
            raise Unscorable(Issue.WRONG_TYPE)
        from_text = role == "function_call"
        message["tool_calls"] = [tool_call(call, from_text=from_text) for call in calls]
    if turn.get("weight") == 0 or turn.get("train") is False or turn.get("loss") is False:
        message[TRAIN] = False
    for key in ("name", "tool_call_id", "reasoning_content"):
        if isinstance(turn.get(key), str):
            message[key] = turn[key]
    return message


def turns_of(value: Any) -> list[Message]:
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
    messages = [_turn(turn) for turn in value]
    number_calls(messages)
    return messages


def conversation_of(messages: list[Message], system: str = "", tools: Any = None) -> Conversation:
    """Cut what follows the last assistant turn, and refuse what has none or an empty one."""
    if not messages:
        raise Unscorable(Issue.EMPTY_CONVERSATION)
    last = max((i for i, message in enumerate(messages) if message["role"] == "assistant"), default=-1)
    if last < 0:
        raise Unscorable(Issue.NO_ASSISTANT)
    messages = messages[: last + 1]
    if not messages[-1]["content"].strip() and not messages[-1].get("tool_calls"):
        raise Unscorable(Issue.EMPTY_ANSWER)
    specifications, loose = tools_of(tools)
    system = join_texts(system, loose)
    if system:
        if messages[0]["role"] == "system":
            messages[0] = {**messages[0], "content": join_texts(system, messages[0]["content"])}
        else:
            messages.insert(0, {"role": "system", "content": system})
    return Conversation(tuple(messages), specifications)
