"""The result of a pass over a dataset: counts, quantiles and the highest rows; for a run, also what it was made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from ..errors import DataError, one_line
from ..inert import html_table
from ..json_fields import parse_json
from ..rows.score_columns import PREFIX
from ..scoring.excerpts import Excerpt, signed
from ..scoring.records import ReferenceQuantiles
from ..typed_records import record_of
from .field_checks import check_summary_fields
from .filtering import FilterRecord
from .thresholds import Threshold


@dataclass(frozen=True)
class OutcomeCounts:
    """How many rows were kept, removed, and set apart as unscorable."""

    kept: int = 0
    removed: int = 0
    unscorable: int = 0

    @property
    def total(self) -> int:
        return self.kept + self.removed + self.unscorable

    def __add__(self, other: OutcomeCounts) -> OutcomeCounts:
        """The counts of both together.

        >>> OutcomeCounts(kept=2) + OutcomeCounts(kept=1, removed=3)
        OutcomeCounts(kept=3, removed=3, unscorable=0)
        """
        return OutcomeCounts(self.kept + other.kept, self.removed + other.removed, self.unscorable + other.unscorable)


@dataclass(frozen=True)
class SourceRecord:
    """The dataset of a run: its name, rows, into how many shards it is divided, and the digest of their content."""

    name: str
    rows: int
    shards: int
    digest: str


@dataclass(frozen=True)
class ScorerRecord:
    """The scorer of a run: its directory below the run directory, and the digest of all that it was fitted from."""

    directory: str
    digest: str


@dataclass(frozen=True)
class ExecutorRecord:
    """Which of datatrove's executors ran a run's stages, and how many tasks shared the shards."""

    kind: str
    tasks: int


@dataclass(frozen=True)
class PlannedRun:
    """What is known of a run when it starts.

    Attributes:
        scored: the directory of scored shards, below the run directory.
        format: the row format, as the recipe names it.
        digest: a digest of everything that decides the result: a run with an equal one has nothing left to do.
        started: UTC, as 2025-01-31T12-30-00Z.
    """

    source: SourceRecord
    scorer: ScorerRecord
    scored: str
    format: str
    executor: ExecutorRecord
    digest: str
    started: str


@dataclass(frozen=True)
class RunRecord(PlannedRun):
    """What a finished run was made of.

    Attributes:
        model, version, layers, formula, dtype: the scorer's; see `ScorerSpec`.
        finished: UTC, as 2025-01-31T12:30:00Z.
    """

    model: str
    version: str
    layers: tuple[int, ...]
    formula: str
    dtype: str
    finished: str


@dataclass(frozen=True)
class Fault:
    """The first row that could not be scored for one reason.

    Attributes:
        issue: the reason, a value of `larf_issue`.
        row: its number in the source, from 0.
        detail: the column or turn at fault and what it holds; empty where that is not known.
        place: see `Excerpt`.
    """

    issue: str
    row: int
    detail: str = ""
    place: str = ""

    def __str__(self) -> str:
        return f"{self.issue}: first in row {self.place or self.row}" + (f", {self.detail}" if self.detail else "")


@dataclass(frozen=True, repr=False)
class Summary:
    """The result of a pass over a dataset.

    Attributes:
        rows, scored: how many there were, and how many have a score.
        issues: rows by the value of `larf_issue`.
        faults: the first row of each of these, but for `truncated`.
        filtered: of `larf-curate filter`, what it was asked for.
        references: quantiles of the scores of the scorer's references; None where the scorer is not known.
        quantiles: the quantiles of the scores, by their name (see `scoring.quantile_levels`); empty where no row has
            one.
        highest: the ten rows with the highest scores, from the highest down.
        outcomes: rows kept, removed and unscorable; None where nothing was split.
        threshold: the fitted one; None where nothing was split.
        execution: how the model ran, where this pass ran it: precision, device, batch size, shortcuts.
        run: what a recipe's run was made of; None for other passes.
        prefix: what the names of the columns begin with that hold these scores.

    >>> Summary(rows=3, scored=2, outcomes=OutcomeCounts(kept=1, removed=1, unscorable=1), quantiles={"median": 0.25})
    Summary(3 rows, 2 scored: 1 kept, 1 removed, 1 unscorable; median score +0.2500)
    """

    rows: int = 0
    scored: int = 0
    issues: Mapping[str, int] = field(default_factory=dict)
    quantiles: Mapping[str, float] = field(default_factory=dict)
    highest: tuple[Excerpt, ...] = ()
    outcomes: OutcomeCounts | None = None
    threshold: Threshold | None = None
    execution: str = ""
    run: RunRecord | None = None
    faults: tuple[Fault, ...] = ()
    references: ReferenceQuantiles | None = None
    filtered: FilterRecord | None = None
    prefix: str = PREFIX

    @property
    def complaint(self) -> str:
        """One line where most rows have no score, that says why; empty where most have one.

        >>> Summary(rows=3, scored=0, faults=(Fault("wrong_type", 0, "column 'a'"),)).complaint
        "3 of 3 rows have no score (wrong_type: first in row 0, column 'a')"
        """
        lost = self.rows - self.scored
        if 2 * lost <= self.rows:
            return ""
        return (
            f"{lost:,} of {self.rows:,} rows have no score ({'; '.join(map(str, self.faults)) or 'nothing says why'})"
        )

    def __repr__(self) -> str:
        text = f"{self.rows:,} rows, {self.scored:,} scored"
        if self.outcomes is not None:
            text += ": " + ", ".join(f"{count:,} {outcome}" for outcome, count in asdict(self.outcomes).items())
        if "median" in self.quantiles:
            text += f"; median score {signed(self.quantiles['median'], 4)}"
        return f"Summary({text})"

    def _repr_html_(self) -> str:
        rows = [[signed(row.score), row.where, row.prompt, row.answer] for row in self.highest]
        return html_table(f"{self!r}; highest scores", ("score", "row", "asked", "answered"), rows, 240)

    def to_json(self) -> str:
        """One JSON object, as `larf_summary.json` holds it."""
        values: dict[str, object] = {
            "rows": self.rows,
            "scored": self.scored,
            **(asdict(self.outcomes) if self.outcomes else {}),
            "issues": dict(sorted(self.issues.items())),
            **({"faults": [_fields(fault) for fault in self.faults]} if self.faults else {}),
            "score_quantiles": dict(self.quantiles),
            "threshold": json.loads(self.threshold.to_json()) if self.threshold else None,
            "highest": [
                {
                    "score": row.score,
                    "row": row.row,
                    **({"place": row.place} if row.place else {}),
                    "prompt": row.prompt,
                    "answer": row.answer,
                }
                for row in self.highest
            ],
        }
        if self.execution:
            values["how"] = self.execution
        if self.references is not None:
            values["references"] = asdict(self.references)
        if self.run is not None:
            values["run"] = asdict(self.run)
        if self.filtered is not None:
            values["filtered"] = asdict(self.filtered)
        if self.prefix != PREFIX:
            values["prefix"] = self.prefix
        return json.dumps(values, indent=2, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Summary:
        """Read what `to_json` wrote.

        Raises:
            DataError: it is something else.
        """
        try:
            values = parse_json(text)
            check_summary_fields(values)
            outcomes = {name: values[name] for name in ("kept", "removed", "unscorable") if name in values}
            threshold = values["threshold"] and Threshold.from_json(json.dumps(values["threshold"]))
            summary = record_of(
                cls,
                {
                    "rows": values["rows"],
                    "scored": values["scored"],
                    "issues": values["issues"],
                    "faults": values.get("faults", ()),
                    "quantiles": values["score_quantiles"],
                    "highest": values["highest"],
                    "outcomes": outcomes or None,
                    "threshold": threshold,
                    "execution": values.get("how", ""),
                    "run": values.get("run"),
                    "references": values.get("references"),
                    "filtered": values.get("filtered"),
                    "prefix": values.get("prefix", PREFIX),
                },
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"not the summary of a run: {one_line(error)}") from error
        return summary


def _fields(fault: Fault) -> dict[str, object]:
    """As JSON has them: a place only where the row's number does not say it all."""
    return {name: value for name, value in asdict(fault).items() if value or name != "place"}
