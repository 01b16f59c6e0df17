"""The report: everything that is known of a run, as typed records, and the JSON file that machines read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from ..deciding.layout import without_directories
from ..deciding.summary import OutcomeCounts, SourceRecord
from ..deciding.thresholds import Threshold
from ..errors import DataError, LarfError, one_line
from ..json_fields import parse_json
from ..rows.score_columns import PREFIX, ColumnNames
from ..scoring.public_names import public_id, public_spec
from ..scoring.quantile_levels import GROUP_LEVELS
from ..scoring.spec import ScorerSpec
from ..scoring.statistics import Estimate
from ..typed_records import record_of
from ..validation.audit_result import Audit
from ..validation.results import Validation
from .report_checks import check_report_fields

REPORT = "report.json"  # the name of its file
VERSION = 1
_TEMPLATE = "chat_template"


@dataclass(frozen=True)
class RowCounts(OutcomeCounts):
    """Rows by outcome, and how many of them have a score."""

    scored: int = 0

    @property
    def unscored(self) -> int:
        return self.total - self.scored


@dataclass(frozen=True)
class ReportedSource(SourceRecord):
    """The dataset of a run.

    Attributes:
        format: the row format it was read in; None if no format fits its columns.
        reading: which columns were read and which were not; empty where every text was read.
    """

    format: str | None = None
    reading: str = ""


@dataclass(frozen=True)
class Histogram:
    """How many rows score in each bin, by outcome.

    Attributes:
        edges: [bins + 1], ascending; a bin holds the scores above its lower edge, up to and with its upper one.
        kept, removed, unscorable: [bins], rows.
    """

    edges: tuple[float, ...]
    kept: tuple[int, ...]
    removed: tuple[int, ...]
    unscorable: tuple[int, ...]


@dataclass(frozen=True)
class ConversationFigures:
    """What the scored conversations look like.

    Attributes:
        lists, refusals: share of rows (0 to 1) whose answer is a list, or refuses or hedges by its wording.
        system, tools, several_turns: share of rows with a system turn, with tools, with several turns.
        median_characters: the median length of the answers, in characters.
    """

    lists: float
    refusals: float
    system: float
    tools: float
    several_turns: float
    median_characters: float


@dataclass(frozen=True)
class Group:
    """The rows with one value in one column.

    Attributes:
        column: its name.
        value: None for null.
        rows: how many, by outcome.
        quantiles: the quantiles of the scores at `GROUP_LEVELS`, to a thousandth of the range of all scores; None if no
            row has one.
    """

    column: str
    value: str | None
    rows: OutcomeCounts
    quantiles: tuple[float, ...] | None

    @property
    def median(self) -> float | None:
        return self.quantiles[GROUP_LEVELS.index("median")] if self.quantiles else None

    @property
    def share_removed(self) -> float:
        """0 to 1."""
        return self.rows.removed / self.rows.total


@dataclass(frozen=True)
class Confounds:
    """What the score is correlated with in these rows; None for a figure that too few rows leave open.

    Attributes:
        score_and_characters, score_and_lists: Spearman's rank correlation of the score with the length of the answer in
            characters, and with the answer being a list.
        removed_to_kept_characters, removed_to_kept_tokens: ratio of geometric means, of removed rows to kept ones: of
            the answer's characters, and of the conversation's tokens.
        removed_less_kept_lists, removed_less_kept_refusals: share of rows (0 to 1) among removed ones less that among
            kept ones: of answers that are lists, and of answers that refuse or hedge.
    """

    score_and_characters: Estimate | None = None
    score_and_lists: Estimate | None = None
    removed_to_kept_characters: Estimate | None = None
    removed_to_kept_tokens: Estimate | None = None
    removed_less_kept_lists: Estimate | None = None
    removed_less_kept_refusals: Estimate | None = None


@dataclass(frozen=True)
class SampleSize:
    """How many kept and removed rows were read for the figures that take reading texts."""

    kept: int
    removed: int

    @property
    def total(self) -> int:
        return self.kept + self.removed


@dataclass(frozen=True)
class Points:
    """Rows in the plot of score against length: `score` [n] and `characters` of the answer [n]."""

    score: tuple[float, ...] = ()
    characters: tuple[int, ...] = ()


@dataclass(frozen=True)
class LengthPoints:
    """Points of kept and of removed rows, evenly drawn from the sample."""

    kept: Points
    removed: Points


@dataclass(frozen=True)
class ReportedRun:
    """When a run was made, and what the report was made with.

    Attributes:
        packages: versions of installed packages at the time of the report, by name; None for one that runs from its
            sources.
        digest: a digest of everything that decides the result; None for `larf-curate filter`.
        started, finished: UTC, as 2025-01-31T12:30:00Z; None for `larf-curate filter`.
    """

    packages: Mapping[str, str | None]
    digest: str | None = None
    started: str | None = None
    finished: str | None = None


@dataclass(frozen=True, repr=False)
class Report:
    """The results of a run, and what its score is correlated with in these rows. It holds no row's text.

    Everything but `conversations`, `confounds` and `length_points` is exact and over all rows; these three take reading
    texts, and are measured on a sample of at most 50,000 kept and 50,000 removed rows, always the same ones.

    Attributes:
        rows: how many rows there are, by outcome, and how many have a score.
        issues: rows by the value of `larf_issue`.
        source: the dataset; None if only scored rows were at hand.
        scorer: the fitted scorer, without the text of its chat template, which the template's digest stands for; None
            if nothing says which it was.
        threshold: the fitted one.
        quantiles: the quantiles of the score, of the tokens and of each layer's score: by name of the column, then of
            the quantile (see `scoring.quantile_levels`); empty for a column without any number.
        histogram: the histogram of the scores; None if no row has one.
        conversations: what they look like; None if no format says how rows become conversations.
        groups: the same figures by group, column by column.
        confounds: what the score is correlated with; None like `conversations`.
        sample: rows read for these figures; None like `conversations`.
        length_points: the points of the plot of score against length; None like `conversations`.
        run: its digest and times; packages.
        audit: whether the score says which rows do damage, measured on a model; None where that was not asked.
        validation: what `larf-curate validate` found; None where it was not run.
        prefix: what the names of the score's columns begin with.
    """

    rows: RowCounts
    issues: Mapping[str, int]
    source: ReportedSource | None
    scorer: ScorerSpec | None
    threshold: Threshold
    quantiles: Mapping[str, Mapping[str, float]]
    histogram: Histogram | None
    conversations: ConversationFigures | None
    groups: tuple[Group, ...]
    confounds: Confounds | None
    sample: SampleSize | None
    length_points: LengthPoints | None
    run: ReportedRun
    audit: Audit | None = None
    validation: Validation | None = None
    prefix: str = PREFIX

    def __repr__(self) -> str:
        rows = self.rows
        counts = f"{rows.kept:,} kept, {rows.removed:,} removed, {rows.unscorable:,} unscorable"
        return f"Report({rows.total:,} rows: {counts})"

    @property
    def names(self) -> ColumnNames:
        """Of the score's columns."""
        return ColumnNames(self.prefix)

    @property
    def score_quantiles(self) -> Mapping[str, float]:
        """Of the score, by name; empty if no row has one."""
        return self.quantiles.get(self.names.score, {})

    def groups_by_column(self) -> dict[str, tuple[Group, ...]]:
        """The groups of each column, in the order of `groups`."""
        columns = dict.fromkeys(group.column for group in self.groups)
        return {column: tuple(group for group in self.groups if group.column == column) for column in columns}

    def without_directories(self) -> Report:
        """Fit to be published: with names of files in place of this machine's paths."""
        source, scorer = self.source, self.scorer
        if source is not None:
            source = replace(source, name=public_id(source.name))
        if scorer is not None:
            fields = without_directories(public_spec(scorer).json_fields())
            scorer = ScorerSpec.from_json(json.dumps(fields), "the report's scorer")
        audit = self.audit and self.audit.without_directories()
        validation = self.validation and self.validation.without_directories()
        return replace(self, source=source, scorer=scorer, audit=audit, validation=validation)

    def to_json(self) -> str:
        """Equal reports give equal text."""
        rows, run = self.rows, self.run
        scorer = self.scorer.json_fields() if self.scorer else None
        counts = {"kept": rows.kept, "removed": rows.removed, "unscorable": rows.unscorable}
        times = {"digest": run.digest, "started": run.started, "finished": run.finished}
        values: dict[str, object] = {
            "report_version": VERSION,
            "rows": {"rows": rows.total, "scored": rows.scored, **counts},
            "issues": dict(self.issues),
            "source": asdict(self.source) if self.source else None,
            "scorer": scorer and {key: value for key, value in scorer.items() if key != _TEMPLATE},
            "threshold": json.loads(self.threshold.to_json()),
            "quantiles": {column: dict(points) for column, points in self.quantiles.items()},
            "histogram": asdict(self.histogram) if self.histogram else {},
            "form": asdict(self.conversations) if self.conversations else None,
            "groups": [asdict(group) for group in self.groups],
            "confounds": asdict(self.confounds) if self.confounds else None,
            "sample": asdict(self.sample) if self.sample else {},
            "dots": asdict(self.length_points) if self.length_points else {},
            "audit": asdict(self.audit) if self.audit else None,
            **({"validation": json.loads(self.validation.to_json())} if self.validation else {}),
            **({"prefix": self.prefix} if self.prefix != PREFIX else {}),
            "run": {**{name: value for name, value in times.items() if value}, "packages": dict(run.packages)},
        }
        return json.dumps(values, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Read what `to_json` wrote.

        Raises:
            DataError: it is something else, or of another version.
        """
        try:
            values = parse_json(text)
            version = values["report_version"]
            if version == VERSION:
                check_report_fields(values)
                scorer = values["scorer"] and json.dumps({_TEMPLATE: None, **values["scorer"]})
                return record_of(
                    cls,
                    {
                        "rows": values["rows"],
                        "issues": values["issues"],
                        "source": values["source"],
                        "scorer": scorer and ScorerSpec.from_json(scorer, "the report's scorer"),
                        "threshold": Threshold.from_json(json.dumps(values["threshold"])),
                        "quantiles": values["quantiles"],
                        "histogram": values["histogram"] or None,
                        "conversations": values["form"],
                        "groups": values["groups"],
                        "confounds": values["confounds"],
                        "sample": values["sample"] or None,
                        "length_points": values["dots"] or None,
                        "run": values["run"],
                        "audit": values.get("audit"),
                        "validation": _validation(values.get("validation")),
                        "prefix": values.get("prefix", PREFIX),
                    },
                )
        except (LarfError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"not a report of larf-curate: {one_line(error)}") from error
        raise DataError(f"the report is of version {str(version)[:40]}; this one reads {VERSION}")


def _validation(values: object) -> Validation | None:
    return None if values is None else Validation.from_json(json.dumps(values))
