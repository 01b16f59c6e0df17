"""Chat templates that come to an end: each counts the steps of its loops, and gives up on a row that takes too many.

A template is a program, and rows decide how long it runs. One that goes over the turns again for each turn takes a
hundred times as long for ten times as many. The limit counts steps, not seconds, so a row has the same outcome on every
machine. It is lower for larger conversations, since one step may read through all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ..cache import register

TOO_MANY = "larf_curate: more steps than a conversation of this size is worth"
"""What such a template raises."""

_STEPS = "larf_steps"  # what a template that counts has to be given
_WORK = 1_000_000  # steps over a small conversation: a few seconds of a template that does nothing else
_ENTRIES, _CHARACTERS = 100, 10_000  # reading through so many takes about as long as a step
_COUNT = (
    "{% set larf_work.steps = larf_work.steps + 1 %}"
    f"{{% if larf_work.steps > {_STEPS} %}}{{{{ raise_exception('{TOO_MANY}') }}}}"
)
# Jinja takes away one newline after a tag, and blanks at the start of a line: neither may befall the template's own.
_WITHIN_LINE, _END_OF_LINE = "{% endif +%}", "{% endif %}\n"
_BEGIN = "{% set larf_work = namespace(steps=0) %}\n"


def steps_for(messages: Any, tools: Any) -> int:
    """How many steps a template may take for a conversation.

    >>> steps_for([{"role": "user", "content": "Hi?"}], None)
    1000000
    >>> steps_for([{"role": "user", "content": "Hi?" * 100_000}], None)
    32258
    """
    entries, characters = _size([messages, tools])
    return _WORK // (1 + entries // _ENTRIES + characters // _CHARACTERS)


def _size(value: Any) -> tuple[int, int]:
    """Entries of lists and objects in a value, at any depth, and characters of its texts."""
    entries = characters = 0
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, str):
            characters += len(each)
        elif isinstance(each, Mapping):
            entries += len(each)
            left += each.values()
        elif isinstance(each, list | tuple):
            entries += len(each)
            left += each
    return entries, characters


def limited(template: str, messages: Any, tools: Any) -> tuple[str, dict[str, int]]:
    """A template that prints the same of a conversation, and raises `TOO_MANY` where that takes too many steps.

    Without a loop in a loop, and for a small conversation, no template takes many: it is returned as it is.

    Returns:
        The template, and what it has to be given beside the conversation.
    """
    counted, nested = counting(template)
    steps = steps_for(messages, tools)
    return (counted, {_STEPS: steps}) if nested or steps < _WORK else (template, {})


@lru_cache(maxsize=32)
def counting(template: str) -> tuple[str, bool]:
    """A chat template that prints the same, and raises `TOO_MANY` where its loops and macros take too many steps.

    A template that Jinja cannot read is returned as it is: whoever renders it says what is wrong with it.

    Returns:
        The template, and whether it has loops in loops, or macros, which may call each other.
    """
    from jinja2 import Environment, TemplateSyntaxError

    # Read as transformers reads it, but for the newline at the end, which is taken away once and not twice.
    environment = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)  # noqa: S701 - no HTML
    pieces: list[str] = [_BEGIN]
    tag: list[str] = []  # the names in the tag at hand
    depth, nested = 0, False
    try:
        for _, kind, value in environment.lex(template):
            pieces.append(value)
            if kind == "block_begin":
                tag = []
            elif kind == "name":
                tag.append(value)
            elif kind == "block_end" and tag[:1] in (["for"], ["macro"], ["call"]):
                pieces.append(_COUNT + (_END_OF_LINE if value.endswith("\n") else _WITHIN_LINE))
                depth += 1
                nested = nested or depth > 1 or tag[0] != "for" or "recursive" in tag
            elif kind == "block_end" and tag[:1] in (["endfor"], ["endmacro"], ["endcall"]):
                depth -= 1
    except TemplateSyntaxError:
        return template, False
    return "".join(pieces), nested


register(counting.cache_clear)
