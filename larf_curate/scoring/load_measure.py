"""A fitted scorer's model in memory, checked, and what turns conversations into scores with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..encoding.directions import WeightDirection
from ..encoding.encoder import get_encoder
from ..models.options import RunOptions
from .annotating import Measure
from .artifact import Tensors
from .formulas import FittedFormula
from .influence_measure import InfluenceMeasure
from .loss_gap import LossGapMeasure
from .margin import require_gradients
from .model_check import require_fitted_model
from .spec import ScorerSpec
from .state_measure import StateMeasure


def load_measure(
    spec: ScorerSpec, tensors: Tensors, options: RunOptions, rank: int | None, formula: Callable[[], FittedFormula]
) -> Measure:
    """The measure of a scorer's formula, with this process's copy of its model.

    Args:
        spec, tensors: the scorer's.
        options: how its model is loaded and run.
        rank: number of this worker process; spreads workers over several CUDA devices.
        formula: gives the formula over states, if that is what the scorer has.

    Raises:
        ModelError: the model cannot be loaded.
        ScorerError: it is not the one that the scorer was fitted on.
    """
    encoder = get_encoder(spec.model_options(options), max(spec.layers) if spec.layers else None, rank)
    moved = [name for name in ("model", "base") if options.get(name) is not None]
    require_fitted_model(spec, tensors["check"], encoder, moved)
    if spec.other is not None:
        second = get_encoder(spec.other_options(options), None, rank)
        expected = replace(spec, model=spec.other.model, version=spec.other.version)
        require_fitted_model(expected, tensors["other_check"], second)
        return LossGapMeasure(encoder, second, spec.kinds)
    if spec.margin is not None:
        require_gradients(encoder.loaded)
        return InfluenceMeasure(encoder, WeightDirection.of_tensors(tensors), spec.margin.step, spec.kinds)
    return StateMeasure(encoder, formula(), spec.kinds)
