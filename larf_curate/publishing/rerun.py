"""The command that splits the rows of a result by another threshold."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import yaml

from ..deciding.filtering import FilterRecord
from ..deciding.layout import RECIPE
from ..deciding.results import Results
from ..inert import visible
from ..rows.score_columns import PREFIX
from ..safe_yaml import load_yaml

_LONGEST = 500  # characters of a name


def command_for(results: Results, rule: str) -> str:
    """What to type for another threshold of a rule, up to its amount; empty where nothing says what was split.

    Args:
        results: of `larf-curate run` or `larf-curate filter`.
        rule: a rule of `Threshold`, as `max_score`.
    """
    home = visible(str(results.home), _LONGEST)
    if results.recipe is not None:
        command = f"larf-curate run {shlex.quote(str(Path(home) / RECIPE))} "
        if _output_of(results.recipe) != results.home.resolve():  # as seen from here: it was moved, or made elsewhere
            command += f"--set {shlex.quote(f'output={home}')} "
        return f"{command}--set threshold.{rule}="
    filtered = results.summary.filtered
    if filtered is None:
        return ""
    options = _options(filtered)
    if results.names.prefix != PREFIX:
        options += ["--prefix", results.names.prefix]
    if results.threshold.unscorable != "separate":
        options += ["--unscorable", results.threshold.unscorable]
    words = [_from_here(filtered.source), "--out", home, *options, f"--{rule.replace('_', '-')}"]
    return f"larf-curate filter {' '.join(shlex.quote(visible(word, _LONGEST)) for word in words)} "


def _options(filtered: FilterRecord) -> list[str]:
    """The options of `larf-curate filter` that say what is read and how, as they were typed."""
    named = {"--split": filtered.split, "--config": filtered.config, "--field": filtered.field}
    words = [word for name, value in named.items() if value is not None for word in (name, value)]
    words += ["--per-split"] if filtered.per_split else []
    words += ["--format", filtered.format] if filtered.format != "auto" else []
    words += [word for columns in filtered.columns for word in ("--map", columns)]
    return words + (["--weight", filtered.weight] if filtered.weight is not None else [])


def _from_here(source: str) -> str:
    """A file as it is named in the working directory, where it lies in that."""
    here = f"{os.path.abspath(os.curdir)}{os.sep}"  # noqa: PTH100 - links stay as they are
    return source.removeprefix(here)


def _output_of(recipe: str) -> Path | None:
    """Where a recipe's results go when it is run from the working directory; None where it does not say."""
    try:
        values = load_yaml(recipe)
        return Path(values["output"]).resolve()
    except (yaml.YAMLError, ValueError, KeyError, TypeError, OSError):
        return None
