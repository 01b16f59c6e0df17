"""What an audit keeps in the cache directory: a model's refusals, the directions of its margin, and measured rows."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..atomic import write_bytes
from ..cache import cache_directory
from ..digests import digest_of
from ..encoding.directions import WeightDirection
from ..encoding.encoder import Encoder
from ..errors import OutputError
from ..scoring.margin import Refusals

_VERSION = 2
_NORM, _MARGIN = "norm", "margin"


@dataclass(frozen=True)
class MarginDirection:
    """In which direction of the weights the margin of some prompts grows.

    Attributes:
        direction: of norm 1.
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
        issues: of each row, a value of `larf_issue`, or None.
    """

    means: list[list[float]]
    sums: list[list[float]]
    losses: list[list[float]]
    issues: list[str | None]


class AuditCache:
    """Files under the cache directory, named after all that their content depends on.

    A file that cannot be read counts as one that is not there, and one that cannot be written is left out: the cache
    only saves time.
    """

    def __init__(self, encoder: Encoder) -> None:
        loaded = encoder.loaded
        self._model = [_VERSION, loaded.version, loaded.dtype_name, encoder.renderer.template_digest]
        self._home = cache_directory() / "audits"

    def read_refusals(self, prompts: Sequence[str]) -> Refusals | None:
        """Which of the prompts the model was found to refuse, if it has been asked."""
        with contextlib.suppress(ValueError, KeyError, TypeError):
            values = self._read("refusals", list(prompts))
            ids = tuple(tuple(map(int, row)) for row in values["ids"])
            return Refusals(ids, tuple(map(bool, values["refused"])), tuple(map(int, values["openings"])))
        return None

    def write_refusals(self, prompts: Sequence[str], refusals: Refusals) -> None:
        self._write("refusals", list(prompts), asdict(refusals))

    def read_step(self, key: str) -> float | None:
        """The step that was chosen, if it was."""
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return float(self._read("step", key)["step"])
        return None

    def write_step(self, key: str, step: float) -> None:
        self._write("step", key, {"step": step})

    def read_part(self, key: str) -> MeasuredPart | None:
        """Rows that were measured, if they were."""
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return MeasuredPart(**self._read("rows", key))
        return None

    def write_part(self, key: str, part: MeasuredPart) -> None:
        self._write("rows", key, asdict(part))

    def read_direction(self, refusals: Refusals, rank: int) -> MarginDirection | None:
        """The direction of these prompts' margin, if it has been computed."""
        from safetensors import SafetensorError, safe_open

        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, SafetensorError):
            with safe_open(self._direction(refusals, rank), "numpy") as file:
                facts = file.metadata()
                direction = WeightDirection.of_tensors({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
            return MarginDirection(direction, float(facts[_NORM]), float(facts[_MARGIN]))
        return None

    def write_direction(self, refusals: Refusals, rank: int, found: MarginDirection) -> None:
        from safetensors.numpy import save

        facts = {_NORM: repr(found.slope), _MARGIN: repr(found.margin)}
        with contextlib.suppress(OutputError):
            write_bytes(self._direction(refusals, rank), save(found.direction.to_tensors(), facts))

    def _read(self, kind: str, key: object) -> Any:
        try:
            return json.loads(self._path(kind, key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def _write(self, kind: str, key: object, value: object) -> None:
        with contextlib.suppress(OutputError):
            write_bytes(self._path(kind, key), json.dumps(value).encode())

    def _path(self, kind: str, key: object) -> Path:
        return self._home / f"{kind}-{digest_of([self._model, key])[:32]}.json"

    def _direction(self, refusals: Refusals, rank: int) -> Path:
        of_prompts = [refusals.ids, refusals.openings]
        return self._home / f"direction-{digest_of([self._model, rank, of_prompts])[:32]}.safetensors"
