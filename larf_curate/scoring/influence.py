"""How a gradient step on a row changes a model's margin of refusing, measured by two forward passes over the row.

Let S(theta) be the margin (`margin`), and v its gradient, scaled to norm 1. A small gradient step on a row moves the
weights by -grad L(row), and so changes S along v by -<grad L(row), v>: minus the derivative of the row's loss along v.
That is (L(theta - step v) - L(theta + step v)) / (2 step), up to the square of the step, so no gradient of a row is
needed.

The score of a token has the opposite sign: how far a step on it moves the model away from refusing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..encoding.directions import WeightDirection
from ..encoding.losses import LossJob
from ..encoding.runtime import Runtime
from ..encoding.tangents import token_tangents
from ..errors import Issue

STEPS = (0.03, 0.01, 0.003, 0.001)
"""Step sizes to choose from: the norm of the change of all weights."""
_FAR = 1e30
USUAL_STEP = 0.003
"""Of these, where none can be chosen since half precision takes no steps: the scorer may run in float32 some day."""


@dataclass(frozen=True)
class TokenInfluence:
    """How far a gradient step on each trained token of some rows moves a model away from refusing.

    Attributes:
        values: for each row, float32 [trained tokens], in log-odds of refusing for each unit of learning rate; positive
            is damage. None where `issues` says why there are none.
        losses: for each row, the loss of each trained token in nats, float32 [trained tokens]; None likewise.
        issues: for each row, why it has no value, or None.
        execution: how they were computed, in words.
    """

    values: list[NDArray[np.float32] | None]
    losses: list[NDArray[np.float32] | None]
    issues: list[Issue | None]
    execution: str

    def means(self) -> NDArray[np.float32]:
        """For each row, the mean over its trained tokens; float32 [rows], NaN for none."""
        return np.array([np.nan if row is None else row.mean() for row in self.values], np.float32)

    def sums(self) -> NDArray[np.float32]:
        """For each row, the sum over its trained tokens; float32 [rows], NaN for none."""
        return np.array([np.nan if row is None else row.sum() for row in self.values], np.float32)


def token_influence(
    runtime: Runtime,
    ids: Sequence[Sequence[int]],
    trained: Sequence[Sequence[bool]],
    direction: WeightDirection,
    step: float,
    *,
    batch_tokens: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> TokenInfluence:
    """The derivative of each trained token's loss along a direction.

    In float32 by central differences: two passes, as fast as those for states. In half precision the difference of two
    losses is lost in rounding; there the derivative is carried along with one pass (`token_tangents`).

    Args:
        runtime: the runtime of a model that was loaded with its head.
        ids, trained: as for `token_losses`.
        direction: the direction of norm 1 along which the margin grows.
        step: how far the weights are moved in each direction, in float32; see `choose_step`.
        batch_tokens: as for `token_losses`.
        progress: called with the number of rows just done.

    Raises:
        ModelError: the model has no such layers.
    """
    if runtime.loaded.dtype_name != "float32":
        losses, tangents = token_tangents(
            runtime, ids, trained, direction, batch_tokens=batch_tokens, progress=progress
        )
        return TokenInfluence(tangents.values, losses.values, losses.issues, tangents.execution)
    return _differences(LossJob(runtime, ids, trained, batch_tokens=batch_tokens), runtime, direction, step, progress)


def _differences(
    job: LossJob,
    runtime: Runtime,
    direction: WeightDirection,
    step: float,
    progress: Callable[[int], object] | None = None,
) -> TokenInfluence:
    """Central differences of the losses of a job's rows, whose batches both passes share."""
    sides = []
    for size in (step, -step):
        with direction.step(runtime.loaded, size):
            sides.append(job.run(progress if size < 0 else None))
    values: list[NDArray[np.float32] | None] = []
    mean_losses: list[NDArray[np.float32] | None] = []
    for above, below in zip(sides[0].values, sides[1].values, strict=True):
        if above is None or below is None:
            values.append(None)
            mean_losses.append(None)
        else:
            values.append(((above.astype(np.float64) - below) / (2 * step)).astype(np.float32))
            # The loss itself, up to the square of the step.
            mean_losses.append(((above + below) / 2).astype(np.float32))
    issues = [first or second for first, second in zip(sides[0].issues, sides[1].issues, strict=True)]
    return TokenInfluence(values, mean_losses, issues, sides[0].execution)


def choose_step(
    runtime: Runtime, ids: Sequence[Sequence[int]], trained: Sequence[Sequence[bool]], direction: WeightDirection
) -> tuple[float, float]:
    """The step of `STEPS` whose central differences are closest to the derivative, judged on a few rows.

    With a long step the loss is not linear any more; with a short one the difference is lost in rounding. Both errors
    are small where two neighbouring steps give the same scores.

    Returns:
        The step, and the median difference between the rows' scores at it and at the next longer step, divided by the
        standard deviation of the scores.
    """
    job = LossJob(runtime, ids, trained)
    scores = [_differences(job, runtime, direction, step).sums() for step in STEPS]
    gaps = [_gap(longer, shorter) for longer, shorter in pairwise(scores)]
    best = int(np.argmin(gaps))
    return STEPS[best + 1], gaps[best]


def _gap(longer: NDArray[np.float32], shorter: NDArray[np.float32]) -> float:
    """How far the scores at two steps are apart, in standard deviations; very far where one step gives none."""
    both = np.isfinite(longer) & np.isfinite(shorter)
    if not both.any():
        return _FAR
    return min(float(np.median(np.abs(longer - shorter)[both])) / max(float(np.std(shorter[both])), 1 / _FAR), _FAR)
