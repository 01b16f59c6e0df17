"""The rows of a JSON file, however it holds them: one a line, in one array, or in an array under a key of an object."""

from __future__ import annotations

import codecs
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DataError, one_line
from .text_files import open_bytes, skip_to


class Place(NamedTuple):
    """Where a reader of lines may start: a byte of the unpacked file, and the number of that line."""

    byte: int = 0
    line: int = 1


BEGINNING = Place()


class JsonRow(NamedTuple):
    """A value with the number of its line, or of its item in an array, and its place; None where it is not on a line.

    It should be an object.
    """

    number: int
    place: Place | None
    value: Any


class _DoubledKeyError(ValueError):
    """An object names a key twice: which of the values was meant nobody knows."""


def read_rows(path: Path, field: str = "", start: Place = BEGINNING) -> Iterator[JsonRow]:
    """The rows of a file from `start` on.

    Args:
        path: the file, packed or not.
        field: the key of the one object in the file under which the rows lie.
        start: where a line begins; only for a file with one row a line.

    Raises:
        DataError: it is no JSON; names the line.
    """
    if field:
        yield from _items(path, _under(path, field))
    elif start == BEGINNING and _first_character(path) == "[" and not _has_more_after_its_first_line(path, list):
        yield from _items(path, _document(path))
    else:
        yield from _lines(path, start)


def _has_more_after_its_first_line(path: Path, kind: type = object) -> bool:
    """Whether the first line of a file is a whole value, of this kind, and there is something on the next."""
    with open_bytes(path) as file:
        lines = (line for line in file if line.strip())
        first, more = next(lines, b""), next(lines, b"")
    try:
        return bool(more) and isinstance(json.loads(first.decode("utf-8-sig")), kind)
    except ValueError:
        return False


def _items(path: Path, values: Any) -> Iterator[JsonRow]:
    if not isinstance(values, list):
        raise DataError(f"{path} holds {type(values).__name__} where a list of objects is wanted")
    yield from (JsonRow(number, None, value) for number, value in enumerate(values, 1))


def _under(path: Path, field: str) -> Any:
    no_object = DataError(f"{path} is not one object, so it has no field {field!r}; leave --field out")
    try:
        document = _document(path)
    except DataError:
        if _has_more_after_its_first_line(path):
            raise no_object from None
        raise
    if not isinstance(document, dict):
        raise no_object
    if field not in document:
        raise DataError(f"{path} has no field {field!r}; it has: {', '.join(document)}")
    return document[field]


def _lines(path: Path, start: Place) -> Iterator[JsonRow]:
    byte, none_yet = start.byte, start == BEGINNING
    with open_bytes(path) as file:
        skip_to(file, start.byte)
        for number, content in enumerate(file, start.line):
            try:
                text = content.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise _not_utf8(path, number, error) from None
            if text.strip():
                try:
                    value = _parse(text)
                except (ValueError, RecursionError) as error:
                    if none_yet and isinstance(error, json.JSONDecodeError) and (whole := _whole_object(path, number)):
                        yield JsonRow(number, None, whole)
                        return
                    raise _broken(path, number, error) from error
                yield JsonRow(number, Place(byte, number), value)
                none_yet = False
            byte += len(content)


def _whole_object(path: Path, line: int) -> dict[str, Any] | None:
    """The one object that fills a file from its first line to its last; None where it is something else."""
    try:
        document = _document(path)
    except DataError as error:
        if f", line {line}:" in str(error) or not _goes_on_after(path, line):
            return None  # the first line is no JSON, whatever comes after it
        raise
    return document if isinstance(document, dict) else None


def _goes_on_after(path: Path, line: int) -> bool:
    """Whether an object may go on after this line: something follows that is no object of its own."""
    with open_bytes(path) as file:
        more = next((each for each in itertools.islice(file, line, None) if each.strip()), b"")
    try:
        return bool(more) and not isinstance(json.loads(more), dict)
    except ValueError:
        return True


def _document(path: Path) -> Any:
    with open_bytes(path) as file:
        content = file.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, content.count(b"\n", 0, error.start) + 1, error) from None
    try:
        return _parse(text)
    except _DoubledKeyError as error:
        raise _broken(path, _line_of_doubled_key(text), error) from error
    except (ValueError, RecursionError) as error:
        raise _broken(path, getattr(error, "lineno", 1), error) from error


