"""What a turn's content is: a text, or a list of typed parts, of which some are texts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import Issue, Unscorable
from .tools import calls_in_text, tool_calls
from .values import kind_of_value, text_of

_PLACEHOLDER = re.compile(r"\A\s*<(?:image|video|audio)>|<(?:image|video|audio)>\s*\Z|^<(?:image|video|audio)>$", re.M)
_PLACEHOLDERS = ("<image>", "<video>", "<audio>")
_REASONING = ("reasoning", "thinking")


@dataclass
class Inside:
    """What parts hold beside the text: tool calls, and reasoning."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    reasoning: str = ""


def has_placeholder(text: str) -> bool:
    """Whether a picture, a film or a sound belongs to a text, by the mark that multimodal datasets put for it.

    Such a mark stands at the start, at the end or on a line of its own; within a sentence it is only text about a tag.

    >>> has_placeholder("<image>What is it?"), has_placeholder("What does <image> do in SVG?")
    (True, False)
    """
    return any(mark in text for mark in _PLACEHOLDERS) and bool(_PLACEHOLDER.search(text))


def content_of(value: Any) -> tuple[str, Inside]:
    """A turn's text, and what its parts hold beside it.

    Args:
        value: a string, null, or a list of texts and of parts with a `type`, whose text lies under `text`, `value`, or
            the name of the type.

    Raises:
        Unscorable: a part is no text, nor a call or reasoning.

    >>> content_of([{"type": "reasoning", "value": "A greeting."}, {"type": "text", "value": "Hello."}])
    ('Hello.', Inside(calls=[], reasoning='A greeting.'))
    """
    inside = Inside()
    if not isinstance(value, list):
        return text_of(value), inside
    texts: list[str] = []
    for part in value:
        if isinstance(part, str):
            texts.append(part)
            continue
        if not isinstance(part, Mapping):
            raise Unscorable(Issue.WRONG_TYPE, f"a part of the content is {kind_of_value(part)}")
        kind = str(part.get("type") or "text")
        content = next((part[key] for key in ("text", "value", kind) if part.get(key) is not None), None)
        if kind.endswith("text"):
            texts.append(_text(content))
        elif kind in _REASONING:
            inside.reasoning += _text(content)
        elif kind in ("tool_call", "function_call"):
            inside.calls += calls_in_text(content) if isinstance(content, str) else tool_calls(content)
        elif kind == "tool_use":
            inside.calls += tool_calls({"name": part.get("name"), "arguments": part.get("input")})
        else:
            raise Unscorable(Issue.NOT_TEXT, f"a part of type {kind!r}")
    return "".join(texts), inside


def _text(value: Any) -> str:
    if value is not None and not isinstance(value, str):
        raise Unscorable(Issue.WRONG_TYPE, f"a text part holds {kind_of_value(value)}")
    return value or ""
