"""The training that several arms begin with: its adapter is kept until the last of them is done, or the next run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import LarfError
from ..progress import say
from .finished import FinishedArms
from .processes import processes
from .training import TrainedAdapter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_HEADER_LENGTH = 8  # bytes at the beginning of a safetensors file, which say how long its header is


@dataclass(frozen=True, eq=False)
class _Kept:
    """An adapter, and the digest of all that decided what it came to."""

    digest: str
    adapter: TrainedAdapter


class SharedTraining:
    """The last training that another arm may begin with: in memory, and in a file where there is such an arm.

    Args:
        finished: the files of the arms, among which its own lies.
    """

    def __init__(self, finished: FinishedArms) -> None:
        self._finished = finished
        self._last: _Kept | None = None

    def find(self, seed: int, digest: str) -> TrainedAdapter | None:
        """What a training came to, if it was done before; None where it is still to be done.

        Args:
            seed: the seed of the training.
            digest: of everything else that decides what it comes to.
        """
        if self._last is None or self._last.digest != digest:
            self._last = None if processes().count > 1 else self._read(seed)
        return self._last.adapter if self._last is not None and self._last.digest == digest else None

    def keep(self, seed: int, digest: str, adapter: TrainedAdapter, *, in_file: bool) -> None:
        """Keep what a training came to.

        Args:
            seed, digest: see `find`.
            adapter: its adapter.
            in_file: whether other arms begin with it, which the next run may have to do.

        Raises:
            OutputError: the file cannot be written.
        """
        self._last = _Kept(digest, adapter)
        if in_file and processes().count == 1:
            self._finished.write_bytes(_name(seed), _to_bytes(self._last))

    def forget(self, seed: int) -> None:
        """Remove the file of a training: all arms that begin with it are done."""
        self._last = None
        if processes().is_first:
            self._finished.remove(_name(seed))

    def _read(self, seed: int) -> _Kept | None:
        try:
            return _from_bytes(self._finished.read_bytes(_name(seed)))
        except FileNotFoundError:
            return None
        except (OSError, LarfError, ValueError, KeyError, TypeError) as error:
            say(f"{_name(seed)} cannot be read ({type(error).__name__}): this training is done again")
            return None


def _name(seed: int) -> str:
    return f"adapter-{seed}.safetensors"


def _to_bytes(kept: _Kept) -> bytes:
    from safetensors.torch import save

    adapter = kept.adapter
    weights = {name: weight.contiguous() for name, weight in adapter.weights.items()}
    return save(weights, {"digest": kept.digest, "loss": repr(adapter.loss), "steps": str(adapter.steps)})


def _from_bytes(content: bytes) -> _Kept:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        weights: Mapping[str, Tensor] = load(content)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    length = int.from_bytes(content[:_HEADER_LENGTH], "little")
    said = json.loads(content[_HEADER_LENGTH : _HEADER_LENGTH + length])["__metadata__"]
    return _Kept(said["digest"], TrainedAdapter(weights, float(said["loss"]), int(said["steps"])))
