"""A file that keeps what a layer search has found so far, so that it goes on after an interruption."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...errors import OutputError


class Ledger:
    """One JSON line for each block and scale that was answered, and for each locator, appended as they come.

    Attributes:
        refusals: for each block (as text; see `search`) and scale, whether each prompt was refused.
        located: the figures of each locator, by its name.
    """

    def __init__(self, path: Path | None, key: str) -> None:
        """Read what is there already; without a path, nothing is read or kept.

        Args:
            path: of the file, which may hold other searches too.
            key: of this search: a digest of all that its answers depend on.

        Raises:
            OutputError: the file cannot be read.
        """
        self.path, self.key = path, key
        self.refusals: dict[tuple[str, float], list[bool]] = {}
        self.located: dict[str, list[float]] = {}
        if path is None or not path.is_file():
            return
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise OutputError(f"{path} cannot be read: {error}") from error
        for line in lines:
            try:
                row = json.loads(line)
                if row["search"] == key and "locator" in row:
                    self.located[row["locator"]] = [float(value) for value in row["values"]]
                elif row["search"] == key:
                    self.refusals[row["block"], row["scale"]] = [mark == "1" for mark in row["refused"]]
            except (ValueError, KeyError, TypeError):  # the last line of a search that was killed
                continue

    def add_refusals(self, block: str, scale: float, refused: list[bool]) -> None:
        self.refusals[block, scale] = refused
        self._append({"block": block, "scale": scale, "refused": marks(refused)})

    def add_locator(self, name: str, values: list[float]) -> None:
        self.located[name] = values
        self._append({"locator": name, "values": values})

    def _append(self, row: dict[str, Any]) -> None:
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                # The newline comes first: the line before may have been cut off.
                file.write("\n" + json.dumps({"search": self.key, **row}))
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written: {error.strerror or error}") from error


def marks(refused: Iterable[bool]) -> str:
    """One character a prompt: 1 refused, 0 not.

    >>> marks([True, False])
    '10'
    """
    return "".join("1" if one else "0" for one in refused)
