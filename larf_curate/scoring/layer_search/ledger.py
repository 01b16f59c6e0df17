"""A file that keeps what a layer search has found so far, so that it goes on after an interruption."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...cache import read_cached
from ...errors import OutputError
from ...json_fields import checked_text, entries, finite


class Ledger:
    """One JSON line for each block, scale and part of the prompts that was answered, and for each locator.

    Attributes:
        refusals: for each block (as text; see `asking`) and scale, whether the prompts asked so far were refused, in
            the order in which they were asked.
        located: the figures of each locator, by its name.
    """

    def __init__(self, path: Path | None, key: str, *, prompts: int, blocks: int, private: bool) -> None:
        """Read what is there already; without a path, nothing is read or kept.

        A line that does not hold as many values as there are blocks, or prompts left, counts as missing.

        Args:
            path: the path of the file, which may hold other searches too.
            key: the key of this search, a digest of everything that its answers depend on.
            prompts: how many are asked.
            blocks: how many the model has.
            private: whether the file lies in the cache: another user's file is not read, but replaced, and nobody else
                may read this one.

        Raises:
            OutputError: the file cannot be read.
        """
        self.path, self.key, self._private = path, key, private
        self.refusals: dict[tuple[str, float], list[bool]] = {}
        self.located: dict[str, list[float]] = {}
        if path is None or not path.is_file():
            return
        for line in self._lines(path):
            try:
                row = json.loads(line)
                if row["search"] == key and "locator" in row:
                    values = [finite(value, "a figure") for value in entries(row["values"], "values", blocks, blocks)]
                    self.located[checked_text(row["locator"], "locator")] = values
                elif row["search"] == key:
                    name, scale = checked_text(row["block"], "block"), finite(row["scale"], "scale")
                    known, refused = self.asked(name, scale), checked_text(row["refused"], "refused", prompts)
                    if row["after"] == known <= prompts - len(refused) and set(refused) <= {"0", "1"}:
                        self.refusals.setdefault((name, scale), []).extend(mark == "1" for mark in refused)
            except (ValueError, KeyError, TypeError, RecursionError):  # the last line of a search that was killed
                continue

    def _lines(self, path: Path) -> list[str]:
        if self._private and read_cached(path) is None:
            path.unlink(missing_ok=True)
            return []
        try:
            return path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise OutputError(f"{path} cannot be read: {error}") from error

    def asked(self, block: str, scale: float) -> int:
        """How many prompts have been asked."""
        return len(self.refusals.get((block, scale), ()))

    def add_refusals(self, block: str, scale: float, refused: list[bool]) -> None:
        """Keep which of the next prompts were refused."""
        known = self.refusals.setdefault((block, scale), [])
        self._append({"block": block, "scale": scale, "after": len(known), "refused": marks(refused)})
        known += refused

    def add_locator(self, name: str, values: list[float]) -> None:
        self.located[name] = values
        self._append({"locator": name, "values": values})

    def _append(self, row: dict[str, Any]) -> None:
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8", opener=_private if self._private else None) as file:
                # The newline comes first: the line before may have been cut off.
                file.write("\n" + json.dumps({"search": self.key, **row}))
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written: {error.strerror or error}") from error


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)


def marks(refused: Iterable[int]) -> str:
    """One character a prompt: 1 refused, 0 not, - not asked (below zero).

    >>> marks([True, False, -1])
    '10-'
    """
    return "".join("-" if one < 0 else str(int(one)) for one in refused)
