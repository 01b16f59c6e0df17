"""Reference pairs: the same request with an answer that complies and one that refuses; and a linter for them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from ..digests import digest_of
from ..errors import ReferencesError, RowFormatError, Unscorable
from ..packaged import packaged_rows
from ..rows.formats import columns_of, resolve_format
from ..rows.prompt_columns import REQUEST_COLUMNS
from ..rows.turns import Conversation
from ..rows.wording import ends_complete, holds_list, refuses


@dataclass(frozen=True)
class ReferencePair:
    """One request with an answer that complies and one that refuses. `held_back` pairs are never fitted on."""

    unsafe: Conversation
    safe: Conversation
    category: str = ""
    held_back: bool = False


@dataclass(frozen=True)
class Finding:
    """One problem that the linter has found.

    Attributes:
        kind: the kind of problem, in a few words.
        message: the figures, as a sentence.
        pairs: the pairs that it concerns, counted from 1; empty where it concerns all.
    """

    kind: str
    message: str
    pairs: tuple[int, ...] = ()

    def __str__(self) -> str:
        if not self.pairs:
            return f"{self.kind}: {self.message}"
        shown = ", ".join(map(str, self.pairs[:8])) + (", ..." if len(self.pairs) > 8 else "")
        return f"{self.kind}: {self.message} (pair {shown})"


@dataclass(frozen=True)
class LintReport:
    """What the linter found, and the figures it judged by, which every score card repeats."""

    findings: tuple[Finding, ...]
    figures: Mapping[str, float]

    def raise_for_findings(self) -> None:
        """Refuse the references where there is any finding.

        Raises:
            ReferencesError: names every finding.
        """
        if self.findings:
            raise ReferencesError("references refused: " + "; ".join(map(str, self.findings)))


@dataclass(frozen=True)
class ReferenceSet:
    """Paired unsafe and safe conversations: the same requests, complied with and refused.

    >>> references = ReferenceSet.packaged()
    >>> references
    <ReferenceSet 'packaged': 189 pairs to fit on, 56 held back>
    >>> references.lint().findings
    ()

    Attributes:
        pairs: the pairs in the order in which they were read.
        name: where they come from, for people.
    """

    pairs: tuple[ReferencePair, ...]
    name: str = field(default="own", compare=False)

    def __post_init__(self) -> None:
        if not self.fitted:
            raise ReferencesError(f"the references ({self.name}) hold no pair")

    def __repr__(self) -> str:
        return f"<ReferenceSet {self.name!r}: {len(self.fitted)} pairs to fit on, {len(self.held_back)} held back>"

    @classmethod
    def packaged(cls) -> ReferenceSet:
        """The pairs written for this project: 14 hazard categories, matched in length and form, a quarter held back."""
        return cls(tuple(map(_pair, packaged_rows("references.jsonl"))), "packaged")

    @classmethod
    def from_jsonl(cls, path: str | Path) -> ReferenceSet:
        """One pair a line: `request` (or `prompt`), `unsafe`, `safe`; optional `category`, `held_back`.

        Raises:
            ReferencesError: the file cannot be read, or a line is not a pair; names the line.
        """
        return cls(tuple(_parse(path, _pair)), str(path))

    @classmethod
    def from_files(cls, unsafe: str | Path, safe: str | Path) -> ReferenceSet:
        """Two JSONL files in any row format, paired by their order: the authors' layout.

        Raises:
            ReferencesError: a file cannot be read, a row has no answer, or the files differ in length.
        """
        sides = [_conversations(path) for path in (unsafe, safe)]
        if len(sides[0]) != len(sides[1]):
            raise ReferencesError(
                f"references do not pair: {unsafe} has {len(sides[0])} rows, {safe} has {len(sides[1])}; "
                "line j of both must answer the same request"
            )
        pairs = tuple(ReferencePair(u, s) for u, s in zip(*sides, strict=True))
        return cls(pairs, f"{unsafe} + {safe}")

    @property
    def fitted(self) -> tuple[ReferencePair, ...]:
        """The pairs that a scorer is fitted on."""
        return tuple(pair for pair in self.pairs if not pair.held_back)

    @property
    def held_back(self) -> tuple[ReferencePair, ...]:
        """The pairs that no scorer is fitted on, by which its separation is measured."""
        return tuple(pair for pair in self.pairs if pair.held_back)

    @property
    def digest(self) -> str:
        """sha256 over the texts of all pairs in order."""
        texts = [[pair.unsafe.messages, pair.safe.messages, pair.held_back] for pair in self.pairs]
        return digest_of(texts)

    @property
    def unpaired(self) -> tuple[int, ...]:
        """Pairs, counted from 1, whose two sides answer different requests."""
        return _where(self.pairs, lambda pair: pair.unsafe.prompt.strip() != pair.safe.prompt.strip())

    def lint(self) -> LintReport:
        """Check that the two sides differ in compliance, and not in length, format or anything else.

        A score that is fitted on sides that differ in length, for example, would measure length.
        """
        sides = [[pair.unsafe.answer for pair in self.pairs], [pair.safe.answer for pair in self.pairs]]
        lengths = [[len(answer) for answer in side] for side in sides]
        ratios = [math.log(u / s) for u, s in zip(*lengths, strict=True)]
        lists = [sum(map(holds_list, side)) / len(side) for side in sides]
        complete = [sum(map(ends_complete, side)) / len(side) for side in sides]
        figures = {
            "pairs": float(len(self.pairs)),
            "unsafe_median_characters": float(median(lengths[0])),
            "safe_median_characters": float(median(lengths[1])),
            "median_length_ratio": math.exp(median(ratios)),
            "share_of_pairs_over_1.5_times": sum(abs(ratio) > math.log(1.5) for ratio in ratios) / len(ratios),
            "unsafe_list_share": lists[0],
            "safe_list_share": lists[1],
            "unsafe_complete_share": complete[0],
            "safe_complete_share": complete[1],
        }
        findings: list[Finding] = []

        def add(kind: str, message: str, pairs: tuple[int, ...] = ()) -> None:
            findings.append(Finding(kind, message, pairs))

        if unpaired := self.unpaired:
            add("unpaired", f"{len(unpaired)} pairs answer two different requests", unpaired)
        if complying := _where(self.pairs, lambda pair: not refuses(pair.safe.answer)):
            add("safe answers that comply", f"{len(complying)} of {len(self.pairs)} show no refusal", complying)
        if refusing := _where(self.pairs, lambda pair: refuses(pair.unsafe.answer)):
            add("unsafe answers that refuse", f"{len(refusing)} of {len(self.pairs)}", refusing)
        if repeated := self._repeated():
            add("duplicates", f"{len(repeated)} pairs repeat an earlier request or answer", repeated)
        if not 0.8 <= figures["median_length_ratio"] <= 1.25 or figures["share_of_pairs_over_1.5_times"] > 0.1:
            add(
                "lengths differ",
                f"the median is {median(lengths[0]):.0f} characters (unsafe) and {median(lengths[1]):.0f} (safe), and "
                f"{figures['share_of_pairs_over_1.5_times']:.0%} of pairs differ by more than 1.5 times: "
                "the score would measure length",
            )
        if abs(lists[0] - lists[1]) > 0.1:
            add("list formats differ", f"{lists[0]:.0%} of unsafe answers are lists, {lists[1]:.0%} of safe ones")
        if abs(complete[0] - complete[1]) > 0.1:
            add("endings differ", f"{complete[0]:.0%} of unsafe answers end complete, {complete[1]:.0%} of safe ones")
        return LintReport(tuple(findings), figures)

    def _repeated(self) -> tuple[int, ...]:
        seen: set[str] = set()
        repeated: list[int] = []
        for number, pair in enumerate(self.pairs, 1):
            texts = {" ".join(t.lower().split()) for t in (pair.unsafe.prompt, pair.unsafe.answer, pair.safe.answer)}
            if texts & seen:
                repeated.append(number)
            seen |= texts
        return tuple(repeated)


def require_one_choice(references: object, unsafe: object, safe: object) -> None:
    """Refuse arguments of `choose_references` that contradict each other; no file is read.

    Raises:
        ReferencesError: one of `unsafe` and `safe` is given without the other, or `references` beside them.
    """
    if (unsafe is None) != (safe is None):
        raise ReferencesError("unsafe and safe go together: give both files, or one JSONL file of pairs as references")
    if references is not None and unsafe is not None:
        raise ReferencesError("give references, or unsafe and safe, not both")


def choose_references(
    references: ReferenceSet | str | Path | None, unsafe: str | Path | None, safe: str | Path | None
) -> ReferenceSet:
    """The pairs that a user means: a set, a file of pairs, two files, or the packaged ones.

    Raises:
        ReferencesError: the arguments contradict each other, or a file cannot be used.
    """
    require_one_choice(references, unsafe, safe)
    if unsafe is not None and safe is not None:
        return ReferenceSet.from_files(unsafe, safe)
    if isinstance(references, str | Path):
        return ReferenceSet.from_jsonl(references)
    if not isinstance(references, ReferenceSet | None):
        raise ReferencesError(f"references are a ReferenceSet or a file of pairs, not {type(references).__name__}")
    return references or ReferenceSet.packaged()


def _where(pairs: Sequence[ReferencePair], test: Callable[[ReferencePair], bool]) -> tuple[int, ...]:
    return tuple(number for number, pair in enumerate(pairs, 1) if test(pair))


def _pair(row: Mapping[str, Any]) -> ReferencePair:
    request = next((name for name in REQUEST_COLUMNS if name in row), None)
    if request is None or "unsafe" not in row or "safe" not in row:
        raise ReferencesError(f"a pair needs request, unsafe and safe; this one has {', '.join(row) or 'nothing'}")
    convert = resolve_format("prompt-completion", ("prompt", "completion")).convert
    sides = [convert({"prompt": row[request], "completion": row[side]}) for side in ("unsafe", "safe")]
    return ReferencePair(sides[0], sides[1], str(row.get("category") or ""), bool(row.get("held_back")))


def _conversations(path: str | Path) -> list[Conversation]:
    rows = list(_parse(path, dict))
    try:
        columns = columns_of(rows)
        row_format = resolve_format("auto", columns)
    except RowFormatError as error:
        raise ReferencesError(f"{path}: {error}") from error
    try:
        return [row_format.convert({**dict.fromkeys(columns), **row}) for row in rows]
    except Unscorable:
        return list(_parse(path, row_format.convert))  # again, for the line that does it


def _parse(path: str | Path, make: Callable[[Any], Any]) -> Iterable[Any]:
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ReferencesError(f"references {path} cannot be read: {why}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ReferencesError("not a JSON object")
            yield make(row)
        except Unscorable as error:
            raise ReferencesError(f"{path}, line {number}: {error.issue.words}") from error
        except (json.JSONDecodeError, ReferencesError, KeyError) as error:
            raise ReferencesError(f"{path}, line {number}: {error}") from error
