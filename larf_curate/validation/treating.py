"""One arm trained: its rows as they are, or with the remedy that it is named after."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..encoding.directions import block_layers, layer_shape
from ..encoding.runtime import Runtime
from ..errors import ModelError
from ..models.loading import LoadedModel
from ..models.options import ModelOptions
from ..scoring.layer_search.profile import LayerProfile
from .arms import DrawnArm
from .measuring import answer_rows, mean_losses
from .remedies.added_refusals import with_refusals
from .remedies.forget_filter import least_forgotten, safe_answers
from .remedies.weight_changes import lox, merged, safe_lora
from .study import Study, load_for_training, load_whole
from .training import Adjust, Trained, train
from .training_rows import TrainingRow

if TYPE_CHECKING:
    from torch import Tensor

_SAFETY_BLOCKS = 2  # on each side of the best block of the search


@dataclass(frozen=True, eq=False)
class TrainedArm:
    """A trained arm.

    Attributes:
        trained: its model.
        rows: what it was trained on.
        seconds: that the training took, with what its remedy needs.
    """

    trained: Trained
    rows: tuple[TrainingRow, ...]
    seconds: float


def train_arm(study: Study, drawn: DrawnArm, rows: list[TrainingRow], loaded: LoadedModel) -> TrainedArm:
    """Train one arm, after its remedy where it is one.

    Args:
        study: what all arms share.
        drawn: the arm.
        rows: its rows.
        loaded: the model before any training, which is used up.

    Raises:
        ModelError: it cannot be trained, or the remedy cannot be had with this model.
    """
    began = time.monotonic()
    request, name = study.request, drawn.name
    frozen: tuple[int, ...] = ()
    adjust: Adjust | None = None
    if name in ("safe-lora", "lox"):
        if loaded.quantised:
            raise ModelError(f"the remedy {name} needs weights that are not quantised")
        unaligned = _unaligned_weights(study, loaded)
        if name == "lox":
            _extrapolate(loaded, unaligned)
        else:
            adjust = _safe_lora(loaded, unaligned)
    elif name == "merging":
        adjust = lambda _name, left, _right: merged(left)  # noqa: E731
    elif name == "sppft":
        frozen = safety_blocks(study)
    elif name == "refusals":
        rows = with_refusals(rows, study.conversations(drawn), study.renderer, drawn.seed)
    elif name == "forget-filter":
        rows, loaded = _forget_filter(study, drawn, rows, loaded)
    what = f"training {name}, seed {drawn.seed}"
    trained = train(loaded, rows, request.training, drawn.seed, frozen_blocks=frozen, adjust=adjust, what=what)
    return TrainedArm(trained, tuple(rows), time.monotonic() - began)


def safety_blocks(study: Study) -> tuple[int, ...]:
    """The blocks that SPPFT freezes: the best of the search for the safety-sensitive layer, and two on each side.

    The search is run if it was not run before, which takes minutes to hours; its answers are kept in the cache.

    Raises:
        ModelError: the search finds no block.
    """
    from ..scoring.layer_search.search import find_safety_layers

    model = study.request.model
    profile: LayerProfile = find_safety_layers(
        model.model,
        revision=model.revision,
        dtype=model.dtype,
        device=model.device,
        chat_template=model.chat_template,
        trust_remote_code=model.trust_remote_code,
    )
    if profile.best is None:
        raise ModelError("the remedy sppft needs safety layers, and the search finds none in this model")
    last = max(block.block for block in profile.blocks)
    return tuple(range(max(0, profile.best - _SAFETY_BLOCKS), min(last, profile.best + _SAFETY_BLOCKS) + 1))


def _matrix(layer: Any) -> Tensor:
    """The weights of a layer as [outputs, inputs]."""
    from transformers.pytorch_utils import Conv1D

    weight: Tensor = layer.weight
    return weight.T if isinstance(layer, Conv1D) else weight


def _unaligned_weights(study: Study, loaded: LoadedModel) -> Mapping[str, Tensor]:
    """The matrices of the model before its alignment, by layer.

    Raises:
        ModelError: it is another model.
    """
    request = study.request
    assert request.base_model is not None  # the request was refused otherwise
    options: ModelOptions = replace(request.model, model=request.base_model, revision=None)
    unaligned = load_whole(options)
    wanted = {name: layer_shape(layer) for name, layer in block_layers(loaded).items()}
    found = {name: layer_shape(layer) for name, layer in block_layers(unaligned).items()}
    if wanted != found:
        raise ModelError(f"{request.base_model} is not {request.model.model} before its alignment: its layers differ")
    return {name: _matrix(layer).detach() for name, layer in block_layers(unaligned).items()}


def _extrapolate(loaded: LoadedModel, unaligned: Mapping[str, Tensor]) -> None:
    import torch

    with torch.no_grad():
        for name, layer in block_layers(loaded).items():
            matrix = _matrix(layer)
            matrix.copy_(lox(matrix, unaligned[name]))


def _safe_lora(loaded: LoadedModel, unaligned: Mapping[str, Tensor]) -> Adjust:
    aligned = {name: _matrix(layer).detach().clone() for name, layer in block_layers(loaded).items()}

    def adjust(name: str, left: Tensor, right: Tensor | None) -> Tensor:
        return safe_lora(left, right, aligned[name], unaligned[name])

    return adjust


def _forget_filter(
    study: Study, drawn: DrawnArm, rows: list[TrainingRow], loaded: LoadedModel
) -> tuple[list[TrainingRow], LoadedModel]:
    """The rows of an arm without those that are forgotten most, and the model before any training again.

    Of the rows the same share goes that the threshold has removed of the dataset.
    """
    request = study.request
    scored = request.scored
    share = len(scored.removed) / max(1, len(scored.removed) + len(scored.kept))
    noisy = train(loaded, rows, request.training, drawn.seed, what=f"all rows, seed {drawn.seed}").loaded
    before = mean_losses(Runtime(noisy), rows)
    safe = [row for row in answer_rows(study.renderer, safe_answers()) if row]
    cleaned = train(noisy, safe, request.training, drawn.seed, what=f"safe answers, seed {drawn.seed}").loaded
    after = mean_losses(Runtime(cleaned), rows)
    kept = least_forgotten(before, after, min(len(rows) - 1, round(share * len(rows))))
    return [rows[number] for number in np.asarray(kept).tolist()], load_for_training(request)
