"""The report: everything that is known of a run, in one JSON file that a machine can read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from ..errors import DataError

REPORT = "report.json"  # the name of its file
VERSION = 1

Json = dict[str, Any]


@dataclass(frozen=True)
class Report:
    """What came of a run, and what its score measures on these rows.

    Everything but `form` and `confounds` is exact and over all rows; these two take reading texts, and are measured on
    a sample of at most 50,000 kept and 50,000 removed rows, always the same one (`sample` says how many).
    It holds no row's text.

    Attributes:
        report_version: of this layout: 1.
        rows: in all, scored, and by outcome; `issues`: by the value of `larf_issue`.
        source: name, digest and format of the dataset; None where only scored rows were at hand.
        scorer: the fitted scorer: model, version (commit), layers of how many blocks, formula and its version, dtype,
            references (name, digest, linter figures and findings), separation of pairs it was not fitted on, packages.
        threshold: rule, amount, value and counts, as `Threshold.to_json` writes them.
        quantiles: of `larf_score`, `larf_tokens` and each layer's score, by name of the column, then of the quantile.
        histogram: `edges` [n + 1] and rows of each outcome with a score in (edge, next edge], by outcome [n].
        form: share of rows (0 to 1) with a list, a refusal, a system turn, tools, several turns; median characters.
        groups: the same by group; see `Group`.
        confounds: Spearman's correlation of the score with `characters` of the answer and with being a list (`lists`);
            and how removed rows differ from kept ones: ratio of geometric means of `characters` and `tokens`,
            difference of the shares of `lists` and `refusals`. Each with its 95% interval, None where it has none.
        sample: rows read for these, by outcome.
        dots: score and characters of some of them, by outcome, for the plot.
        run: the run's digest, start and end; packages at the time of the report.
    """

    rows: Json
    issues: Json
    source: Json | None
    scorer: Json | None
    threshold: Json | None
    quantiles: Json
    histogram: Json
    form: Json | None
    groups: list[Json]
    confounds: Json | None
    sample: Json
    dots: Json
    run: Json
    report_version: int = VERSION

    def to_json(self) -> str:
        """Equal reports give equal text."""
        return json.dumps({"report_version": self.report_version, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            DataError: it is something else, or of another version.
        """
        try:
            found = json.loads(text)
            if found["report_version"] != VERSION:
                raise DataError(f"the report is of version {found['report_version']}; this one reads {VERSION}")
            return cls(**{field.name: found[field.name] for field in fields(cls)})
        except DataError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"not a report of larf-curate: {error!r}") from error
