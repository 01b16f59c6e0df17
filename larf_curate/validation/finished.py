"""Trained arms that are done, each in a file of its own: a validation that was interrupted goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..atomic import write_bytes, write_private, write_text
from ..cache import read_cached
from ..progress import say
from ..scoring.margin import Refusals
from ..typed_records import record_of
from .measuring import Measured
from .processes import processes
from .training_rows import TrainingRow

VERSION = 1
"""Raised where the same arm would be measured otherwise, so that no earlier figures stand beside new ones."""

_REFUSALS = "refusals.json"


def validation_digest(*parts: Any) -> str:
    """A digest of anything that JSON can hold, dataclasses too.

    >>> validation_digest([1, 2], {"a": None}) == validation_digest((1, 2), {"a": None})
    True
    """
    return hashlib.sha256(json.dumps([VERSION, *parts], sort_keys=True, default=_plain).encode()).hexdigest()


def digest_of_rows(rows: Sequence[TrainingRow]) -> str:
    """A digest of what a trainer sees of some rows, in their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr((row.ids, row.weights)).encode())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else asdict(value)


class FinishedArms:
    """The files of finished arms in one directory. Of processes that train together the first alone writes.

    Args:
        home: the directory, which is made if it does not exist.
        private: whether it lies in the cache: files of another user, or that others may write to, count as missing.
    """

    def __init__(self, home: Path, *, private: bool = False) -> None:
        self.home = home
        self._private = private

    def read(self, name: str, seed: int, digest: str) -> Measured | None:
        """What an arm did, if it was trained and asked in just this way; None where it is still to be done."""
        try:
            stored = json.loads(self._content(self._path(name, seed)))
            if stored["digest"] != digest:
                return None
            measured = record_of(Measured, stored["measured"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            say(f"{self._path(name, seed)} cannot be read: this arm is trained again")
            return None
        return measured if (measured.arm, measured.seed) == (name, seed) else None

    def write(self, digest: str, measured: Measured) -> None:
        """Keep what an arm did.

        Raises:
            OutputError: it cannot be written.
        """
        if not processes().is_first:
            return
        text = json.dumps({"digest": digest, "measured": asdict(measured)}, ensure_ascii=False)
        self._write(self._path(measured.arm, measured.seed), text.encode())

    def read_refusals(self, digest: str) -> Refusals | None:
        """How the model before training refuses, if for just these prompts and this model."""
        try:
            stored = json.loads(self._content(self.home / _REFUSALS))
            refusals = record_of(Refusals, stored["refusals"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return refusals if stored["digest"] == digest else None

    def write_refusals(self, digest: str, refusals: Refusals) -> None:
        """Keep them.

        Raises:
            OutputError: they cannot be written.
        """
        if not processes().is_first:
            return
        text = json.dumps({"digest": digest, "refusals": asdict(refusals)})
        self._write(self.home / _REFUSALS, text.encode())

    def require_writable(self) -> None:
        """Refuse a directory in which nothing can be kept, before the work begins.

        Raises:
            OutputError: the directory cannot be made or written.
        """
        if not processes().is_first:
            return
        probe = self.home / ".writable"
        write_text(probe, "")
        probe.unlink(missing_ok=True)

    def read_bytes(self, name: str) -> bytes:
        """What lies there under a name.

        Raises:
            OSError: it cannot be read.
        """
        return self._content(self.home / name)

    def write_bytes(self, name: str, content: bytes) -> None:
        """Put something there under a name.

        Raises:
            OutputError: it cannot be written.
        """
        self._write(self.home / name, content)

    def remove(self, name: str) -> None:
        """Remove what `write_bytes` has put there, if it is there."""
        (self.home / name).unlink(missing_ok=True)

    def _content(self, path: Path) -> bytes:
        content = read_cached(path) if self._private else path.read_bytes()
        if content is None:
            raise FileNotFoundError(path)
        return content

    def _write(self, path: Path, content: bytes) -> None:
        write = write_private if self._private else write_bytes
        write(path, content)

    def _path(self, name: str, seed: int) -> Path:
        return self.home / f"{name}-{seed}.json"
