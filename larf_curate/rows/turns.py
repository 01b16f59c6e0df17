"""Turns of any spelling become chat messages, and messages a conversation that ends on the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..errors import Issue, Unscorable
from .endings import without_blank_end
from .parts import content_of, has_placeholder
from .tools import (
    Message,
    calls_in_text,
    function_calls_of,
    functions_of,
    legacy_call,
    number_calls,
    reasoning_of,
    tool_calls,
    tools_of,
)
from .values import join_texts, kind_of_value, structure_of

TRAIN = "train"
"""Key of a chat message that is False where the row says that no loss is taken of it; templates never see it."""


@dataclass(frozen=True)
class Conversation:
    """Chat messages that end on an assistant turn.

    Attributes:
        messages: each with `role` and `content`; where a turn has them also `tool_calls`, `name`, `tool_call_id`,
            `reasoning_content`, `functions` and `function_calls` (open-instruct's texts), and `train`: False where the
            dataset says that a trainer leaves the turn out.
        tools: specifications of the tools that may be called.
        inserted: how many of the first messages are no turns of the row: 1 where a system text came from a column of
            its own, else 0.
    """

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    inserted: int = 0

    @property
    def prompt(self) -> str:
        """All turns before the last, as one text: what two answers to the same request share."""
        return "\n\n".join(str(message["content"]) for message in self.messages[:-1])

    @property
    def last_turn(self) -> int:
        """The number of the last message among the row's turns, from 0."""
        return len(self.messages) - 1 - self.inserted

    def at_each_answer(self) -> list[Conversation]:
        """The conversation up to each assistant turn that is trained and says something; the last one is the whole."""
        ends = [place for place, message in enumerate(self.messages) if _is_answer(message)]
        return [replace(self, messages=self.messages[: end + 1]) for end in ends]

    @property
    def answer(self) -> str:
        """The text of the last assistant turn; the calls as JSON where it only calls tools."""
        last = self.messages[-1]
        return (
            str(last["content"])
            or str(last.get("function_calls", ""))
            or json.dumps(last.get("tool_calls", ""), ensure_ascii=False)
        )


ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "model", "bot", "chatgpt", "chatbot", "ai", "bing", "bard", "claude", "gemini", "gpt4"),
        "assistant",
    ),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(
        ("tool", "function", "observation", "tool_response", "function_response", "ipython", "environment"), "tool"
    ),
    **dict.fromkeys(("function_call", "tool_call"), "function_call"),
}
"""What datasets call the speaker of a turn, in lower case, and who that is; `function_call` is an assistant's."""


def _role(turn: Mapping[str, Any]) -> str:
    named = turn.get("role") if turn.get("role") is not None else turn.get("from")
    if not isinstance(named, str):
        raise Unscorable(Issue.WRONG_TYPE, f"a role is {kind_of_value(named)}")
    role = ROLES.get(named.strip().lower())
    if role is None:
        raise Unscorable(Issue.UNKNOWN_ROLE, f"{named[:40]!r}")
    return role


def _turn(turn: Any, from_text: bool) -> Message:
    """One turn in either spelling: role/content (OpenAI) or from/value (ShareGPT). Unknown extra keys are left out."""
    if not isinstance(turn, Mapping):
        raise Unscorable(Issue.WRONG_TYPE, f"a turn is {kind_of_value(turn)} where an object is wanted")
    role = _role(turn)
    content, inside = content_of(turn["content"] if turn.get("content") is not None else turn.get("value"))
    message: Message = {"role": role, "content": content}
    if role == "function_call":
        message["role"] = "assistant"
        if calls := calls_in_text(content):
            message |= {"content": "", "tool_calls": calls}
    elif role == "assistant":
        message |= _calls(turn, from_text, inside.calls)
    elif has_placeholder(content):
        raise Unscorable(Issue.NOT_TEXT, "the text stands beside a picture, a film or a sound")
    if role == "system" and (functions := functions_of(turn)):
        message["functions"] = functions
    if message["role"] == "assistant" and (reasoning := reasoning_of(turn) or inside.reasoning):
        message["reasoning_content"] = reasoning
    if message["role"] == "assistant" and not _is_trained(turn):
        message[TRAIN] = False
    for key in ("name", "tool_call_id"):
        if isinstance(turn.get(key), str):
            message[key] = turn[key]
    return message


