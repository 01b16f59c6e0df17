"""The form of an answer apart from what it says: what a score must not be a ruler of."""

from __future__ import annotations

import re

_ITEM = re.compile(r"^\s*(?:[-*\u2022\u2013]|\(?\d{1,2}[.)])\s+\S", re.MULTILINE)
_END = re.compile(r"""[.!?:;\u2026\u3002\uff01\uff1f)\]}"'\u201d\u2019`|*>\d]\s*$""")


def list_items(text: str) -> int:
    """Lines that open with a bullet or a number."""
    return len(_ITEM.findall(text))


def is_list(text: str) -> bool:
    """Whether an answer is (or holds) a list: two items or more."""
    return list_items(text) >= 2


def ends_complete(text: str) -> bool:
    """Whether an answer ends the way finished text does; a cut-off answer is itself a signal."""
    return bool(_END.search(text))
