"""What a chat template can express, found by rendering probes; what it cannot express is put into words."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property
from typing import Any

from ..errors import Issue, ModelError, Unscorable
from ..progress import say
from .tools import REASONING_KEYS, Message, tools_of
from .turns import Conversation

Print = Callable[[list[Message], "list[Any] | None"], str]
"""Messages and tools as the template prints them; raises whatever the template raises."""

_PROBE = "zqprobe"
_ASKED, _ANSWERED = "zqasked", "zqanswered"
_TOOL = {
    "type": "function",
    "function": {"name": _PROBE, "description": "", "parameters": {"type": "object", "properties": {}}},
}
_CALL: dict[str, Any] = {"id": "call00000", "type": "function", "function": {"name": _PROBE, "arguments": {}}}
_CALLING: Message = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
_ANSWER: Message = {"role": "assistant", "content": "b"}
_USER: Message = {"role": "user", "content": "a"}


class TemplateAbilities:
    """What one chat template prints of a conversation. What it cannot express is put into words, not dropped.

    Some templates (of Idefics 3 and SmolVLM) print nothing of a turn whose content is a plain text: they look for parts
    with a type. They get such parts.

    Reasoning is the exception: where a template prints none a trainer trains on none, so it is left out, and one
    message says so.

    Args:
        render: the template.
    """

    def __init__(self, render: Print) -> None:
        self._render = render
        self._said: set[str] = set()

    def _prints(self, messages: list[Message], tools: list[Any] | None = None, probe: str = _PROBE) -> bool:
        return probe in self._printed(self.formed(messages), tools)

    def _printed(self, messages: list[Message], tools: list[Any] | None = None) -> str:
        """What the template prints; nothing if it fails."""
        try:
            return self._render(messages, tools)
        except Unscorable as error:
            if error.issue is Issue.TOO_SLOW:
                raise ModelError(
                    "the chat template does not come to an end on a short conversation: pass another with "
                    "chat_template= (--chat-template)"
                ) from None
            return ""
        except Exception:  # templates are programs: any failure on a probe means "not expressible"
            return ""

    @cached_property
    def _takes_parts(self) -> tuple[bool, bool]:
        """Whether the content has to be a list of parts: of a user's turn, and of an assistant's turn.

        Raises:
            ModelError: the template prints nothing of what one of them says, in either form.
        """
        printed: dict[tuple[bool, bool], str] = {}
        for as_parts in ((False, False), (True, True), (False, True), (True, False)):
            turns = [{**_USER, "content": _ASKED}, {**_ANSWER, "content": _ANSWERED}]
            text = printed[as_parts] = self._printed(_in_form(turns, as_parts))
            # A template that writes the content as it is would write out the list of parts too.
            if _ASKED in text and _ANSWERED in text and "'type'" not in text and '"type"' not in text:
                return as_parts
        if not any(printed.values()):
            return False, False  # it wants something more, and says so of every row that lacks it
        silent = [
            who for who, probe in (("user", _ASKED), ("assistant", _ANSWERED)) if probe not in "".join(printed.values())
        ]
        raise ModelError(
            f"the chat template prints nothing of what the {' and the '.join(silent or ['user'])} says, neither of a "
            "plain text nor of parts with a type, so all rows would be the same: pass another with chat_template= "
            "(--chat-template)"
        )

    def check(self) -> None:
        """Find out whether the template prints a conversation at all.

        Raises:
            ModelError: it prints nothing of what users, or assistants, say.
        """
        _ = self._takes_parts

    def formed(self, messages: list[Message]) -> list[Message]:
        """The messages with their content in the form that the template prints."""
        return _in_form(messages, self._takes_parts)

    @cached_property
    def _takes_system(self) -> bool:
        return self._prints([{"role": "system", "content": _PROBE}, _USER, _ANSWER])

    @cached_property
    def _takes_tools(self) -> bool:
        return self._prints([_USER, _ANSWER], [_TOOL])

    @cached_property
    def _takes_calls(self) -> bool:
        return self._prints([_USER, _CALLING])

    @cached_property
    def _takes_functions(self) -> bool:
        return self._prints([{"role": "system", "content": "s", "functions": _PROBE}, _USER, _ANSWER])

    @cached_property
    def _takes_function_calls(self) -> bool:
        return self._prints([_USER, {**_ANSWER, "function_calls": _PROBE}])

    @cached_property
    def _result_role(self) -> str:
        """The role under which the template prints what a tool returned; the user's where it has none."""
        probe = _PROBE + "x"  # the call before it prints the probe too
        for role in ("tool", "environment"):
            result = {"role": role, "content": probe, "name": "a", "tool_call_id": _CALL["id"]}
            if role == "environment" and not self._takes_function_calls:
                continue  # templates that print any role would take it
            if self._prints([_USER, _CALLING if self._takes_calls else _ANSWER, result, _ANSWER], probe=probe):
                return role
        return "user"

    @cached_property
    def _reasoning_key(self) -> str | None:
        keys = (key for key in REASONING_KEYS if self._prints([_USER, {**_ANSWER, key: _PROBE}]))
        return next(keys, None)

    def express(self, conversation: Conversation) -> tuple[list[Message], list[dict[str, Any]] | None]:
        """The messages and tools to hand to the template."""
        messages = [dict(message) for message in conversation.messages]
        tools = list(conversation.tools)
        for message in messages:
            self._express_keys(message, tools)
            if message["role"] == "tool":
                message["role"] = self._result_role
        if tools and not self._takes_tools:
            listed = "Tools:\n" + "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
            tools = []
            if messages[0]["role"] == "system":
                messages[0]["content"] += f"\n\n{listed}"
            else:
                messages.insert(0, {"role": "system", "content": listed})
        if not self._takes_system:
            _move_system_turns(messages)
        return messages, tools or None

    def _express_keys(self, message: Message, tools: list[dict[str, Any]]) -> None:
        """The keys of a turn beside its content: kept where the template prints them, in words where it does not."""
        functions = message.get("functions")
        if functions is not None and not self._takes_functions:
            del message["functions"]
            specifications, loose = tools_of(functions)
            tools += specifications
            message["content"] = "\n\n".join(filter(None, (message["content"], loose)))
        calls_text = message.get("function_calls")
        if calls_text is not None and self._takes_function_calls:
            message.pop("tool_calls", None)
        elif calls_text is not None:
            del message["function_calls"]
            if not message.get("tool_calls"):
                message["content"] = "\n".join(filter(None, (message["content"], calls_text)))
        if message.get("tool_calls") and not self._takes_calls:
            calls = [call["function"] for call in message.pop("tool_calls")]
            words = json.dumps(calls[0] if len(calls) == 1 else calls, ensure_ascii=False)
            message["content"] = "\n".join(filter(None, (message["content"], words)))
        reasoning = message.pop(REASONING_KEYS[0], None)
        if reasoning is not None and self._reasoning_key is not None:
            message[self._reasoning_key] = reasoning
        elif reasoning is not None:
            self._say_once("the chat template prints no reasoning: what rows hold of it is not scored")

    def _say_once(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            say(line)


def _in_form(messages: list[Message], as_parts: tuple[bool, bool]) -> list[Message]:
    """Messages with their content as a list of parts where the template wants that.

    Args:
        messages: the messages, with a text as their content.
        as_parts: whether it is wanted of users' turns (and all others), and of assistants' turns.
    """
    return [
        {**message, "content": [{"type": "text", "text": message["content"]}]}
        if as_parts[message["role"] == "assistant"] and isinstance(message["content"], str)
        else message
        for message in messages
    ]


def _move_system_turns(messages: list[Message]) -> None:
    """For a template without system turns: the first one goes in front of the user's, later ones become the user's."""
    for message in messages[1:]:
        if message["role"] == "system":
            message["role"] = "user"
    if messages[0]["role"] == "system":
        system = messages.pop(0)["content"]
        if messages[0]["role"] == "user":
            messages[0]["content"] = f"{system}\n\n{messages[0]['content']}"
        else:
            messages.insert(0, {"role": "user", "content": system})
