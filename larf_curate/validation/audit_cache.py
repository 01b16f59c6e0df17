"""What an audit keeps in the cache directory: a model's refusals, the directions of its margin, and measured rows."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import write_private
from ..cache import cache_directory, read_cached
from ..digests import digest_of
from ..encoding.directions import WeightDirection, block_layers
from ..encoding.encoder import Encoder
from ..errors import Issue, LarfError, OutputError
from ..json_fields import entries, finite, whole
from ..scoring.influence import STEPS
from ..scoring.margin import Refusals

_VERSION = 3
_FACTS = "slope, margin"  # the tensor that holds both
_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class MarginDirection:
    """In which direction of the weights the margin of some prompts grows.

    Attributes:
        direction: the direction, of norm 1.
        slope: how much the margin grows for each unit of length along it, in log-odds.
        margin: the margin itself.
    """

    direction: WeightDirection
    slope: float
    margin: float


@dataclass(frozen=True)
class MeasuredPart:
    """The influence of some rows along the directions of two halves of the prompts.

    Attributes:
        means, sums: over each row's trained tokens, [2, rows], NaN for none.
        losses: mean loss of these tokens, likewise.
        issues: for each row, a value of `larf_issue`, or None.
    """

    means: list[list[float]]
    sums: list[list[float]]
    losses: list[list[float]]
    issues: list[str | None]


class AuditCache:
    """Files under the cache directory, named after all that their content depends on.

    A file that cannot be read, that somebody else may have written, or that does not hold what its name says counts as
    one that is not there. One that cannot be written is left out: the cache only saves time.
    """

    def __init__(self, encoder: Encoder) -> None:
        loaded = encoder.loaded
        self._loaded = loaded
        self._model = [_VERSION, loaded.version, loaded.dtype_name, encoder.renderer.template_digest]
        self._home = cache_directory() / "audits"

    def read_refusals(self, prompts: Sequence[str]) -> Refusals | None:
        """Which of the prompts the model was found to refuse, if it has been asked."""
        with contextlib.suppress(ValueError, KeyError, TypeError):
            values = self._read("refusals", list(prompts))
            ids = tuple(tuple(whole(token, "a token") for token in entries(row, "ids")) for row in values["ids"])
            openings = tuple(whole(token, "a token") for token in entries(values["openings"], "openings"))
            if {type(value) for value in values["refused"]} <= {bool} and len(ids) == len(prompts):
                refusals = Refusals(ids, tuple(values["refused"]), openings)
                return refusals if len(refusals.refused) == len(ids) and all(ids) else None
        return None

    def write_refusals(self, prompts: Sequence[str], refusals: Refusals) -> None:
        self._write("refusals", list(prompts), asdict(refusals))

    def read_step(self, key: str) -> float | None:
        """The step that was chosen, if it was."""
        with contextlib.suppress(ValueError, KeyError, TypeError):
            step = finite(self._read("step", key)["step"], "step")
            return step if step in STEPS else None
        return None

    def write_step(self, key: str, step: float) -> None:
        self._write("step", key, {"step": step})

    def read_part(self, key: str, rows: int) -> MeasuredPart | None:
        """So many rows that were measured, if they were."""
        with contextlib.suppress(ValueError, KeyError, TypeError):
            part = MeasuredPart(**self._read("rows", key))
            for side in (*part.means, *part.sums, *part.losses):
                if len(side) != rows or not {type(value) for value in side} <= {float}:
                    return None
            if [len(part.means), len(part.sums), len(part.losses), len(part.issues)] == [2, 2, 2, rows]:
                for issue in part.issues:
                    _ = issue is None or Issue(issue)
                return part
        return None

    def write_part(self, key: str, part: MeasuredPart) -> None:
        self._write("rows", key, asdict(part))

    def read_direction(self, refusals: Refusals, rank: int) -> MarginDirection | None:
        """The direction of these prompts' margin, if it has been computed."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        content = read_cached(self._direction(refusals, rank), _MOST_BYTES)
        with contextlib.suppress(ValueError, KeyError, TypeError, SafetensorError, LarfError):
            tensors = load(content or b"")
            if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
                return None
            direction = WeightDirection.of_tensors(tensors)
            direction.require_layers(block_layers(self._loaded))
            slope, margin = map(float, tensors[_FACTS])
            return MarginDirection(direction, slope, margin) if abs(direction.norm - 1) < 1e-3 else None
        return None

    def write_direction(self, refusals: Refusals, rank: int, direction: MarginDirection) -> None:
        from safetensors.numpy import save

        tensors = direction.direction.to_tensors() | {_FACTS: np.array([direction.slope, direction.margin])}
        with contextlib.suppress(OutputError):
            write_private(self._direction(refusals, rank), save(tensors))

    def _read(self, kind: str, key: object) -> Any:
        content = read_cached(self._path(kind, key), _MOST_BYTES)
        try:
            return None if content is None else json.loads(content)
        except (ValueError, RecursionError):
            return None

    def _write(self, kind: str, key: object, value: object) -> None:
        with contextlib.suppress(OutputError):
            write_private(self._path(kind, key), json.dumps(value).encode())

    def _path(self, kind: str, key: object) -> Path:
        return self._home / f"{kind}-{digest_of([self._model, key])[:32]}.json"

    def _direction(self, refusals: Refusals, rank: int) -> Path:
        of_prompts = [refusals.ids, refusals.openings]
        return self._home / f"direction-{digest_of([self._model, rank, of_prompts])[:32]}.safetensors"