def _parse(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        doubled = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _DoubledKeyError(f"the key {doubled!r} twice in one object")
    return value


def _line_of_doubled_key(text: str) -> int:
    """The line where the item of an array begins that holds the doubled key; 1 for one object."""
    decoder = json.JSONDecoder(object_pairs_hook=_unique)
    place = text.find("[") + 1
    while 0 < place < len(text):
        while place < len(text) and text[place] in " \t\r\n,":
            place += 1
        try:
            _, place = decoder.raw_decode(text, place)
        except ValueError:
            return text.count("\n", 0, place) + 1
    return 1


def _first_character(path: Path) -> str:
    with open_bytes(path) as file:
        chunk = file.read(3)
        chunk = b"" if chunk == codecs.BOM_UTF8 else chunk
        while not chunk.strip():
            chunk = file.read(4096)
            if not chunk:
                return ""
    return chunk.strip()[:1].decode("latin-1")


def _not_utf8(path: Path, line: int, error: UnicodeDecodeError) -> DataError:
    byte = error.object[error.start]
    return DataError(f"{path}, line {line}: not UTF-8 (byte 0x{byte:02x}); convert the file to UTF-8")


def _broken(path: Path, line: int, error: Exception) -> DataError:
    if isinstance(error, _DoubledKeyError):
        return DataError(f"{path}, line {line}: {error}; remove one of them")
    if isinstance(error, json.JSONDecodeError):
        why = f"{error.msg}, character {error.colno}"
    elif isinstance(error, RecursionError):
        why = "nested too deep"
    else:
        why = one_line(error)
    return DataError(f"{path}, line {line}: broken JSON ({why}); mend or remove that line")


def refuse_columns(path: Path, row: dict[str, Any]) -> None:
    """Refuse the only row of a file where it is a whole dataset: a table by columns, or lists of rows under keys.

    Raises:
        DataError: it is one; says what to do.
    """
    values = list(row.values())
    by_column = len(values) > 1 and all(
        isinstance(value, list)
        and len(value) == len(values[0]) > 1
        and not any(isinstance(x, dict | list) for x in value)
        for value in values
    )
    by_index = len(values) > 1 and all(
        isinstance(value, dict) and value and all(map(str.isdigit, value)) for value in values
    )
    if by_column or by_index:
        raise DataError(
            f"{path} is one object of columns, not rows ({', '.join(row)}): write rows, in pandas with "
            'to_json(path, orient="records", lines=True)'
        )
    lists = [key for key, value in row.items() if isinstance(value, list) and _are_rows(value)]
    if lists:
        raise DataError(
            f"{path} is one object whose rows lie under {', '.join(map(repr, lists))}: pass --field {lists[0]} "
            f"(field={lists[0]!r})"
        )


def _are_columns(values: list[Any]) -> bool:
    """Whether these are lists of one length that hold plain values."""
    lengths = {len(value) if isinstance(value, list) else 0 for value in values}
    return len(lengths) == 1 and lengths.pop() > 1 and not any(isinstance(x, dict | list) for v in values for x in v)


def _are_indexed_columns(values: list[Any]) -> bool:
    """Whether these are objects with the numbers of rows as their keys, as pandas writes columns."""
    return all(isinstance(value, dict) and value and all(map(str.isdigit, value)) for value in values)


def as_row(value: Any) -> Any:
    """A row that is a bare list of turns, as some fine-tuning scripts write them, with these in the column `messages`.

    >>> as_row([{"role": "user", "content": "Hi?"}])
    {'messages': [{'role': 'user', 'content': 'Hi?'}]}
    """
    turns = isinstance(value, list) and value and all(isinstance(item, dict) and "role" in item for item in value)
    return {"messages": value} if turns else value


def _are_rows(value: list[Any]) -> bool:
    """Whether a list holds rows, not turns of a chat or specifications of tools."""
    turns = {"role", "from", "function", "parameters", "content"}
    return bool(value) and all(isinstance(item, dict) and len(item) > 1 and not turns & set(item) for item in value)
