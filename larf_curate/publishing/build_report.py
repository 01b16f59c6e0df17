"""Build a report from the results of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from ..deciding.layout import OUTCOMES
from ..deciding.quantiles import named_quantiles
from ..scoring.columns import SCORE, TOKENS, layer_column
from .groups import Group, find_groups
from .report import Json, Report
from .results import Results
from .sample import Sample, draw_sample
from .statistics import Array, Estimate, difference_of_shares, ratio_of_means, spearman

_FEWEST_BINS, _MOST_BINS = 30, 120
_DOTS = {"kept": 3000, "removed": 1500}
_PACKAGES = ("larf-curate", "numpy", "pyarrow")


def build_report(results: Results) -> Report:
    """Read a run's results, in a memory that does not grow with them.

    Raises:
        DataError: a file cannot be read.
    """
    summary = results.summary
    run = summary.get("run", {})
    found = {SCORE: named_quantiles(results.values(SCORE))}
    layers = [layer_column(layer) for layer in (results.scorer or {}).get("layers", [])]
    for column in (*layers, TOKENS):
        if column in results.schema.names:
            found[column] = named_quantiles(results.values(column))
    scores = found[SCORE]
    histogram = _histogram(results, scores, summary["scored"])
    sample = draw_sample(results) if scores else None
    return Report(
        rows={"rows": summary["rows"], "scored": summary["scored"], **results.rows},
        issues=dict(summary.get("issues", {})),
        source={**run["source"], "format": results.form.name if results.form else None} if "source" in run else None,
        scorer=_scorer(results.scorer),
        threshold=summary["threshold"],
        quantiles=found,
        histogram=histogram,
        form=_form(sample) if sample is not None and len(sample) else None,
        groups=[asdict(group) for group in _groups(results, scores)],
        confounds=_confounds(sample) if sample is not None and len(sample) else None,
        sample={"kept": int((~sample.removed).sum()), "removed": int(sample.removed.sum())} if sample else {},
        dots=_dots(sample) if sample is not None else {},
        run={
            **{name: run[name] for name in ("digest", "started", "finished") if name in run},
            "packages": {name: _version(name) for name in _PACKAGES},
        },
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # run from its sources
        return None


def _scorer(found: Mapping[str, Any] | None) -> Json | None:
    """Without the chat template's text, which its digest stands for."""
    return {key: value for key, value in found.items() if key != "chat_template"} if found else None


def _histogram(results: Results, scores: Mapping[str, float], scored: int) -> Json:
    if not scores:
        return {}
    low, high = scores["lowest"], scores["highest"]
    bins = int(np.clip(2 * np.sqrt(scored), _FEWEST_BINS, _MOST_BINS))  # few rows in many bins show only noise
    edges = np.linspace(low, high if high > low else low + 1e-6, bins + 1)
    counts = {}
    for outcome in OUTCOMES:
        total = np.zeros(bins, np.int64)
        for chunk in results.values(SCORE, [outcome])():
            values = chunk[~np.isnan(chunk)]
            total += np.bincount(np.clip(np.searchsorted(edges, values) - 1, 0, bins - 1), minlength=bins)
        counts[outcome] = total.tolist()
    return {"edges": edges.tolist(), **counts}


def _groups(results: Results, scores: Mapping[str, float]) -> list[Group]:
    return find_groups(results, scores["lowest"], scores["highest"]) if scores else []


def _form(sample: Sample) -> Json:
    shares = {
        "lists": sample.lists,
        "refusals": sample.refusals,
        "system": sample.system,
        "tools": sample.tools,
        "several_turns": (sample.turns - sample.system > 2).astype(float),
    }
    found = {name: float(np.average(values, weights=sample.weight)) for name, values in shares.items()}
    return {**found, "median_characters": _median(sample.characters, sample.weight)}


def _median(values: Array, weights: Array) -> float:
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])


def _confounds(sample: Sample) -> Json:
    removed, kept = sample.removed, ~sample.removed
    figures: dict[str, Estimate | None] = {
        "score_and_characters": spearman(sample.score, sample.characters, sample.weight),
        "score_and_lists": spearman(sample.score, sample.lists, sample.weight),
        "removed_to_kept_characters": ratio_of_means(sample.characters[removed], sample.characters[kept]),
        "removed_to_kept_tokens": ratio_of_means(*(np.maximum(sample.tokens[side], 1) for side in (removed, kept))),
        "removed_less_kept_lists": difference_of_shares(sample.lists[removed], sample.lists[kept]),
        "removed_less_kept_refusals": difference_of_shares(sample.refusals[removed], sample.refusals[kept]),
    }
    return {name: asdict(figure) if figure else None for name, figure in figures.items()}


def _dots(sample: Sample) -> Json:
    found = {}
    for outcome, mask in (("kept", ~sample.removed), ("removed", sample.removed)):
        places = np.flatnonzero(mask)
        # Evenly spaced: the sample's order is the rows', and says nothing of their scores.
        places = places[np.linspace(0, len(places) - 1, min(len(places), _DOTS[outcome])).astype(int)]
        found[outcome] = {
            "score": [round(float(value), 7) for value in sample.score[places]],
            "characters": [int(value) for value in sample.characters[places]],
        }
    return found
