"""All that a run publishes, put together on this machine before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from ..deciding.layout import RECIPE, without_directories
from ..models.options import OPTIONS
from .build_report import build_report
from .card import HOME, CardRequest
from .excerpts import highest
from .plots import draw_plots
from .report import REPORT, Report
from .results import Results

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Publication:
    """What goes to the Hub: `files` by their path there, bytes or where they lie here; and what the card is made of."""

    files: Mapping[str, bytes | Path]
    card: CardRequest


def publish_files(results: Results, repo: str, *, removed: bool = False, examples: int = 0) -> Publication:
    """Report, plots, recipe and data of a run; what only this machine can understand, such as its paths, is left out.

    Args:
        results: the run.
        repo: namespace/name.
        removed: whether removed rows, and those without a score, are published too.
        examples: how many of the removed rows the card shows.

    Raises:
        DataError: a file cannot be read.
    """
    report = public_report(build_report(results))
    plots = draw_plots(report)
    recipe = public_recipe(results.recipe) if results.recipe else None
    outcomes = ["kept", *(outcome for outcome in ("removed", "unscorable") if removed and results.rows[outcome])]
    files: dict[str, bytes | Path] = {f"{HOME}/{REPORT}": report.to_json().encode()}
    files |= {f"{HOME}/plots/{name}": picture for name, picture in plots.items()}
    if recipe:
        files[f"{HOME}/{RECIPE}"] = recipe.encode()
    for outcome in outcomes:
        paths = results.files[outcome]
        for number, path in enumerate(paths):
            files[f"{HOME}/{outcome}/train-{number:05d}-of-{len(paths):05d}.parquet"] = path
    shown = highest(results, "removed", examples) if examples else []
    source = hub_source(results.recipe)
    return Publication(files, CardRequest(repo, report, list(plots), recipe, outcomes, source, {}, shown))


def hub_source(recipe: str | None) -> str | None:
    """The Hub id of the dataset that a resolved recipe names: one that it pins to a commit."""
    source = (yaml.safe_load(recipe) or {}).get("source", {}) if recipe else {}
    path, revision = str(source.get("path")), str(source.get("revision"))
    return path if _HUB_ID.fullmatch(path) and _COMMIT.fullmatch(revision) else None


def public_report(report: Report) -> Report:
    """Without the directories of this machine."""
    return replace(report, source=without_directories(report.source), scorer=without_directories(report.scorer))


def public_recipe(recipe: str) -> str:
    """What decides the result. Where it ran (executor, devices) does not, and may hold what is nobody's business."""
    said = yaml.safe_load(recipe)
    kept = {name: said[name] for name in ("source", "scorer", "threshold", "output") if name in said}
    elsewhere = {option.name for option in OPTIONS.values() if not option.about.changes_scores}
    kept["scorer"] = {name: value for name, value in kept["scorer"].items() if name not in elsewhere}
    return str(yaml.safe_dump(without_directories(kept), sort_keys=False, allow_unicode=False))
