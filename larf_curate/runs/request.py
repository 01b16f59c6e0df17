"""What a run is asked to do, and the digests by which it finds again what an earlier run has done."""

from __future__ import annotations

import hashlib
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from ..answering.prompts import choose_prompts
from ..deciding.thresholds import Threshold
from ..digests import digest_of
from ..models.chat_templates import template_text
from ..models.locating import locate
from ..models.options import OPTIONS, RunOptions
from ..rows.reading import READING_VERSION
from ..scoring.artifact import read_config
from ..scoring.formula_names import Turns
from ..scoring.formulas import VERSION
from ..scoring.references import choose_references
from ..scoring.spec import FORMAT_VERSION
from ..scoring.weights import WeightRange
from ..sources.tables import Source
from ..validation.run_settings import RunValidation
from .executor_request import ExecutorRequest
from .shards import Plan

_SCORES_ALIKE = {option.name for option in OPTIONS.values() if not option.about.changes_scores}
_NOT_DECISIVE = {"references", "unsafe", "safe", "prompts", *(_SCORES_ALIKE - {"device"})}
"""Arguments of `LARFScorer.fit` that its digest leaves out. Pairs and prompts have digests of their own; the device
stays, since it decides the precision where dtype is auto."""


@dataclass(frozen=True)
class RunRequest:
    """All that a run is made of.

    Attributes:
        source: the rows.
        shard_rows: see `plan_shards`.
        format: the row format.
        fit: arguments of `LARFScorer.fit`; None where `scorer` names a fitted one.
        scorer: directory or Hub id of a fitted scorer, at `revision` on the Hub.
        options: see `RunOptions`.
        threshold: what is removed. One that is `calibrated` without harmless scores takes the scorer's own.
        executor: what runs the stages.
        home: the run directory.
        recipe: the resolved recipe, as text.
        turns: which assistant turns are scored; None as the scorer has it.
        spans: whether rows get `larf_spans`; None as the scorer has it.
        weight: the scores between which training weights fall; None for no weights.
        per_split: whether the threshold is fitted to each split by itself.
        validation: how the results are validated; None where they are not.
    """

    source: Source
    shard_rows: int | None
    format: str
    fit: dict[str, Any] | None
    scorer: str | None
    revision: str | None
    options: RunOptions
    threshold: Threshold
    executor: ExecutorRequest
    home: Path
    recipe: str
    turns: Turns | None = None
    spans: bool | None = None
    weight: WeightRange | None = None
    per_split: bool = False
    validation: RunValidation | None = None

    @property
    def directory(self) -> Path:
        """The run directory as an absolute path."""
        return self.home.expanduser().resolve()

    def scorer_digest(self) -> str:
        """Of everything that a scorer's scores depend on; known before it is fitted.

        Raises:
            LarfError: the scorer, its references or its model cannot be found.
        """
        digest = self._digest_as_fitted()
        changes = [self.turns, self.spans]
        return digest if changes == [None, None] else digest_of([digest, *changes])[:16]

    def _digest_as_fitted(self) -> str:
        if self.fit is None:
            assert self.scorer is not None
            return hashlib.sha256(read_config(self.scorer, self.revision)).hexdigest()[:16]
        if self.fit.get("formula") == "influence":
            fitted_on = choose_prompts(self.fit.get("prompts")).digest
        elif self.fit.get("other"):
            fitted_on = locate(self.fit["other"], None).version
        else:
            fitted_on = choose_references(*(self.fit.get(name) for name in ("references", "unsafe", "safe"))).digest
        decisive = {name: value for name, value in self.fit.items() if name not in _NOT_DECISIVE}
        template = template_text(self.fit.get("chat_template"))
        version = locate(self.fit["model"], self.fit.get("revision"), self.fit.get("base")).version
        # A scorer that can no longer be read is fitted anew, under another name.
        versions = [VERSION, FORMAT_VERSION, READING_VERSION]
        return digest_of([decisive, template, version, fitted_on, *versions])[:16]

    def scored_directory(self, scorer_digest: str) -> Path:
        """Where the scored shards are: a directory named after everything that affects scores."""
        affects = {
            "scorer": scorer_digest,
            "dtype": self.options.get("dtype"),
            "format": self.format,
            "rows": READING_VERSION,
        }
        return self.directory / "scored" / digest_of(affects)[:16]

    def result_digest(self, scorer_digest: str, plan: Plan) -> str:
        """Of everything that decides which rows are kept, with what weight, and what is said of where they were.

        Equal ones leave nothing to do.
        """
        rule = self.threshold
        harmless = rule.value if rule.rule == "calibrated" else None
        weight = None if self.weight is None else [self.weight.lower, self.weight.upper]
        decisive = [rule.rule, rule.amount, harmless, rule.unscorable, weight, self.per_split]
        parts = astuple(plan.source.parts)
        return digest_of([self.scored_directory(scorer_digest).name, plan.digest, decisive, parts])[:16]