def _is_trained(turn: Mapping[str, Any]) -> bool:
    """Whether a trainer takes its loss: `weight` is OpenAI's key, `train` axolotl's, `loss_weight` LLaMA-Factory's."""
    return 0 not in [turn.get(key) for key in ("weight", "loss_weight", "train", "loss")]  # False counts as 0


def _calls(turn: Mapping[str, Any], from_text: bool, inside: list[dict[str, Any]]) -> Message:
    """What an assistant's turn calls, under the keys of a message."""
    calls = tool_calls(turn.get("tool_calls"), from_text=from_text) or legacy_call(turn, from_text=from_text) or inside
    text = function_calls_of(turn)
    if text and not calls:
        calls = calls_in_text(text)
    return {**({"tool_calls": calls} if calls else {}), **({"function_calls": text} if text else {})}


def turns_of(value: Any, column: str = "") -> list[Message]:
    """Chat messages out of a list of turns, one turn alone, or either as a JSON string.

    Also out of the mapping of lists that old `datasets` sequences come back as.

    Raises:
        Unscorable: there is no turn, or one that cannot be read; names the turn, counted from 1.

    >>> turns_of([{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hello."}])
    [{'role': 'user', 'content': 'Hi?'}, {'role': 'assistant', 'content': 'Hello.'}]
    """
    value, from_text = structure_of(value)
    if isinstance(value, Mapping):
        if value and all(isinstance(items, list) for items in value.values()) and ({"role", "from"} & set(value)):
            value = [dict(zip(value, turn, strict=False)) for turn in zip(*value.values(), strict=False)]
        else:
            value = [value]
    where = f"column {column!r}" if column else "the conversation"
    if value is None:
        raise Unscorable(Issue.EMPTY_CONVERSATION, f"{where} is null")
    if not isinstance(value, list):
        raise Unscorable(Issue.WRONG_TYPE, f"{where} holds {kind_of_value(value)} where turns are wanted")
    messages: list[Message] = []
    for number, turn in enumerate(value, 1):
        try:
            messages.append(_turn(turn, from_text))
        except Unscorable as error:
            raise Unscorable(error.issue, f"{where}, turn {number}: {error.detail}") from None
    number_calls(messages)
    return messages


def conversation_of(messages: list[Message], system: str = "", tools: Any = None) -> Conversation:
    """Cut what follows the last assistant turn that is trained on, and refuse what has none or an empty one.

    Assistant turns lose an end that teaches nothing (`without_blank_end`), so that no score can be moved by it.

    Raises:
        Unscorable: there is no such turn, or it says nothing.
    """
    if not messages:
        raise Unscorable(Issue.EMPTY_CONVERSATION, "no turn")
    answers = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    trained = [place for place in answers if messages[place].get(TRAIN, True)]
    if not trained:
        if answers:
            raise Unscorable(Issue.NO_TRAINED_TOKENS, "every assistant turn has weight 0")
        raise Unscorable(Issue.NO_ASSISTANT)
    messages = [_without_blank_end(message) for message in messages[: trained[-1] + 1]]
    if not _is_answer(messages[-1]):
        raise Unscorable(Issue.EMPTY_ANSWER, "the last assistant turn is empty")
    specifications, loose = tools_of(tools)
    system = join_texts(system, loose)
    inserted = 0
    if system:
        if messages[0]["role"] == "system":
            messages[0] = {**messages[0], "content": join_texts(system, messages[0]["content"])}
        else:
            messages.insert(0, {"role": "system", "content": system})
            inserted = 1
    return Conversation(tuple(messages), specifications, inserted)


def _without_blank_end(message: Message) -> Message:
    if message["role"] != "assistant":
        return message
    texts: Message = {key: without_blank_end(message[key]) for key in ("content", "function_calls") if key in message}
    return {**message, **texts}


def _is_answer(message: Message) -> bool:
    """Whether this is an assistant turn that is trained, and not empty."""
    says = message["content"].strip() or message.get("tool_calls") or message.get("function_calls")
    return message["role"] == "assistant" and message.get(TRAIN, True) and bool(says)
