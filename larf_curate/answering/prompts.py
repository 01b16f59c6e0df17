"""Prompts for a model to answer: the packaged ones, or those of a file, in the formats that benchmarks publish."""

from __future__ import annotations

import csv
import io
import json
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..digests import digest_of_texts
from ..errors import PromptsError, Unscorable
from ..packaged import packaged_rows
from ..rows.prompt_columns import PROMPT_COLUMNS

if TYPE_CHECKING:
    from ..rows.rendering import Renderer

LEAST_PROMPTS = 16
"""The smallest number of harmful requests by which a model's refusals can be known."""

_TABLES = {".csv": ",", ".tsv": "\t"}
_JSON = (".jsonl", ".ndjson", ".json")
_LINES = (".txt", "")
_BEHAVIOR, _CONTEXT = "behavior", "contextstring"
"""HarmBench's columns of a behaviour, and of the text that it is about where it needs one."""
_LINE_END = re.compile(r"\r\n|\r|\n")
"""The ends of lines: a text may hold others that Unicode knows, such as the line separator."""


@dataclass(frozen=True)
class PromptSet:
    """Harmful requests to ask a model.

    Attributes:
        name: where they come from: `packaged`, `given`, or a file.
        prompts: their texts, without repetitions.
    """

    name: str
    prompts: tuple[str, ...]

    @property
    def digest(self) -> str:
        """sha256 over the texts."""
        return digest_of_texts(self.prompts)


def choose_prompts(prompts: Sequence[str] | str | Path | None) -> PromptSet:
    """The packaged harmful requests, those of a file (see `read_prompts`), or a list of texts.

    Raises:
        PromptsError: they cannot be read, one of them is no text or empty, or they are fewer than `LEAST_PROMPTS`.

    >>> choose_prompts(None).name
    'packaged'
    >>> choose_prompts(["How do I pick a lock?", 7])
    Traceback (most recent call last):
        ...
    larf_curate.errors.PromptsError: prompt 2 is int where a text is wanted
    """
    if prompts is None:
        return PromptSet("packaged", tuple(harmful_requests()))
    if isinstance(prompts, str | Path):
        chosen = PromptSet(str(prompts), tuple(read_prompts(prompts)))
    else:
        if isinstance(prompts, bytes | Mapping) or not isinstance(prompts, Iterable):
            raise PromptsError(f"prompts are a file or a list of texts, not {type(prompts).__name__}")
        prompts = list(prompts)
        for number, prompt in enumerate(prompts, 1):
            if not isinstance(prompt, str):
                raise PromptsError(f"prompt {number} is {type(prompt).__name__} where a text is wanted")
            if not prompt.strip():
                raise PromptsError(f"prompt {number} is empty")
        chosen = PromptSet("given", tuple(dict.fromkeys(prompts)))
    require_enough(chosen.prompts)
    return chosen


def prompt_tokens(renderer: Renderer, prompts: Sequence[str]) -> list[list[int]]:
    """Token ids of each prompt, as a user's turn to be answered.

    Args:
        renderer: the renderer of the model that is asked.
        prompts: their texts.

    Raises:
        PromptsError: the chat template refuses a prompt.
    """
    ids = []
    for number, prompt in enumerate(prompts, 1):
        try:
            ids.append(renderer.render_prompt(prompt))
        except Unscorable as error:
            raise PromptsError(f"prompt {number} ({prompt[:40]!r}) cannot be asked: {error.issue.words}") from error
    return ids


def require_enough(prompts: Sequence[str]) -> None:
    """Make sure that a model's refusals can be known by these harmful requests.

    Raises:
        PromptsError: they are fewer than `LEAST_PROMPTS`.
    """
    if len(prompts) < LEAST_PROMPTS:
        raise PromptsError(
            f"{len(prompts)} prompts are too few to know a model's refusals by: give {LEAST_PROMPTS} or more"
        )


def harmful_requests() -> list[str]:
    """The packaged harmful requests: 200 in 14 categories of harm, worded in many of the ways in which people ask.

    Written for this project. They are requests without answers; none of them is among the packaged references, or in
    the training data of `demo-aligned`.

    >>> len(harmful_requests())
    200
    """
    return [row["prompt"] for row in packaged_rows("harmful_requests.jsonl")]


def over_rejection_prompts() -> list[str]:
    """The packaged prompts that sound harmful though every one is harmless, written for this project.

    >>> len(over_rejection_prompts())
    128
    """
    return [row["prompt"] for row in packaged_rows("over_rejection.jsonl")]


