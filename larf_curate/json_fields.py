"""Values out of JSON files that a stranger may have written: read without surprises, and checked before they are used.

Each check returns the value as it is, and raises `ValueError` with the name of the field and what it holds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

LONGEST = 20_000
"""Characters of a text: names, methods, findings. Only a chat template may be longer."""
_DEEPEST = 12
_LARGEST_FILE = 1 << 26  # bytes
DEEPEST_VALUE = 100
"""How deep a value in a row may be nested: the functions that read, render and write it are recursive."""
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


def read_limited(path: Path, max_bytes: int) -> bytes:
    """The content of a file of at most so many bytes.

    Raises:
        OSError: it cannot be read. ValueError: it is longer.
    """
    with path.open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"{path.name} is longer than {max_bytes:,} bytes")
    return content


def has_fields(path: Path, names: Iterable[str]) -> bool:
    """Whether a file is one JSON object with fields of these names."""
    try:
        values = parse_json(read_limited(path, _LARGEST_FILE))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and values.keys() >= set(names)


class Undecoded(str):
    """The text of JSON that cannot be decoded, usually because it is nested too deep. It is written again unchanged.

    It never counts as a text of the row.
    """

    __slots__ = ()


def is_deep(value: Any, max_depth: int = DEEPEST_VALUE) -> bool:
    """Whether lists and objects lie in each other more than `max_depth` deep.

    >>> is_deep([[[]]], 2), is_deep([[], []], 2)
    (True, False)
    """
    level = [value]
    for _ in range(max_depth):
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


def whole(value: Any, name: str, minimum: int = 0, maximum: int = _LARGEST) -> int:
    """A whole number from `minimum` to `maximum`; True and False do not count as numbers.

    >>> whole(True, "pairs")
    Traceback (most recent call last):
    ValueError: pairs must be a whole number of 0 or more, not True
    """
    if type(value) is not int or not minimum <= value <= maximum:
        limits = f"of {minimum} or more" if maximum == _LARGEST else f"from {minimum} to {maximum}"
        _wrong(value, name, f"a whole number {limits}")
    return value


def finite(value: Any, name: str, minimum: float = -math.inf, maximum: float = math.inf) -> float:
    """A finite number from `minimum` to `maximum`."""
    try:
        fits = type(value) in (int, float) and math.isfinite(value) and minimum <= value <= maximum
    except OverflowError:  # a whole number that no float holds
        fits = False
    if not fits:
        limits = "" if math.isinf(minimum) and math.isinf(maximum) else f" from {minimum:g} to {maximum:g}"
        _wrong(value, name, f"a finite number{limits}")
    return float(value)


def checked_text(value: Any, name: str, max_characters: int = LONGEST) -> str:
    """A text of at most so many characters, without lone surrogates, which no file can hold."""
    if not isinstance(value, str) or len(value) > max_characters:
        _wrong(value, name, f"a text of at most {max_characters:,} characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        _wrong(value, name, "a text that can be written")
    return value


def entries(value: Any, name: str, minimum: int = 0, maximum: int = 100_000) -> list[Any]:
    """A list with a number of entries from `minimum` to `maximum`."""
    if not isinstance(value, list | tuple) or not minimum <= len(value) <= maximum:
        _wrong(value, name, f"a list of {minimum} to {maximum} entries")
    return list(value)


def mapping(value: Any, name: str, max_keys: int = 10_000) -> Mapping[str, Any]:
    """An object with at most so many keys, each of them a text of usual length."""
    if not isinstance(value, dict) or len(value) > max_keys:
        _wrong(value, name, f"an object of at most {max_keys:,} keys")
    for key in value:
        checked_text(key, f"a key of {name}", 500)
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
        checked_text(value, name, 1 << 20)
    elif type(value) in (int, float):
        finite(value, name)
    elif value is not None and not isinstance(value, bool):
        _wrong(value, name, "a value that JSON holds")
    return value
