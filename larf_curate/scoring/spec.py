"""All of a fitted scorer that is not an array, and its JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, get_args

from ..errors import ModelError, ScorerError
from ..json_fields import parse_json
from ..models.demo import ALIGNED
from ..models.demo import NAME as DEMO
from ..models.locating import base_of, commit_of
from ..models.options import EncodingOptions, ModelOptions, RunOptions
from ..rows.conversions import SEPARATOR
from ..rows.reading import READING_VERSION, check_join
from .artifact_checks import check_spec_fields
from .columns import ScoreColumns
from .formula_names import Formula, Turns
from .formulas import VERSION
from .layer_search.profile import LayerProfile
from .records import MarginRecord, OtherModel, ReferenceQuantiles, ReferencesRecord, Separation, records_of
from .weights import WeightRange

FORMAT_VERSION = 2


@dataclass(frozen=True)
class ScorerSpec(EncodingOptions):
    """All of a fitted scorer that is not an array.

    It keeps the `EncodingOptions` that it was fitted with: dtype, max_tokens, overflow, chat_template.

    Attributes:
        model, version: the model's name, and the commit (or digest) of its weights.
        layers: the blocks that are read; none for `influence`, which needs the whole model.
        blocks, hidden_size: how many blocks the model has, and how many numbers a state.
        formula, formula_version, top_k, rank: how states become a score.
        template_digest: sha256 of the chat template that was used, the user's own or the tokenizer's.
        references: what it was fitted on; None for `influence`.
        separation: how well it tells apart what it was not fitted on; None likewise.
        quantiles: the quantiles of the scores of the references; None likewise.
        margin: what `influence` was fitted on; None for the others.
        other: the second model of `loss_gap`; None for the others.
        packages: versions of the libraries it was fitted with, by name.
        search: the search that found the layer, without its decisions; None where the layer was given.
        join: what stands between a request and its input in the rows it scores; see `rows.reading.Reading`.
        turns: see `formula_names.Turns`; `influence` reads all of them by nature.
        spans: whether it says which characters do most of the damage; for `influence` alone.
        weight: the scores between which training weights fall; None where none are asked for.
        reading_version: the version of the rules by which rows became conversations when it was fitted; see
            `rows.reading`.
        format_version: the version of the files.
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
    packages: Mapping[str, str]
    references: ReferencesRecord | None = None
    separation: Separation | None = None
    quantiles: ReferenceQuantiles | None = None
    margin: MarginRecord | None = None
    other: OtherModel | None = None
    search: LayerProfile | None = None
    join: str = SEPARATOR
    turns: Turns = "last"
    spans: bool = False
    weight: WeightRange | None = None
    reading_version: int = READING_VERSION
    formula_version: int = VERSION
    format_version: int = FORMAT_VERSION

    def changed(
        self,
        *,
        join: str | None = None,
        turns: Turns | None = None,
        spans: bool | None = None,
        weight: WeightRange | Iterable[float] | None = None,
    ) -> ScorerSpec:
        """A copy that reads rows in another way, or gives other columns; None leaves a thing as it is.

        Args:
            join, turns, spans: see the attributes.
            weight: the range, or its lower and upper score.

        Raises:
            RowFormatError: `join` is a template without the request.
            ModelError: `turns` is neither `last` nor `all`, or `turns` or `spans` does not suit the formula.
            ThresholdError: `weight` is no such pair.
        """
        if turns is not None and turns not in get_args(Turns):
            raise ModelError(f"turns is last or all, not {turns!r}")
        if turns == "all" and not self.layers:
            raise ModelError(f"turns does not belong to formula {self.formula}: it reads every turn that is trained")
        if spans and self.formula != "influence":
            raise ModelError(f"spans belongs to formula influence: {self.formula} has no score for single tokens")
        return replace(
            self,
            join=self.join if join is None else check_join(join),
            turns=turns or self.turns,
            spans=self.spans if spans is None else bool(spans),
            weight=self.weight if weight is None else WeightRange.of(weight),
        )

    @property
    def commit(self) -> str | None:
        """The Hub's commit of the model, or of the adapter if there is one; None where `version` is a local digest."""
        return commit_of(self.version) if self.model != DEMO else None

    def model_options(self, run: RunOptions) -> ModelOptions:
        """How to load the model again: as it was fitted, but for the options that are given now."""
        kept = {option.name: getattr(self, option.name) for option in fields(EncodingOptions)}
        moved = "model" in run
        where = {
            "model": self.model,
            "revision": None if moved else self.commit,
            "base": None if moved or self.model in (DEMO, ALIGNED) else base_of(self.version),
        }
        return ModelOptions(**{**kept, **where, **run})

    def other_options(self, run: RunOptions) -> ModelOptions:
        """How to load the second model of `loss_gap`: as the first, but for where it is; `base` is of adapters."""
        assert self.other is not None
        base = base_of(self.other.version) if self.other.model != ALIGNED else None
        if "+" in self.other.version:
            base = run.get("base") or base
        first = self.model_options(run)
        return replace(first, model=self.other.model, revision=commit_of(self.other.version), base=base)

    @property
    def what_longer_rows_are(self) -> str:
        """What becomes of rows with more than `max_tokens` tokens, for the cards."""
        return "longer ones are cut in the middle" if self.overflow == "truncate" else "longer ones have no score"

    def summary(self) -> str:
        """A few lines: model, layers, formula, separation, and what the linter says of the references."""
        where = f", layer {', '.join(map(str, self.layers))} of 0..{self.blocks - 1}" if self.layers else ""
        top = f", top_k {self.top_k}" if self.top_k else ""
        lines = [f"model: {self.model} ({self.version[:24]}){where}, formula {self.formula}{top}"]
        if self.search is not None:
            lines.append(f"layer found by search: {self.search.verdict()}")
        if self.references is not None:
            lines.append(f"references: {self.references.name}, {self.references.pairs} pairs fitted")
        if self.separation is not None:
            lines.append(f"separation of unseen pairs: {self.separation}")
            lines += filter(None, [self.separation.warning])
        lines += [f"{name}: {value}" for name, value in self.loss_facts()]
        return "\n".join(lines + [f"linter: {finding}" for finding in self.findings])

    @property
    def findings(self) -> tuple[str, ...]:
        """What is to be known before the score is trusted, one sentence each."""
        of_margin = () if self.margin is None else self.margin.findings
        return (*(() if self.references is None else self.references.findings), *of_margin)

    def reference_facts(self) -> list[tuple[str, str]]:
        """What `larf` and `subspace` were fitted on, as names and values; none for another formula."""
        if self.references is None or self.separation is None:
            return []
        name = re.split(r"[/\\]", self.references.name)[-1]  # a directory's name is private
        return [
            ("references", f"{name}: {self.references.pairs:,} pairs, digest {self.references.digest[:16]}"),
            ("separation of pairs it was not fitted on", str(self.separation)),
        ]

    def loss_facts(self) -> list[tuple[str, str]]:
        """What a formula over losses was fitted on, as names and values; none for a formula over states."""
        if self.other is not None:
            return [("second model", f"{self.other.model} ({self.other.version[:24]})")]
        m = self.margin
        if m is None:
            return []
        openings = ", ".join(repr(text) for text in m.openings)
        direction = (
            f"rank {m.rank} keeps {m.energy:.1%} of the gradient; scores agree with the whole one to "
            f"{m.agreement:.3f}, two halves of the requests to {m.halves:.2f} (rank correlation, {m.rows} rows)"
        )
        return [
            ("harmful requests", f"{m.prompts}, {m.refused} of {m.asked} refused; refusals begin with {openings}"),
            ("margin of refusing", f"{m.value:+.2f} log-odds, averaged over the requests"),
            ("direction", direction),
        ]

    @property
    def kinds(self) -> ScoreColumns:
        """The columns that this scorer adds."""
        return ScoreColumns(
            self.layers,
            summed=self.formula in ("influence", "loss_gap"),
            turn=self.turns == "all",
            spans=self.spans,
            weight=self.weight,
        )

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
            values.setdefault("reading_version", 2)  # the last one of which artifacts did not speak
            later = {"search", "join", "margin", "other", "turns", "spans", "weight"}
            if missing := {field.name for field in fields(cls)} - later - set(values):
                raise KeyError(", ".join(sorted(missing)))
            if values["reading_version"] != READING_VERSION:
                raise ScorerError(
                    f"{where} was fitted by a version that read rows in another way (reading "
                    f"{values['reading_version']}; this one {READING_VERSION}): fit it again"
                )
            check_spec_fields(values)
            if values["formula"] not in get_args(Formula):
                raise ValueError(f"formula is {values['formula']!r}")
            if values.get("turns", "last") not in get_args(Turns):
                raise ValueError(f"turns is {values['turns']!r}")
            if values.get("spans", False) not in (True, False):
                raise ValueError(f"spans is {values['spans']!r}")
            records = records_of(values)
            search, weight = values.get("search"), values.get("weight")
            typed = {
                "layers": tuple(map(int, values["layers"])),
                "search": None if search is None else LayerProfile.of(search),
                "weight": None if weight is None else WeightRange(**weight),
                **records,
            }
            return cls(**{**values, **typed})
        except ScorerError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ScorerError(f"{where} is not a fitted scorer: {error}") from error
