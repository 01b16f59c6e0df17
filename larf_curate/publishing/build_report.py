"""Build a report from the results of a run: reads them as streams, writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from numpy.typing import NDArray

from ..deciding.layout import OUTCOMES
from ..deciding.quantiles import named_quantiles
from ..deciding.results import Results
from ..rows.notices import reading_note
from ..scoring.statistics import Array, difference_of_shares, ratio_of_means, spearman
from ..sources.json_values import text_columns
from ..validation.audit_record import audit_of_run
from ..validation.results import Validation
from .groups import find_groups
from .report import (
    Confounds,
    ConversationFigures,
    Histogram,
    LengthPoints,
    Points,
    Report,
    ReportedRun,
    ReportedSource,
    RowCounts,
    SampleSize,
)
from .sample import Sample, draw_sample

_FEWEST_BINS, _MOST_BINS = 30, 120
_KEPT_POINTS, _REMOVED_POINTS = 3000, 1500
_PACKAGES = ("larf-curate", "numpy", "pyarrow")


def build_report(results: Results) -> Report:
    """Read the results of a run, in a memory that does not grow with them.

    Raises:
        DataError: a file cannot be read.
    """
    summary, scorer, names = results.summary, results.scorer, results.names
    layers = [names.layer(layer) for layer in scorer.layers] if scorer else []
    measured = [name for name in (names.score, *layers, names.tokens) if name in results.schema.names]
    quantiles = {column: named_quantiles(results.values(column)) for column in measured}
    scores = quantiles[names.score]
    sample = draw_sample(results) if scores else None
    figures = sample if sample is not None and len(sample) else None
    return Report(
        rows=RowCounts(**asdict(results.rows), scored=summary.scored),
        issues=summary.issues,
        source=_source(results),
        scorer=replace(scorer, chat_template=None) if scorer else None,
        threshold=results.threshold,
        quantiles=quantiles,
        histogram=_histogram(results, scores, summary.scored, results.threshold.value) if scores else None,
        conversations=_conversations(figures) if figures else None,
        groups=tuple(find_groups(results, scores["lowest"], scores["highest"])) if scores else (),
        confounds=_confounds(figures) if figures else None,
        sample=SampleSize(int((~sample.removed).sum()), int(sample.removed.sum())) if sample is not None else None,
        length_points=_length_points(sample) if sample is not None else None,
        run=_run(results),
        audit=audit_of_run(results.home),
        validation=Validation.of_run(results.home),
        prefix=names.prefix,
    )


def _source(results: Results) -> ReportedSource | None:
    run, row_format = results.summary.run, results.row_format
    if run is None:
        return None
    if row_format is None:
        return ReportedSource(**asdict(run.source))
    note = reading_note(row_format, results.schema.names, text_columns(results.schema))
    return ReportedSource(**asdict(run.source), format=row_format.name, reading=note)


def _run(results: Results) -> ReportedRun:
    packages = {name: _version(name) for name in _PACKAGES}
    run = results.summary.run
    return ReportedRun(packages, run.digest, run.started, run.finished) if run else ReportedRun(packages)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # run from its sources
        return None


def _histogram(results: Results, scores: Mapping[str, float], scored: int, threshold: float | None) -> Histogram:
    edges = _edges(scores["lowest"], scores["highest"], scored, threshold)
    bins = len(edges) - 1
    counts = {}
    for outcome in OUTCOMES:
        total = np.zeros(bins, np.int64)
        for chunk in results.values(results.names.score, [outcome])():
            values = chunk[~np.isnan(chunk)]
            total += np.bincount(np.clip(np.searchsorted(edges, values) - 1, 0, bins - 1), minlength=bins)
        counts[outcome] = tuple(total.tolist())
    return Histogram(tuple(edges.tolist()), **counts)


def _edges(low: float, high: float, scored: int, threshold: float | None) -> NDArray[np.float64]:
    """Edges of bins, of one width but for the ends; one is the threshold: no bin holds both kept and removed rows."""
    bins = int(np.clip(2 * np.sqrt(scored), _FEWEST_BINS, _MOST_BINS))  # few rows in many bins show only noise
    high = high if high > low else low + 1e-6
    if threshold is None or not low < threshold < high:
        return np.linspace(low, high, bins + 1)
    width = (high - low) / bins
    below, above = np.ceil((threshold - low) / width), np.ceil((high - threshold) / width)
    edges: NDArray[np.float64] = threshold + width * np.arange(-below, above + 1)
    edges[0], edges[-1] = low, high
    return edges


def _conversations(sample: Sample) -> ConversationFigures:
    def share(values: Array) -> float:
        return float(np.average(values, weights=sample.weight))

    return ConversationFigures(
        lists=share(sample.lists),
        refusals=share(sample.refusals),
        system=share(sample.system),
        tools=share(sample.tools),
        several_turns=share((sample.turns - sample.system > 2).astype(float)),
        median_characters=_median(sample.characters, sample.weight),
    )


def _median(values: Array, weights: Array) -> float:
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])


def _confounds(sample: Sample) -> Confounds:
    removed, kept = sample.removed, ~sample.removed
    tokens = np.maximum(sample.tokens, 1)
    return Confounds(
        score_and_characters=spearman(sample.score, sample.characters, sample.weight),
        score_and_lists=spearman(sample.score, sample.lists, sample.weight),
        removed_to_kept_characters=ratio_of_means(sample.characters[removed], sample.characters[kept]),
        removed_to_kept_tokens=ratio_of_means(tokens[removed], tokens[kept]),
        removed_less_kept_lists=difference_of_shares(sample.lists[removed], sample.lists[kept]),
        removed_less_kept_refusals=difference_of_shares(sample.refusals[removed], sample.refusals[kept]),
    )


def _length_points(sample: Sample) -> LengthPoints:
    return LengthPoints(
        kept=_points(sample, ~sample.removed, _KEPT_POINTS), removed=_points(sample, sample.removed, _REMOVED_POINTS)
    )


def _points(sample: Sample, mask: NDArray[np.bool_], limit: int) -> Points:
    places = np.flatnonzero(mask)
    # Evenly spaced: the sample's order is the rows', and says nothing of their scores.
    chosen = places[np.linspace(0, len(places) - 1, min(len(places), limit)).astype(int)]
    return Points(
        score=tuple(round(float(score), 7) for score in sample.score[chosen]),
        characters=tuple(int(characters) for characters in sample.characters[chosen]),
    )
