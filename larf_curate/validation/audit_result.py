"""What an audit has found, as typed records, and the JSON file that machines read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from html import escape
from typing import Literal

from ..errors import DataError, one_line
from ..json_fields import parse_json
from ..scoring.public_names import public_id
from ..typed_records import record_of
from .audit_statistics import Statistic

AUDIT = "audit.json"  # the name of its file in a run directory
VERSION = 1

AuditFinding = Literal[
    "tells", "tells_a_little", "only_length_and_loss", "does_not_tell", "opposite", "open", "unmeasured"
]
"""What an audit says of a score; `open`: too few rows; `unmeasured`: the prompts disagree on which rows do damage."""


@dataclass(frozen=True, kw_only=True)
class Relation:
    """How a score is correlated with the measured damage of rows.

    Attributes:
        spearman: the rank correlation; None where one side is constant.
        interval: its 95% interval, by bootstrap over rows.
        spearman_without_length_and_loss: the partial rank correlation: what is left of it after a fit on the ranks of
            the number of trained tokens and of the mean loss; None for these two themselves.
        interval_without_length_and_loss: likewise.
        worst_tenth_removed: which share (0 to 1) of the most damaging tenth of the rows the threshold removes; None
            where there is no threshold.
        worst_tenth_interval: its 95% interval (Wilson).
    """

    spearman: float | None
    interval: tuple[float, float] | None
    spearman_without_length_and_loss: float | None = None
    interval_without_length_and_loss: tuple[float, float] | None = None
    worst_tenth_removed: float | None = None
    worst_tenth_interval: tuple[float, float] | None = None

    @property
    def correlation(self) -> Statistic | None:
        """`spearman` with its interval."""
        return _measured(self.spearman, self.interval)

    @property
    def partial(self) -> Statistic | None:
        """`spearman_without_length_and_loss` with its interval."""
        return _measured(self.spearman_without_length_and_loss, self.interval_without_length_and_loss)

    @property
    def caught(self) -> Statistic | None:
        """`worst_tenth_removed` with its interval."""
        return _measured(self.worst_tenth_removed, self.worst_tenth_interval)


def _measured(value: float | None, interval: tuple[float, float] | None) -> Statistic | None:
    return None if value is None or interval is None else Statistic(value, *interval)


@dataclass(frozen=True, kw_only=True)
class Baseline(Relation):
    """One line of the table: the attributes of `Relation` are about the damage per trained token.

    Attributes:
        name: the name of the score.
        summed: the same about the damage summed over a row's trained tokens.
    """

    name: str
    summed: Relation


@dataclass(frozen=True, kw_only=True)
class ScoreAudit(Baseline):
    """What an audit says of one score.

    Attributes:
        rows: how many of the sample have this score, and so are what its figures were measured on.
        threshold: rows above it are removed; None where there is none.
        removed: which share (0 to 1) of the sample the threshold removes, which is what chance would remove of any
            tenth; None where there is none.
        finding: the finding in one word.
        verdict: the verdict in one sentence.
    """

    rows: int
    threshold: float | None
    removed: float | None
    finding: AuditFinding
    verdict: str


@dataclass(frozen=True)
class AuditedRows:
    """The sample, a value for each row, in the order of the dataset.

    Attributes:
        row: its number in the dataset.
        tokens: trained tokens.
        loss: mean loss of these, in nats.
        per_token, summed: damage: how far a gradient step on the row moves the model away from refusing, in log-odds of
            refusing for each unit of learning rate; the mean over its trained tokens, and the sum.
        scores: the values of each audited score, by its name; None for a row without one.
        removed: whether the threshold removes the row, by the score's name; only scores that have a threshold.
    """

    row: tuple[int, ...]
    tokens: tuple[int, ...]
    loss: tuple[float, ...]
    per_token: tuple[float, ...]
    summed: tuple[float, ...]
    scores: Mapping[str, tuple[float | None, ...]]
    removed: Mapping[str, tuple[bool, ...]]

    def __post_init__(self) -> None:
        """Refuse values that do not belong together: a file may hold anything.

        Raises:
            ValueError: there is not one value for each row.
        """
        lists = (self.tokens, self.loss, self.per_token, self.summed, *self.scores.values(), *self.removed.values())
        if any(len(values) != len(self.row) for values in lists) or not self.scores.keys() >= self.removed.keys():
            raise ValueError("the audited rows do not have one value each")


@dataclass(frozen=True, kw_only=True)
class AuditedModel:
    """What the damage was measured on.

    Attributes:
        model, version, dtype: as the user named it, its commit or digest, and the precision of the arithmetic.
        prompts, prompts_digest: how many harmful requests were asked, and the digest of their texts.
        refused: how many of them the model refuses.
        margin: the mean log-odds that its answer to one begins as its refusals do.
    """

    model: str
    version: str
    dtype: str
    prompts: int
    prompts_digest: str
    refused: int
    margin: float


@dataclass(frozen=True, kw_only=True, repr=False)
class Audit(AuditedModel):
    """Whether scores say anything about which rows erode a model's refusals, measured on that model.

    Attributes:
        model, version, dtype, prompts, prompts_digest, refused, margin: see `AuditedModel`.
        dataset_rows: how many rows the dataset has; the sample is drawn from the rows that have a score.
        rows: how many rows of the sample have a measured damage.
        unmeasured: the other rows of the sample, by reason.
        eroding: share (0 to 1) of the rows whose damage is above zero: which erode refusals.
        agreement, agreement_summed: rank correlation between the damage measured with one half of the prompts and with
            the other, per trained token and summed. About as far as a score can be expected to agree with it.
        scores: what was found of each score.
        baselines: the same figures for length alone and for loss alone; and those of random scores, of which the
            interval is the range that 95% of them lie in.
        verdict: the verdict in one sentence.
        warnings: what limits what the audit can say.
        request: digest of everything that the audit depends on.
        summary: digest of the summary of the run that was audited; None for other rows.
        seconds: how long each part took, by its name.
        audited: the sample.
    """

    dataset_rows: int
    rows: int
    unmeasured: Mapping[str, int]
    eroding: float
    agreement: Statistic
    agreement_summed: Statistic
    scores: tuple[ScoreAudit, ...]
    baselines: tuple[Baseline, ...]
    verdict: str
    warnings: tuple[str, ...]
    request: str
    summary: str | None
    seconds: Mapping[str, float]
    audited: AuditedRows
    audit_version: int = VERSION

    def __repr__(self) -> str:
        return f"<Audit on {self.rows:,} rows: {self.verdict}>"

    def _repr_html_(self) -> str:
        """For a notebook: the verdict, and the table."""
        head = "".join(f"<th>{name}</th>" for name in HEADINGS)
        lines = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in self.table()
        )
        warnings = "".join(f"<p>{escape(line)}</p>" for line in self.warnings)
        return f"<p><b>{escape(self.verdict)}</b></p><table><tr>{head}</tr>{lines}</table>{warnings}"

    def table(self) -> list[tuple[str, str, str, str]]:
        """The rank correlations as text: for each line its name and the columns of `HEADINGS`."""
        lines = [
            (line.name, _shown(line.correlation), _shown(line.partial), _shown(line.summed.correlation))
            for line in (*self.scores, *self.baselines)
        ]
        return [*lines, ("two halves of prompts", str(self.agreement), "", str(self.agreement_summed))]

    def without_directories(self) -> Audit:
        """Fit to be published: with names of files in place of this machine's paths."""
        short = public_id(self.model)
        if short == self.model:
            return self
        scores = tuple(replace(each, verdict=each.verdict.replace(self.model, short)) for each in self.scores)
        return replace(self, model=short, scores=scores, verdict=self.verdict.replace(self.model, short))

    def __post_init__(self) -> None:
        """Refuse scores without their rows.

        Raises:
            ValueError: there is no score, or one without values.
        """
        if not self.scores or not {score.name for score in self.scores} <= self.audited.scores.keys():
            raise ValueError("the audited scores do not belong to its rows")

    def to_json(self) -> str:
        """One JSON object of the attributes."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Audit:
        """Read what `to_json` wrote.

        Raises:
            DataError: it is something else, or of another version.
        """
        try:
            values = parse_json(text)
            version = values["audit_version"]
            if version == VERSION:
                return record_of(cls, values)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"not an audit of larf-curate: {one_line(error)}") from error
        raise DataError(f"the audit is of version {str(version)[:40]}; this one reads {VERSION}")


HEADINGS = ("score", "per token", "length, loss taken out", "summed")


def _shown(figure: Statistic | None) -> str:
    return "" if figure is None else str(figure)
