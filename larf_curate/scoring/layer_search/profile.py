"""How the number of refusals changes when each block is scaled: delta, kappa, intervals and a significance test.

Formulas: delta of block i at amplitude a is the number of prompts refused with its weights times 1 + a, less those
refused with them times 1 - a (LARF, arXiv 2507.18631). kappa is the largest delta / a over the amplitudes up to 0.2
(SLDR, 2026).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ModelError
from ...json_fields import parse_json
from ..artifact_checks import check_search_fields

VERSION = 2
SCALES = (0.7, 0.8, 0.9, 1.1, 1.2, 1.3)
ERROR_RATE = 0.05
_KAPPA_UP_TO = 0.2
_CLOSE = 2  # methods agree if their blocks are at most this far apart

Decisions = NDArray[np.int8]


@dataclass(frozen=True)
class BlockProfile:
    """What was measured of one block.

    Attributes:
        block: its number, from 0.
        refusals: the refusals by scale, the number of prompts that were refused.
        asked: the asked by scale, how many prompts were asked: the same number for all scales and blocks that may come
            first, fewer for blocks that were dropped, and none at scales that do not count towards kappa.
        delta: the delta by amplitude, among the prompts asked at both scales; see the formulas above.
        kappa, low, high: the largest delta / a, as if all prompts had been asked, and its 95% interval.
        first: the share (0 to 1) of resampled prompt sets in which this block has the highest kappa.
        apart: whether kappa is below that of the best block in at least 95% of them; if not, the two cannot be told
            apart.
    """

    block: int
    refusals: Mapping[str, int]
    asked: Mapping[str, int]
    delta: Mapping[str, int]
    kappa: float
    low: float
    high: float
    first: float
    apart: bool


@dataclass(frozen=True)
class LayerProfile:
    """The outcome of a search for the safety-sensitive layer.

    Attributes:
        model, version, total_blocks, dtype: what was searched.
        prompts, digest: how many prompts were asked, and the sha256 of their texts.
        judge, max_new_tokens: how an answer was decided to refuse, and how much of it was generated.
        error_rate: the probability with which the block that would come first with all answers may have been dropped
            earlier.
        unscaled: prompts that the model refuses as it is.
        blocks: the blocks that were searched.
        p_value: the p-value of a permutation test: how often chance alone gives any block a kappa as high as the
            highest here.
        best: the block with the highest kappa; None where none stands out.
        locators: the locators by the name of another method, its figure for every block of the model; the highest marks
            its choice.
        decisions: for each block and scale, one character a prompt: 1 refused, 0 not, - not asked.
    """

    model: str
    version: str
    total_blocks: int
    dtype: str
    prompts: int
    digest: str
    judge: str
    max_new_tokens: int
    scales: tuple[float, ...]
    error_rate: float
    unscaled: int
    blocks: tuple[BlockProfile, ...]
    p_value: float
    best: int | None
    locators: Mapping[str, Sequence[float]] = field(default_factory=dict)
    decisions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    profile_version: int = VERSION

    def __repr__(self) -> str:
        return f"<LayerProfile of {self.model}: {self.verdict()}>"

    @property
    def peers(self) -> tuple[int, ...]:
        """The blocks that these prompts cannot tell from the best one; without that one."""
        return tuple(each.block for each in self.blocks if not each.apart and each.block != self.best)

    @property
    def located(self) -> dict[str, int]:
        """The block at which each of the other methods has its highest figure."""
        return {name: int(np.argmax(values)) for name, values in self.locators.items()}

    def verdict(self) -> str:
        """What the search says, in one or two sentences."""
        if self.best is None:
            return (
                f"no block stands out: {self.unscaled} of {self.prompts} prompts are refused as the model is, and no "
                f"block moves that count more than chance may (p = {self.p_value:.2f})"
            )
        top = next(profile for profile in self.blocks if profile.block == self.best)
        text = (
            f"block {self.best}: kappa {top.kappa:.0f} (95% interval {top.low:.0f} to {top.high:.0f}), first in "
            f"{top.first:.0%} of resampled prompt sets, p = {self.p_value:.4f}"
        )
        if peers := self.peers:
            text += f"; these prompts cannot tell it from block{'s' * (len(peers) > 1)} {', '.join(map(str, peers))}"
        return text

    def effort(self) -> str:
        """How many answers were given, and what was left out."""
        given = self.prompts + sum(sum(block.asked.values()) for block in self.blocks)
        whole = self.prompts * (1 + len(self.blocks) * len(self.scales))
        if given == whole:
            return f"{given:,} answers"
        return (
            f"{given:,} of {whole:,} answers: what could not come first any more was asked no further (the block that "
            f"all answers put first is dropped with a probability of at most {self.error_rate:g})"
        )

    def agreement(self) -> list[str]:
        """One sentence for each other method: its block, and whether that agrees with the search."""
        lines = []
        for name, block in self.located.items():
            line = f"{name} is highest at block {block}"
            if self.best is not None:
                distance = abs(block - self.best)
                near = "which agrees" if distance <= _CLOSE else f"{distance} blocks away: the methods disagree"
                line += f", {near}"
            lines.append(line)
        return lines

    def without_decisions(self) -> dict[str, Any]:
        """The figures alone: what an artifact and a report keep."""
        return {name: value for name, value in asdict(self).items() if name != "decisions"}

    def to_json(self) -> str:
        """One JSON object of the attributes."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> LayerProfile:
        """Read what `to_json` wrote, or the figures of `without_decisions`.

        Raises:
            ModelError: it is something else, or of another version.
        """
        try:
            values = parse_json(text)
        except ValueError as error:
            raise ModelError(f"this is not a layer profile: {error}") from error
        return cls.of(values)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> LayerProfile:
        """The same from what JSON holds."""
        try:
            fields = dict(values)
            version = fields["profile_version"]
            if version == VERSION:
                check_search_fields(fields)
                blocks = tuple(BlockProfile(**block) for block in fields.pop("blocks"))
                return cls(**{**fields, "blocks": blocks, "scales": tuple(fields["scales"])})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"this is not a layer profile: {error}") from error
        raise ModelError(f"the layer profile is of version {version}, not {VERSION}")


def amplitudes(scales: Sequence[float]) -> list[float]:
    """Each a for which both 1 - a and 1 + a are among the scales, ascending.

    Raises:
        ModelError: a scale is not positive, is 1, comes twice, or lacks its counterpart.

    >>> amplitudes([0.8, 0.9, 1.1, 1.2])
    [0.1, 0.2]
    """
    changes = [round(scale - 1, 6) for scale in scales]
    unpaired = [scale for scale, a in zip(scales, changes, strict=True) if not a or -a not in changes or scale <= 0]
    if not changes or unpaired or len(set(changes)) != len(changes):
        raise ModelError(f"scales come in different pairs 1 - a and 1 + a, like 0.9 and 1.1, not {list(scales)}")
    return sorted(a for a in changes if a > 0)


def deciding_amplitudes(scales: Sequence[float]) -> list[float]:
    """Those that count towards kappa: up to 0.2, or all where none is that small.

    >>> deciding_amplitudes(SCALES), deciding_amplitudes([0.5, 1.5])
    ([0.1, 0.2], [0.5])
    """
    sizes = amplitudes(scales)
    return [a for a in sizes if a <= _KAPPA_UP_TO + 1e-9] or sizes
