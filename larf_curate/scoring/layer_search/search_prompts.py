"""Prompts for a layer search: harmless ones that sound harmful, packaged or a user's own."""

from __future__ import annotations

import json
from pathlib import Path

from ...errors import ModelError
from ...rows.prompt_columns import request_column
from ..references import packaged_rows


def over_rejection_prompts() -> list[str]:
    """The packaged prompts, written for this project: they sound harmful, and every one is harmless."""
    return [row["prompt"] for row in packaged_rows("over_rejection.jsonl")]


def read_prompts(path: str | Path) -> list[str]:
    """Prompts of a user's own: a JSONL file with `prompt` (or `instruction`, `question`), or plain lines.

    Raises:
        ModelError: the file cannot be read, or a line has no prompt; names the line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"prompts {path} cannot be read: {error}") from error
    prompts: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if not line.lstrip().startswith("{"):
            prompts.append(line.strip())
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ModelError(f"{path}, line {number}: {error}") from error
        column = request_column(row)
        text = None if column is None else row[column]
        if not isinstance(text, str) or not text:
            raise ModelError(f"{path}, line {number}: no `prompt`")
        prompts.append(text)
    return prompts
