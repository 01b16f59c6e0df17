"""All of a fitted scorer that is not an array, and its JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args

import numpy as np

from ..errors import ScorerError
from ..json_fields import parse_json
from ..models.demo import NAME as DEMO
from ..models.locating import commit_of
from ..models.options import EncodingOptions, ModelOptions, RunOptions
from ..rows.conversions import SEPARATOR
from .artifact_checks import check_spec_fields
from .formulas import VERSION, Formula
from .layer_search.profile import LayerProfile
from .quantile_levels import REFERENCE_LEVELS

FORMAT_VERSION = 2


@dataclass(frozen=True)
class ReferencesRecord:
    """Which reference pairs a scorer was fitted on.

    Attributes:
        name: where they come from.
        digest: sha256 over their texts.
        pairs, held_back: how many it was fitted on, and how many were held back.
        figures: of the linter (`LintReport.figures`).
        findings: of the linter, one sentence each.
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
class ScorerSpec(EncodingOptions):
    """All of a fitted scorer that is not an array.

    It keeps the `EncodingOptions` that it was fitted with: dtype, max_tokens, overflow, chat_template.

    Attributes:
        model, version: the model's name, and the commit (or digest) of its weights.
        layers: the blocks that are read.
        blocks, hidden_size: of the model.
        formula, formula_version, top_k, rank: how states become a score.
        template_digest: sha256 of the chat template that was used, the user's own or the tokenizer's.
        references: what it was fitted on.
        separation: how well it tells apart what it was not fitted on.
        quantiles: of the scores of the references.
        packages: versions of the libraries it was fitted with, by name.
        search: the search that found the layer, without its decisions; None where the layer was given.
        join: what stands between a request and its input in the rows it scores; see `rows.reading.Reading`.
        format_version: of the files.
    """

    model: str
    version: str
    layers: tuple[int, ...]
    blocks: int
    hidden_size: int
    formula: Formula
    top_k: int | None
    rank: int
    template_digest: str
    references: ReferencesRecord
    separation: Separation
    quantiles: ReferenceQuantiles
    packages: Mapping[str, str]
    search: LayerProfile | None = None
    join: str = SEPARATOR
    formula_version: int = VERSION
    format_version: int = FORMAT_VERSION

    @property
    def commit(self) -> str | None:
        """The Hub's commit of the model, or of the adapter if there is one; None where `version` is a local digest."""
        return commit_of(self.version) if self.model != DEMO else None

    def model_options(self, run: RunOptions) -> ModelOptions:
        """How to load the model again: as it was fitted, but for the options that are given now."""
        kept = {option.name: getattr(self, option.name) for option in fields(EncodingOptions)}
        moved = "model" in run
        where = {"model": self.model, "revision": None if moved else self.commit}
        return ModelOptions(**{**kept, **where, **run})

    def summary(self) -> str:
        """A few lines: model, layers, formula, separation, and what the linter says of the references."""
        layers = ", ".join(map(str, self.layers))
        lines = [
            f"{self.model} ({self.version[:24]}), layer {layers} of 0..{self.blocks - 1}, formula {self.formula}"
            + (f", top_k {self.top_k}" if self.top_k else ""),
            f"references: {self.references.name}, {self.references.pairs} pairs fitted",
            f"separation of unseen pairs: {self.separation}",
        ]
        if self.search is not None:
            lines.insert(1, f"layer found by search: {self.search.verdict()}")
        return "\n".join(lines + [f"linter: {finding}" for finding in self.references.findings])

    def to_json(self) -> str:
        values = asdict(self)
        if self.search is not None:
            values["search"] = self.search.without_decisions()
        return json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False)

    def json_fields(self) -> dict[str, Any]:
        """What `to_json` writes, as JSON holds it: mappings, lists, strings and numbers."""
        values: dict[str, Any] = json.loads(self.to_json())
        return values

    @classmethod
    def from_json(cls, text: str, where: str) -> ScorerSpec:
        """Read what `to_json` wrote; `where` names it in errors.

        Raises:
            ScorerError: it is something else, or of another version.
        """
        try:
            values = parse_json(text)
            if values["format_version"] != FORMAT_VERSION or values["formula_version"] != VERSION:
                raise ScorerError(
                    f"{where} was written by another version (format {values['format_version']}, formula "
                    f"{values['formula_version']}; this one reads {FORMAT_VERSION} and {VERSION}): fit it again"
                )
            # Fields that came later: scorers from before have their default. A default in place of any other might not
            # be what the scorer was fitted with.
            later = {"search", "join"}
            if missing := {field.name for field in fields(cls)} - later - set(values):
                raise KeyError(", ".join(sorted(missing)))
            check_spec_fields(values)
            if values["formula"] not in get_args(Formula):
                raise ValueError(f"formula is {values['formula']!r}")
            references, quantiles = values["references"], values["quantiles"]
            search = values.get("search")
            typed = {
                "layers": tuple(map(int, values["layers"])),
                "references": ReferencesRecord(**{**references, "findings": tuple(references["findings"])}),
                "separation": Separation(**values["separation"]),
                "quantiles": ReferenceQuantiles(**{side: _quantiles(values) for side, values in quantiles.items()}),
                "search": None if search is None else LayerProfile.of(search),
            }
            return cls(**{**values, **typed})
        except ScorerError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ScorerError(f"{where} is not a fitted scorer: {error}") from error


def _quantiles(values: Sequence[float]) -> tuple[float, ...]:
    if len(values) != len(REFERENCE_LEVELS):
        raise ValueError(f"{len(values)} quantiles of the references, not {len(REFERENCE_LEVELS)}")
    return tuple(map(float, values))
