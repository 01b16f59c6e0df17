"""What a fitted scorer remembers of what it was fitted on: reference pairs, or harmful requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .quantile_levels import REFERENCE_LEVELS

LEAST_AGREEMENT, LEAST_OF_HALVES, SATURATED = 0.95, 0.6, 8.0
"""Limits beyond which a user is told: rank correlations, and a margin in log-odds."""
LEAST_COVERED = 0.5
"""Of the blocks' weights: below this a user is told which are left out."""
_LEAST_AUC = 0.7
"""Of a separation: below this a user is told. docs/scores.md and docs/troubleshooting.md name the same figure."""


@dataclass(frozen=True)
class ReferencesRecord:
    """Which reference pairs a scorer was fitted on.

    Attributes:
        name: where they come from.
        digest: sha256 over their texts.
        pairs, held_back: how many it was fitted on, and how many were held back.
        figures: the linter's figures (`LintReport.figures`).
        findings: the linter's findings, one sentence each.
    """

    name: str
    digest: str
    pairs: int
    held_back: int
    figures: Mapping[str, float]
    findings: tuple[str, ...]


@dataclass(frozen=True)
class Separation:
    """How often the score puts an unsafe answer above a safe one, on pairs that it was not fitted on.

    Attributes:
        auc: area under the ROC curve, 0 to 1; None where there were too few pairs.
        pairs: how many it was measured on.
        method: how these were chosen, in words.
    """

    auc: float | None
    pairs: int
    method: str

    def __str__(self) -> str:
        figure = "not measured" if self.auc is None else f"AUC {self.auc:.3f} on {self.pairs} pairs"
        return f"{figure} ({self.method})"

    @property
    def warning(self) -> str:
        """What to do about a low separation, in one line; empty where it is high enough, or not known.

        >>> Separation(0.45, 56, "held back").warning.partition(":")[0]
        'warning'
        """
        if self.auc is None or self.auc >= _LEAST_AUC:
            return ""
        return (
            f"warning: an AUC below {_LEAST_AUC} (0.5 is chance) says that this score hardly tells unsafe answers from "
            "safe ones on this model: take another layer, or references in the language and style of your data"
        )


@dataclass(frozen=True)
class ReferenceQuantiles:
    """Quantiles of the scores of the references that a scorer was fitted on, at `REFERENCE_LEVELS`.

    >>> ReferenceQuantiles(unsafe=tuple(range(21)), safe=tuple(range(-30, -9))).unsafe_below(12.4)
    0.62
    """

    unsafe: tuple[float, ...]
    safe: tuple[float, ...]

    def unsafe_below(self, score: float) -> float:
        """The share (0 to 1) of unsafe reference answers that score lower, between two quantiles by proportion."""
        return round(float(np.interp(score, self.unsafe, REFERENCE_LEVELS)), 4)


@dataclass(frozen=True)
class MarginRecord:
    """The margin of refusing that `formula="influence"` was fitted on, and how well its direction was found.

    Attributes:
        prompts: where the harmful requests come from.
        digest: sha256 over their texts.
        asked, refused: how many there are, and how many of them the model refuses.
        openings: the first tokens of its refusals, as text.
        value: the margin: log-odds that an answer begins with one of them, averaged over the requests.
        slope: the norm of the margin's gradient.
        covered: the share (0 to 1) of the blocks' weights that it is a gradient of: experts in one tensor are left out.
        rank: the rank of the direction in each matrix.
        energy: the share of the gradient's squared norm that this rank keeps.
        agreement: Spearman's correlation of sample rows' scores along the direction and along the whole gradient.
        halves: the same of the scores along the gradients over every second request and over the others: what no score
            can be expected to exceed.
        rows: how many sample rows these two were measured on.
        step: how far the weights are moved.
        step_gap: how much the next longer step changes the scores, in standard deviations of the scores.
    """

    prompts: str
    digest: str
    asked: int
    refused: int
    openings: tuple[str, ...]
    value: float
    slope: float
    covered: float
    rank: int
    energy: float
    agreement: float
    halves: float
    rows: int
    step: float
    step_gap: float

    @property
    def findings(self) -> list[str]:
        """What a user should know before trusting the score, one sentence each."""
        findings = []
        if self.agreement < LEAST_AGREEMENT:
            findings.append(f"rank {self.rank} agrees with the whole gradient only to {self.agreement:.2f}: raise rank")
        if self.halves < LEAST_OF_HALVES:
            findings.append(
                f"two halves of the requests agree only to {self.halves:.2f}: take more requests, or ones that the "
                "model refuses"
            )
        if self.covered < LEAST_COVERED:
            findings.append(
                f"the direction covers {self.covered:.0%} of the blocks' weights: those of experts are stored in one "
                "tensor each, and are left out"
            )
        if abs(self.value) > SATURATED:
            findings.append(
                f"the margin is {self.value:+.1f}: refusing is so certain that its slope says little of what a whole "
                "training would do"
            )
        return findings


@dataclass(frozen=True)
class OtherModel:
    """The second model of `formula="loss_gap"`: its name, and the commit (or digest) of its weights."""

    model: str
    version: str


def records_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The records in a scorer's JSON, by name; None for those that its formula does not have.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: they are of another shape, or do not suit the formula.
    """
    margin, other = values.get("margin"), values.get("other")
    for name, formula, record in (("margin", "influence", margin), ("other model", "loss_gap", other)):
        if (values["formula"] == formula) != (record is not None):
            raise ValueError(f"formula {values['formula']!r} with{'out' if record is None else ''} a record of {name}")
    if margin is not None or other is not None:
        return {
            **dict.fromkeys(("references", "separation", "quantiles")),
            "margin": margin and MarginRecord(**{**margin, "openings": tuple(margin["openings"])}),
            "other": other and OtherModel(**other),
        }
    references, quantiles = values["references"], values["quantiles"]
    return {
        "references": ReferencesRecord(**{**references, "findings": tuple(references["findings"])}),
        "separation": Separation(**values["separation"]),
        "quantiles": ReferenceQuantiles(**{side: _quantiles(points) for side, points in quantiles.items()}),
    }


def _quantiles(values: Sequence[float]) -> tuple[float, ...]:
    if len(values) != len(REFERENCE_LEVELS):
        raise ValueError(f"{len(values)} quantiles of the references, not {len(REFERENCE_LEVELS)}")
    return tuple(map(float, values))
