"""Digests by which results are found again: of a value, of a list of texts, and of a function."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from types import CellType, CodeType
from typing import Any


def digest_of(value: object) -> str:
    """The sha256, as 64 hexadecimal digits, of a value that JSON can hold; the order of keys does not matter.

    >>> digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def digest_of_texts(texts: Iterable[str]) -> str:
    """The sha256 of some texts in their order."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def digest_of_function(function: Callable[..., Any]) -> str:
    """The sha256 of what a Python function does by itself, and empty for what is none, such as an object.

    It depends on the function's code, its defaults, and the plain values around it that it reads; not on its name, its
    place in a file, or the functions that it calls. Another version of Python makes other code of it.

    >>> digest_of_function(lambda a: a + 1) == digest_of_function(lambda a: a + 1)
    True
    >>> digest_of_function(lambda a: a + 1) == digest_of_function(lambda a: a + 2)
    False
    """
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        return ""
    cells = zip(code.co_freevars, getattr(function, "__closure__", None) or (), strict=True)
    around = {name: _plain(cell.cell_contents) for name, cell in cells if cell != CellType()}
    return digest_of([_code(code), _plain(getattr(function, "__defaults__", None)), around])


def _code(code: CodeType) -> list[Any]:
    return [code.co_code.hex(), code.co_names, [_plain(value) for value in code.co_consts]]


def _plain(value: Any) -> Any:
    """A value as JSON holds it, the same in every process: of what has an address in its text, the type alone."""
    match value:
        case CodeType():
            return _code(value)
        case tuple() | list():
            return [_plain(one) for one in value]
        case frozenset() | set():
            return sorted(repr(one) for one in value)
        case None | bool() | int() | float() | complex() | str() | bytes():
            return repr(value)
        case _:
            return type(value).__name__
