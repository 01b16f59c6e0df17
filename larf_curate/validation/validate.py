"""The public function: did removing those rows help?"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack, cast

from ..atomic import require_writable, write_text
from ..deciding.datasets import Parts
from ..errors import DataError
from ..models.options import FitOptions, ModelOptions
from ..progress import say
from ..written import claim_file
from .plan import memory_shortage
from .processes import processes
from .request import ValidationRequest
from .results import Validation, is_validation
from .run import run_validation
from .scored_rows import ScoredRows
from .settings import COMPARING, AskingSettings, ComparingSettings, TrainingSettings, ValidateOptions


def validate(
    scored: Parts[Any, Any] | str | Path,
    model: str | Path,
    *,
    training: TrainingSettings | None = None,
    asking: AskingSettings | None = None,
    format: str = "auto",  # noqa: A002 - the word users know
    out: str | Path | None = None,
    work: str | Path | None = None,
    **options: Unpack[ValidateOptions],
) -> Validation:
    """Train a model on the rows that a filter removed and on rows like them, ask, judge and compare.

    Every arm is a model trained on other rows. All of them are asked harmful requests, harmless ones that sound
    harmful, and ordinary ones, none of which was trained on. An arm that is done is not trained again: a validation
    that was interrupted goes on where it stopped.

    >>> # Not run by doctest: several models are trained.
    >>> result = validate("runs/quickstart", "demo-aligned", arms=["removed"], rows=24, seeds=1)  # doctest: +SKIP
    >>> result.arm("removed").against.interval  # doctest: +SKIP

    Args:
        scored: what `Threshold.split` gave for a dataset, or the directory of a run.
        model: the model that is trained: a Hub id, a local directory, `demo-aligned`.
        training: how every arm is trained; LoRA with the settings of LARF's authors by default.
        asking: what every model is asked, and who judges; the packaged prompts and the judge of wording by default.
        format: how rows of a dataset are read.
        out: file for the result as JSON.
        work: directory where finished arms are kept; one in the cache by default.
        **options: which arms and remedies are compared (`arms`, `remedies`, `rows`, `seeds`, `base_model`; see
            `ComparingSettings` and docs/validation.md), and how the model is loaded (see `ModelOptions`).

    Returns:
        Figures with intervals for every arm, and a verdict.

    Raises:
        LarfError: rows, model, prompts or judges cannot be used, or `out` cannot be written; the message says which and
            why.
    """
    if not isinstance(scored, Parts | str | Path):
        raise DataError(
            f"validate takes the parts of a dataset, Threshold.drop_top(1000).split(dataset) for one, or the directory "
            f"of a run, not {type(scored).__name__}"
        )
    given: dict[str, Any] = dict(options)
    comparing = ComparingSettings(**{name: given.pop(name) for name in COMPARING if name in given})
    request = ValidationRequest(
        ScoredRows.open(scored) if isinstance(scored, str | Path) else ScoredRows.of_parts(scored, format),
        ModelOptions.of(model, **cast("FitOptions", given)),
        comparing,
        training or TrainingSettings(),
        asking or AskingSettings(),
        None if work is None else Path(work),
    )
    file = Path(out) if out is not None and processes().is_first else None
    if file is not None:
        require_writable(file)
        claim_file(file, is_validation)
    if (shortage := memory_shortage(request)) is not None:
        say(shortage)
    validation = run_validation(request)
    if file is not None:
        write_text(file, validation.to_json())
    return validation
