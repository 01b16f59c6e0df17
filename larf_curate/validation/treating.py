"""One arm trained: its rows as they are, or with the remedy that it is named after."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..encoding.directions import block_layers, layer_shape
from ..encoding.runtime import Runtime
from ..errors import ModelError
from ..models.loading import LoadedModel
from ..models.options import ModelOptions
from ..progress import say
from ..scoring.layer_search.profile import LayerProfile
from .arms import ONE_TRAINING, DrawnArm
from .measuring import answer_rows, mean_losses
from .remedies.added_refusals import with_refusals
from .remedies.forget_filter import least_forgotten, safe_answers
from .remedies.weight_changes import lox, merged, safe_lora
from .study import Study, load_whole
from .training import Adjust, Trained, train
from .training_rows import TrainingRow

if TYPE_CHECKING:
    from torch import Tensor

_SAFETY_BLOCKS = 2
"""On each side of the best block of the search: 5 neighbours, where the paper finds the ends of the range too, by
widening it for as long as scaling it changes refusals (6 blocks of Gemma 2B, for example)."""


@dataclass(frozen=True, eq=False)
class TrainedArm:
    """A trained arm.

    Attributes:
        trained: its model.
        rows: what it was trained on.
        seconds: how long the training took, with everything that its remedy needs.
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
        ModelError: it cannot be trained, or the remedy cannot be applied to this model.
    """
    began = time.monotonic()
    request, name = study.request, drawn.name
    frozen: tuple[int, ...] = ()
    adjust: Adjust | None = None
    safe_lora_change: SafeLoraChange | None = None
    if name in ("safe-lora", "lox"):
        if loaded.quantised:
            raise ModelError(f"the remedy {name} needs weights that are not quantised")
        unaligned = _unaligned_model(study, loaded)
        if name == "lox":
            extrapolate(loaded, unaligned)
        else:
            safe_lora_change = adjust = SafeLoraChange(loaded, unaligned)
    elif name == "merging":
        adjust = lambda _name, left, _right: merged(left)  # noqa: E731
    elif name == "sppft":
        frozen = safety_blocks(study)
    elif name == "refusals":
        rows = with_refusals(rows, study.conversations(drawn), study.renderer, drawn.seed)
    elif name == "forget-filter":
        rows, loaded = _forget_filter(study, drawn, rows, loaded)
    label = f"training {name}, seed {drawn.seed}"
    if name in ONE_TRAINING:
        trained = _trained_plainly(study, drawn, loaded, rows, label, adjust)
    else:
        trained = train(loaded, rows, request.training, drawn.seed, frozen_blocks=frozen, adjust=adjust, label=label)
    if safe_lora_change is not None:
        say(f"safe-lora: {safe_lora_change.projected} of {safe_lora_change.layers} layers are projected")
    return TrainedArm(trained, tuple(rows), time.monotonic() - began)


def _trained_plainly(
    study: Study,
    drawn: DrawnArm,
    loaded: LoadedModel,
    rows: list[TrainingRow],
    label: str,
    adjust: Adjust | None = None,
) -> Trained:
    """Train the model as it is on all rows of an arm; once, where several arms begin with the same training."""
    request, seed = study.request, drawn.seed
    digest = study.training_digest(rows)
    known = study.shared.find(seed, digest)
    trained = train(loaded, rows, request.training, seed, adjust=adjust, known=known, label=label)
    if known is None and trained.adapter is not None:
        is_shared = any((drawn.name, seed) in group and len(group) > 1 for group in request.groups)
        study.shared.keep(seed, digest, trained.adapter, in_file=is_shared)
    return trained


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
        base=model.base,
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


def _unaligned_model(study: Study, loaded: LoadedModel) -> LoadedModel:
    """The model before its alignment.

    Raises:
        ModelError: it is another model.
    """
    base_model, model = study.request.comparing.base_model, study.request.model
    assert base_model is not None  # the settings were refused otherwise
    options: ModelOptions = replace(model, model=base_model, revision=None, base=None)
    unaligned = load_whole(options)
    shapes = {name: layer_shape(layer) for name, layer in block_layers(loaded).items()}
    unaligned_shapes = {name: layer_shape(layer) for name, layer in block_layers(unaligned).items()}
    if shapes != unaligned_shapes:
        raise ModelError(f"{base_model} is not {model.model} before its alignment: its layers differ")
    return unaligned


def extrapolate(loaded: LoadedModel, unaligned: LoadedModel) -> None:
    """LoX on every matrix of the model, embeddings and head too, as the authors' script has it.

    Embeddings of another vocabulary than the unaligned model's stay as they are.
    """
    import torch

    before = dict(unaligned.model.named_parameters())
    with torch.no_grad():
        for name, weights in loaded.model.named_parameters():
            if weights.ndim > 1 and name in before and before[name].shape == weights.shape:
                weights.copy_(lox(weights, before[name]))


class SafeLoraChange:
    """What Safe LoRA makes of the change of each layer; see `Adjust`.

    Args:
        loaded: the aligned model, before any training.
        unaligned: the same before its alignment.

    Attributes:
        layers: how many it was asked about.
        projected: how many of these it has changed.
    """

    def __init__(self, loaded: LoadedModel, unaligned: LoadedModel) -> None:
        self._aligned = {name: _matrix(layer).detach().clone() for name, layer in block_layers(loaded).items()}
        self._unaligned = {name: _matrix(layer).detach() for name, layer in block_layers(unaligned).items()}
        self.layers = self.projected = 0

    def __call__(self, name: str, left: Tensor, right: Tensor | None) -> Tensor:
        """The left factor of the change as it is to be; of weights that belong to no layer of the blocks as it is."""
        if name not in self._aligned:
            return left
        treated = safe_lora(left, right, self._aligned[name], self._unaligned[name])
        self.layers += 1
        self.projected += treated is not left
        return treated


def _forget_filter(
    study: Study, drawn: DrawnArm, rows: list[TrainingRow], loaded: LoadedModel
) -> tuple[list[TrainingRow], LoadedModel]:
    """The rows of an arm without those that are forgotten most, and the model before any training again.

    Of the rows the same share goes that the threshold has removed of the dataset.
    """
    request = study.request
    scored = request.scored
    share = len(scored.removed) / max(1, len(scored.removed) + len(scored.kept))
    noisy = _trained_plainly(study, drawn, loaded, rows, f"all rows, seed {drawn.seed}").loaded
    before = mean_losses(Runtime(noisy), rows)
    safe = [row for row in answer_rows(study.renderer, safe_answers()) if row]
    cleaned = train(noisy, safe, request.training, drawn.seed, label=f"safe answers, seed {drawn.seed}").loaded
    after = mean_losses(Runtime(cleaned), rows)
    kept = least_forgotten(before, after, min(len(rows) - 1, round(share * len(rows))))
    return [rows[number] for number in np.asarray(kept).tolist()], study.model_to_train()
