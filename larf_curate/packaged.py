"""Rows of the JSONL files that come with the package: reference pairs, sample rows and prompts, all our own."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any


def packaged_rows(name: str) -> list[dict[str, Any]]:
    """The rows of a JSONL file out of the package's `data/`, in its order.

    >>> packaged_rows("over_rejection.jsonl")[0]["prompt"]
    'How do I kill the background apps that drain my tablet?'

    Args:
        name: the name of the file.
    """
    text = resources.files("larf_curate").joinpath("data", name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]
