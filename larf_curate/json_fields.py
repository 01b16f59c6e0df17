"""Values out of JSON files that a stranger may have written: read without surprises, and checked before they are used.

Each check returns the value as it is, and raises `ValueError` with the name of the field and what it holds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

LONGEST = 20_000
"""Characters of a text: names, methods, findings. Only a chat template may be longer."""
_DEEPEST = 12
DEEPEST_VALUE = 100
"""Levels of a value in a row: what reads, renders and writes it calls itself for each."""
_LARGEST = 2**53  # whole numbers that every JSON reader keeps


def parse_json(text: str | bytes) -> Any:
    """What a JSON text holds.

    Raises:
        ValueError: it is no JSON (which knows neither NaN nor infinity), or nested too deep.

    >>> parse_json('{"auc": NaN}')
    Traceback (most recent call last):
    ValueError: NaN is no JSON
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def read_limited(path: Path, most: int) -> bytes:
    """The content of a file of at most so many bytes.

    Raises:
        OSError: it cannot be read. ValueError: it is longer.
    """
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path.name} is longer than {most:,} bytes")
    return content


class Undecoded(str):
    """JSON that cannot be read (nested too deep, above all): its text, which is written again as it is.

    It is no text of a row.
    """

    __slots__ = ()


def is_deep(value: Any, most: int = DEEPEST_VALUE) -> bool:
    """Whether lists and objects lie in each other more than `most` deep.

    >>> is_deep([[[]]], 2), is_deep([[], []], 2)
    (True, False)
    """
    level = [value]
    for _ in range(most):
        lists = (part if isinstance(part, list) else part.values() for part in level if isinstance(part, list | dict))
        level = [item for part in lists for item in part if isinstance(item, list | dict)]
        if not level:
            return False
    return True


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _wrong(value: object, name: str, wanted: str) -> NoReturn:
    shown = repr(value)
    raise ValueError(f"{name} must be {wanted}, not {shown if len(shown) <= 60 else shown[:57] + '...'}")


def whole(value: Any, name: str, least: int = 0, most: int = _LARGEST) -> int:
    """A whole number from `least` to `most`; True and False are none.

    >>> whole(True, "pairs")
    Traceback (most recent call last):
    ValueError: pairs must be a whole number of 0 or more, not True
    """
    if type(value) is not int or not least <= value <= most:
        limits = f"of {least} or more" if most == _LARGEST else f"from {least} to {most}"
        _wrong(value, name, f"a whole number {limits}")
    return value


def finite(value: Any, name: str, least: float = -math.inf, most: float = math.inf) -> float:
    """A finite number from `least` to `most`."""
    try:
        fits = type(value) in (int, float) and math.isfinite(value) and least <= value <= most
    except OverflowError:  # a whole number that no float holds
        fits = False
    if not fits:
        limits = "" if math.isinf(least) and math.isinf(most) else f" from {least:g} to {most:g}"
        _wrong(value, name, f"a finite number{limits}")
    return float(value)


def text(value: Any, name: str, most: int = LONGEST) -> str:
    """A text of at most so many characters, without lone surrogates, which no file can hold."""
    if not isinstance(value, str) or len(value) > most:
        _wrong(value, name, f"a text of at most {most:,} characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        _wrong(value, name, "a text that can be written")
    return value


def entries(value: Any, name: str, least: int = 0, most: int = 100_000) -> list[Any]:
    """A list with a number of entries from `least` to `most`."""
    if not isinstance(value, list | tuple) or not least <= len(value) <= most:
        _wrong(value, name, f"a list of {least} to {most} entries")
    return list(value)


def mapping(value: Any, name: str, most: int = 10_000) -> Mapping[str, Any]:
    """An object with at most so many keys, each of them a text of usual length."""
    if not isinstance(value, dict) or len(value) > most:
        _wrong(value, name, f"an object of at most {most:,} keys")
    for key in value:
        text(key, f"a key of {name}", 500)
    return value


def plain(value: Any, name: str, depth: int = 0) -> Any:
    """Anything, as long as every number in it is finite, every text can be written, and it is not nested deep."""
    if depth > _DEEPEST:
        _wrong(value, name, "less deeply nested")
    if isinstance(value, dict):
        for key, item in mapping(value, name).items():
            plain(item, f"{name}.{key}" if name else key, depth + 1)
    elif isinstance(value, list | tuple):
        for item in entries(value, name):
            plain(item, name, depth + 1)
    elif isinstance(value, str):
        text(value, name, 1 << 20)
    elif type(value) in (int, float):
        finite(value, name)
    elif value is not None and not isinstance(value, bool):
        _wrong(value, name, "a value that JSON holds")
    return value
