"""A validation made ready: its prompts, its rows as token ids, and what the model does before any training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..encoding.encoder import Encoder
from ..encoding.runtime import Runtime
from ..errors import Unscorable
from ..models.devices import find_device
from ..models.loading import LoadedModel, load_model
from ..models.options import ModelOptions
from ..rows.rendering import Renderer
from ..rows.turns import Conversation
from ..scoring.margin import Refusals, find_refusals
from .arms import DrawnArm, draw_arm, held_back_rows
from .finished import FinishedArms, digest_of_rows, validation_digest
from .measuring import Measured, measure
from .processes import processes
from .prompts import ValidationPrompts, gather_prompts
from .request import ValidationRequest
from .training_rows import TrainingRow, training_rows
from .words import UNTRAINED

if TYPE_CHECKING:
    import torch

_ORDINARY = 24
"""Ordinary prompts whose answers are looked at; the loss is measured on all rows that are held back."""


@dataclass(frozen=True, eq=False)
class Study:
    """What all arms of a validation share.

    Attributes:
        request: what is to be done.
        prompts: what every model is asked.
        held_back: rows that no arm trains on.
        refusals: of the model before any training.
        untrained: what that model does.
        version: of the model.
        renderer: makes token ids of conversations.
    """

    request: ValidationRequest
    prompts: ValidationPrompts
    held_back: tuple[TrainingRow, ...]
    refusals: Refusals
    untrained: Measured
    version: str
    renderer: Renderer

    def drawn(self, name: str, seed: int) -> DrawnArm:
        """The rows of an arm."""
        return draw_arm(name, seed, self.request.scored, self.request.counts)

    def conversations(self, drawn: DrawnArm) -> list[Conversation]:
        """The rows of an arm as conversations."""
        scored = self.request.scored
        return [scored.row_format.convert(row) for row in scored.take(drawn.rows)]

    def rows(self, drawn: DrawnArm) -> list[TrainingRow]:
        """The rows of an arm, ready to be trained on."""
        scored = self.request.scored
        return training_rows(scored.take(drawn.rows), scored.row_format, self.renderer)

    def digest(self, name: str, rows: Sequence[TrainingRow]) -> str:
        """Of all that decides what an arm's model does."""
        request = self.request
        return validation_digest(
            name,
            digest_of_rows(rows),
            digest_of_rows(self.held_back),
            self.version,
            _of_model(request.model),
            request.training,
            request.comparing.base_model,
            self.prompts,
            self.refusals.openings,
            request.limits,
        )


def device_for(options: ModelOptions) -> torch.device:
    """The device of a model in this process.

    Raises:
        ModelError: there is no such device.
    """
    return find_device(options.device, processes().device)


def load_whole(options: ModelOptions) -> LoadedModel:
    """A model with its head, on its device, which nothing else in this process shares.

    Raises:
        ModelError: it cannot be loaded.
    """
    return load_model(options, None, device_for(options))


def load_for_training(request: ValidationRequest) -> LoadedModel:
    """The model before any training, in the precision in which its arm is trained.

    Steps of training all weights are smaller than bfloat16 can tell, so these are float32 unless the user says a dtype.

    Raises:
        ModelError: it cannot be loaded.
    """
    options = request.model
    if request.training.method == "full" and options.dtype == "auto":
        options = replace(options, dtype="float32")
    return load_whole(options)


def prepare(request: ValidationRequest, finished: FinishedArms) -> Study:
    """Load the model, make everything ready, and measure what it does before any training.

    Raises:
        LarfError: rows, prompts or model cannot be used.
    """
    loaded = load_whole(request.model)
    encoder = Encoder(request.model, Runtime(loaded))
    held_back = _held_back(request, encoder.renderer)
    prompts = _prompts(request)
    key = validation_digest(
        _of_model(request.model), loaded.version, digest_of_rows(held_back), prompts, request.limits
    )
    refusals = _refusals(encoder, prompts, finished, key)
    untrained = finished.read(UNTRAINED, 0, key)
    if untrained is None:
        what = "before training"
        measured = measure(loaded, request.model, prompts, refusals, held_back, limits=request.limits, what=what)
        untrained = replace(measured, arm=UNTRAINED)
        finished.write(key, untrained)
    return Study(request, prompts, tuple(held_back), refusals, untrained, loaded.version, encoder.renderer)


def _refusals(encoder: Encoder, prompts: ValidationPrompts, finished: FinishedArms, key: str) -> Refusals:
    """Which prompts the model refuses, and how it begins to."""
    stored = finished.read_refusals(key)
    if stored is None:
        stored = find_refusals(encoder, prompts.harmful)
        finished.write_refusals(key, stored)
    return stored


def _of_model(options: ModelOptions) -> dict[str, object]:
    """The options that change what a model does; where it lies on this machine is not among them."""
    return {
        "dtype": options.dtype,
        "max_tokens": options.max_tokens,
        "overflow": options.overflow,
        "chat_template": options.chat_template,
    }


def _held_back(request: ValidationRequest, renderer: Renderer) -> list[TrainingRow]:
    scored = request.scored
    rows = scored.take(held_back_rows(scored, request.counts.held_back))
    # Held back to measure by: what training would leave out of the loss is not left out here.
    plain = [{name: value for name, value in row.items() if not name.startswith("larf_")} for row in rows]
    return training_rows(plain, scored.row_format, renderer)


def _prompts(request: ValidationRequest) -> ValidationPrompts:
    """The prompts, without those that any arm trains on."""
    scored, counts = request.scored, request.counts
    ordinary = []
    for row in scored.take(held_back_rows(scored, counts.held_back)):
        messages = scored.row_format.convert(row).messages
        if [message["role"] for message in messages] == ["user", "assistant"]:
            ordinary.append(str(messages[0]["content"]))
    prompts = gather_prompts(
        request.asking.prompts, list(dict.fromkeys(ordinary))[:_ORDINARY], request.asking.most_prompts
    )
    trained: set[int] = set()
    for name, seed in request.trained:
        trained.update(draw_arm(name, seed, scored, counts).rows)
    if "forget-filter" in request.comparing.remedies:
        trained.update(np.concatenate([scored.kept, scored.removed]).tolist())
        trained.difference_update(held_back_rows(scored, counts.held_back).tolist())
    texts = []
    for row in scored.take(sorted(trained)) if trained else ():
        try:
            messages = scored.row_format.convert(row).messages
        except Unscorable:
            continue
        texts += [str(message["content"]) for message in messages if message["role"] == "user"]
    return prompts.without(texts)