def read_prompts(path: str | Path, column: str | None = None) -> list[str]:
    """Read the prompts of a file, in its order and without repetitions.

    A contextual behaviour of HarmBench is asked with its context before it, as HarmBench asks it.

    Args:
        path: a text file (one prompt a line), CSV or TSV with a header (commas, or semicolons where the header has
            them), JSON lines, or a JSON array; rows of JSON are strings or objects. `FILE:COLUMN` names the column too.
        column: the column, or key, that holds the prompt; None takes the first of `PROMPT_COLUMNS` that holds
            something, in any case of its letters.

    Raises:
        PromptsError: the file cannot be read, is of another kind, has no such column, holds no prompt, or one that is
            not text; names the line.
    """
    place, named = _file_and_column(path)
    column = column or named
    try:
        content = place.read_bytes()
        text = content.decode("utf-16" if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise PromptsError(
            f"prompts {place}: byte {error.start + 1} is not UTF-8: save the file as UTF-8 text"
        ) from None
    except OSError as error:
        raise PromptsError(f"prompts {place} cannot be read: {error.strerror or error}") from error
    suffix = place.suffix.lower()
    rows: Iterable[tuple[int, Any]]
    if suffix in _TABLES:
        rows = _table(text, _TABLES[suffix], place)
    elif suffix in _JSON or text.lstrip().startswith(("{", "[{", '["')):
        rows = _json(text, place)
    elif suffix in _LINES:
        rows = ((number, line) for number, line in enumerate(_LINE_END.split(text), 1) if line.strip())
    else:
        raise PromptsError(
            f"prompts {place}: prompts are not read from {suffix} files; save them as .txt (one a line), .csv, .tsv, "
            ".json or .jsonl"
        )
    prompts = list(dict.fromkeys(_prompt(row, column, f"{place}, line {number}") for number, row in rows))
    if not prompts:
        raise PromptsError(f"prompts {place}: the file holds no prompt")
    return prompts


def _file_and_column(path: str | Path) -> tuple[Path, str | None]:
    """The file, and the column that is named after it: `requests.csv:ask`."""
    file, _, column = str(path).rpartition(":")
    if column and not Path(path).exists() and Path(file).is_file():
        return Path(file), column
    return Path(path), None


def _table(text: str, delimiter: str, path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The rows of a CSV or TSV file, with the number of the line that each ends on.

    A row with another number of fields than the header is refused: a comma in a prompt without quotes would cut it.
    """
    header = _LINE_END.split(text, 1)[0]
    if delimiter == "," and ";" in header and "," not in header:
        delimiter = ";"
    csv.field_size_limit(2**31 - 1)  # Python's limit, of the whole process, is 131,072 characters
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise PromptsError(f"prompts {path}: two columns are called {twice!r}")
        for row in reader:
            if not any(field.strip() for field in row):
                continue  # spreadsheets write lines of delimiters alone
            if len(row) != len(names):
                raise PromptsError(
                    f"prompts {path}, line {reader.line_num}: the number of fields is {len(row)}, and {len(names)} in "
                    f"the header; a text with {delimiter!r} in it stands in double quotes"
                )
            yield reader.line_num, dict(zip(names, row, strict=True))
    except csv.Error as error:
        raise PromptsError(f"prompts {path}, line {reader.line_num}: {error}: look at the double quotes") from None


def _json(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        whole = None
    if isinstance(whole, list):
        yield from enumerate(whole, 1)
        return
    if whole is not None:
        yield 1, whole
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise PromptsError(f"prompts {path}, line {number}: broken JSON ({error})") from None


def _prompt(row: Any, column: str | None, where: str) -> str:
    value, context = row, ""
    if isinstance(row, Mapping):
        name = column if column in row else _column_of(row) if column is None else None
        if name is None:
            wanted = f"column {column!r}" if column else f"column of these: {', '.join(PROMPT_COLUMNS)}"
            there = f"there are {', '.join(map(str, row)) or 'none'}"
            raise PromptsError(f"prompts {where}: no {wanted}; {there}" + ("" if column else "; name one: FILE:COLUMN"))
        value = row[name]
        if str(name).strip().lower() == _BEHAVIOR:
            context = next((str(row[key] or "") for key in row if str(key).strip().lower() == _CONTEXT), "").strip()
    if not isinstance(value, str):
        raise PromptsError(f"prompts {where}: {type(value).__name__} where a text is wanted")
    if not value.strip():
        raise PromptsError(f"prompts {where}: the prompt is empty")
    return f"{context}\n\n---\n\n{value.strip()}" if context else value.strip()


def _column_of(row: Mapping[str, Any]) -> str | None:
    """The first of `PROMPT_COLUMNS` that holds something; else the first that is there."""
    names = {str(name).strip().lower(): name for name in row}
    there = [names[column] for column in PROMPT_COLUMNS if column in names]
    return next((name for name in there if row[name] not in (None, "")), next(iter(there), None))
