"""All that a run publishes, put together on this machine before anything is sent."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..deciding.layout import RECIPE, without_directories
from ..deciding.results import Results
from ..errors import PublishError, ScorerError
from ..models.options import OPTIONS
from ..progress import say
from ..pushing import Files
from ..safe_yaml import load_yaml
from ..scoring.artifact import artifact_files, read_artifact
from ..scoring.public_names import public_id, public_name, public_spec
from .build_report import build_report
from .card import HOME, CardRequest
from .excerpts import highest_rows
from .plots import draw_plots
from .report import REPORT

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
SCORER = "scorer"
"""The directory of the fitted scorer, beside the data."""
_PATHS = {
    "source": {"path"},
    "scorer": {"model", "from", "references", "unsafe", "safe", "prompts", "other", "chat_template"},
    "threshold": {"harmless"},
}
"""Keys of a recipe that name files of this machine, or repositories on the Hub."""


@dataclass(frozen=True)
class Publication:
    """What goes to the Hub: `files`, all but the card; and what the card is made of."""

    files: Files
    card: CardRequest


def publish_files(results: Results, repo: str, *, removed: bool = False, examples: int = 0) -> Publication:
    """Report, plots, recipe and data of a run, without what is of this machine alone, such as its paths.

    Args:
        results: the run.
        repo: namespace/name.
        removed: whether removed rows, and those without a score, are published too.
        examples: how many of the removed rows the card shows.

    Raises:
        DataError: a file cannot be read.
        PublishError: no row is kept, and `datasets` loads no dataset without rows.
    """
    if not results.rows.kept:
        raise PublishError(f"{results.home} keeps no row: there is no dataset to publish")
    report = build_report(results).without_directories()
    plots = draw_plots(report)
    scorer = _scorer_files(results)
    recipe = public_recipe(results.recipe, scorer=f"{HOME}/{SCORER}" if scorer else None) if results.recipe else None
    others = {"removed": results.rows.removed, "unscorable": results.rows.unscorable} if removed else {}
    outcomes = ["kept", *(outcome for outcome, rows in others.items() if rows)]
    files: dict[str, bytes | Path] = {f"{HOME}/{REPORT}": report.to_json().encode()}
    files |= {f"{HOME}/plots/{plot.name}": plot.png for plot in plots}
    files |= {f"{HOME}/{SCORER}/{name}": content for name, content in scorer.items()}
    if recipe:
        files[f"{HOME}/{RECIPE}"] = recipe.encode()
    splits = {outcome: results.files_by_split(outcome) for outcome in outcomes}
    for outcome in outcomes:
        for split, paths in splits[outcome].items():
            for number, path in enumerate(paths):
                files[f"{HOME}/{outcome}/{split}-{number:05d}-of-{len(paths):05d}.parquet"] = path
    shown = highest_rows(results, "removed", examples) if examples else []
    source = hub_source(results.recipe)
    named = {outcome: tuple(files_of_split) for outcome, files_of_split in splits.items()}
    card = CardRequest(repo, report, plots, recipe, outcomes, source, {}, shown, bool(scorer), named)
    return Publication(files, card)


def _scorer_files(results: Results) -> dict[str, bytes]:
    """The files of the fitted scorer of a run by their names, so that whoever reads its recipe can run it."""
    run = results.summary.run
    if run is None:
        return {}
    try:
        spec, tensors = read_artifact(results.home / run.scorer.directory)
    except ScorerError as error:
        say(f"the scorer is not published with the rows: {error}")
        return {}
    return artifact_files(public_spec(spec), tensors)


def _public(key: str, value: Any, *, pinned: bool) -> Any:
    """The value of a key that names files or a repository; a chat template that is no path stays."""
    if not isinstance(value, str) or (key == "chat_template" and "{" in value):
        return value
    return public_id(value, pinned=pinned) if key in ("path", "model", "from") else public_name(value)


def hub_source(recipe: str | None) -> str | None:
    """The Hub id of the dataset that a resolved recipe names: one that it pins to a commit."""
    source = (load_yaml(recipe) or {}).get("source", {}) if recipe else {}
    path, revision = str(source.get("path")), str(source.get("revision"))
    return path if _HUB_ID.fullmatch(path) and _COMMIT.fullmatch(revision) else None


def public_recipe(recipe: str, scorer: str | None = None) -> str:
    """The parts of a recipe that decide the result; where it ran (executor, devices) may hold secrets.

    Args:
        recipe: its text.
        scorer: where the fitted scorer is published; a recipe that took one from a directory takes it from there.
    """
    sections = load_yaml(recipe)
    kept = {name: sections[name] for name in ("source", "scorer", "threshold", "output") if name in sections}
    elsewhere = {option.name for option in OPTIONS.values() if not option.about.changes_scores}
    kept["scorer"] = {name: value for name, value in kept["scorer"].items() if name not in elsewhere}
    for section, names in _PATHS.items():
        values = kept.get(section)
        if isinstance(values, dict):
            pinned = bool(_COMMIT.fullmatch(str(values.get("revision"))))
            kept[section] = {
                name: _public(name, value, pinned=pinned) if name in names else value for name, value in values.items()
            }
    fitted = kept["scorer"].get("from")
    if scorer and fitted and not _COMMIT.fullmatch(str(kept["scorer"].get("revision"))):
        kept["scorer"]["from"] = scorer
    if isinstance(kept.get("output"), str):
        kept["output"] = public_name(kept["output"])
    return str(yaml.safe_dump(without_directories(kept), sort_keys=False, allow_unicode=False))
