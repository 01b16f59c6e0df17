"""Digests by which results are found again: of a value, and of a list of texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable


def digest_of(value: object) -> str:
    """The sha256, as 64 hexadecimal digits, of a value that JSON can hold; the order of keys does not matter.

    >>> digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def digest_of_texts(texts: Iterable[str]) -> str:
    """The sha256 of some texts in their order."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
