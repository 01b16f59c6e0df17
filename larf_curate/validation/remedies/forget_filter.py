"""ForgetFilter: rows that a model forgets most when it is trained on safe answers are left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...scoring.references import ReferenceSet


def least_forgotten(losses_before: Sequence[float], losses_after: Sequence[float], drop: int) -> NDArray[np.int64]:
    """The rows that stay: all but the `drop` rows whose loss the training on safe answers has raised most.

    After arXiv 2312.12736, for a model that has been trained on all rows and then on safe answers. Two things differ.
    The authors measure forgetting by how far the ROUGE-1 of what the model generates falls; the loss tells the same of
    each row without generating anything. They drop the rows above a threshold; here their number is given, so that all
    filters that are compared drop as many. Rows without a loss go first.

    >>> least_forgotten([1.0, 1.0, 1.0], [1.1, 3.0, 0.9], 1).tolist()
    [0, 2]
    """
    rise = np.asarray(losses_after, np.float64) - np.asarray(losses_before, np.float64)
    order = np.argsort(np.where(np.isnan(rise), np.inf, rise), kind="stable")
    return np.sort(order[: len(order) - drop])


def safe_answers() -> list[tuple[str, str]]:
    """Harmful requests with answers that refuse them: the packaged references that fits are made of.

    Those that are held back are asked in the validation, and so are not among them.
    """
    return [(pair.safe.prompt, pair.safe.answer) for pair in ReferenceSet.packaged().fitted]
