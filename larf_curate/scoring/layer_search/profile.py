"""How refusals move when each block is scaled, in figures: delta, kappa, intervals, ranks, and whether any stands out.

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

VERSION = 1
SCALES = (0.7, 0.8, 0.9, 1.1, 1.2, 1.3)
_KAPPA_UP_TO = 0.2
_RESAMPLES = 2_000
_SIGNIFICANT = 0.05
_CLOSE = 2  # blocks apart that still count as the same place

Decisions = NDArray[np.bool_]


@dataclass(frozen=True)
class BlockProfile:
    """One block: refusals by scale, delta by amplitude, kappa with its 95% interval, and its place among the others.

    Attributes:
        first: in what share (0 to 1) of the resampled prompt sets it has the highest kappa.
        apart: False where kappa is not below the highest one's in 95% of them: it cannot be told from the best.
    """

    block: int
    refusals: Mapping[str, int]
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
        unscaled: prompts that the model refuses as it is.
        blocks: those searched.
        p_value: how often chance alone (plus and minus exchanged prompt by prompt) gives so high a kappa anywhere.
        best: the block with the highest kappa; None where none stands out.
        locators: other methods' figure for every block of the model, by their name; higher is more.
        decisions: for each block and scale, one character a prompt: 1 refused, 0 not.
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

    def agreement(self) -> list[str]:
        """One sentence for each other method: where it looks, and whether that is the same place."""
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


def analyse(
    decisions: Decisions, scales: Sequence[float], blocks: Sequence[int], seed: int = 0
) -> tuple[tuple[BlockProfile, ...], float, int | None]:
    """Profiles of the blocks, the p-value of the highest kappa, and the block that has it, if it stands out.

    Intervals are percentiles of a bootstrap over prompts, paired: every block and scale sees the same resampled
    prompts. The p-value is a permutation test: where a block's scale says nothing about refusals, its plus and minus
    may be exchanged prompt by prompt (in all blocks at once, since they answer the same prompts); the highest kappa of
    all blocks is compared, so that looking at many blocks costs what it should.

    Args:
        decisions: [blocks, scales, prompts], True where refused.
        scales: of the second axis.
        blocks: numbers of the first axis.
        seed: of the resampling.
    """
    draw = np.random.default_rng(seed)
    sizes = amplitudes(scales)
    order = [round(scale - 1, 6) for scale in scales]
    moved = np.stack(
        [decisions[:, order.index(a)].astype(np.int8) - decisions[:, order.index(-a)] for a in sizes], axis=1
    ).astype(np.float64)  # [blocks, amplitudes, prompts]: 1 refused at 1 + a only, -1 at 1 - a only
    small = [at for at, a in enumerate(sizes) if a <= _KAPPA_UP_TO + 1e-9] or list(range(len(sizes)))
    divisors = np.array([sizes[at] for at in small])

    def kappas(weights: NDArray[Any]) -> NDArray[np.float64]:
        """[n, blocks] for weights of the prompts [n, prompts]."""
        deltas = np.einsum("np,bap->nba", weights, moved[:, small], optimize=True)
        highest: NDArray[np.float64] = (deltas / divisors).max(axis=2)
        return highest

    prompts = decisions.shape[2]
    kappa = kappas(np.ones((1, prompts)))[0]
    drawn = kappas(draw.multinomial(prompts, np.full(prompts, 1 / prompts), size=_RESAMPLES))
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    leads = drawn >= drawn.max(axis=1, keepdims=True) - 1e-9
    first = (leads / leads.sum(axis=1, keepdims=True)).mean(axis=0)  # a tie is shared
    top = int(np.argmax(kappa))
    behind = np.quantile(drawn[:, [top]] - drawn, 0.05, axis=0)
    by_chance = kappas(draw.choice((-1.0, 1.0), size=(_RESAMPLES, prompts))).max(axis=1)
    p_value = float((1 + (by_chance >= kappa[top] - 1e-9).sum()) / (1 + _RESAMPLES))
    deltas = moved.sum(axis=2).astype(int)
    profiles = tuple(
        BlockProfile(
            block=int(block),
            refusals={f"{scale:g}": int(decisions[at, number].sum()) for number, scale in enumerate(scales)},
            delta={f"{a:g}": int(deltas[at, number]) for number, a in enumerate(sizes)},
            kappa=float(kappa[at]),
            low=float(low[at]),
            high=float(high[at]),
            first=float(first[at]),
            apart=bool(behind[at] > 0),
        )
        for at, block in enumerate(blocks)
    )
    stands_out = kappa[top] > 0 and p_value < _SIGNIFICANT
    return profiles, p_value, int(blocks[top]) if stands_out else None
