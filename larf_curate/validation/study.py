"""A validation made ready: its prompts, its rows as token ids, and what the model does before any training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..answering.prompts import require_enough
from ..encoding.encoder import Encoder
from ..encoding.memory import release_memory
from ..encoding.runtime import Runtime
from ..models.devices import find_device
from ..models.loading import LoadedModel, load_model
from ..models.locating import locate
from ..models.options import ModelOptions
from ..rows.rendering import Renderer
from ..rows.turns import Conversation
from ..scoring.margin import Refusals
from .arms import DrawnArm, draw_arm
from .finished import FinishedArms, digest_of_rows, validation_digest
from .measuring import Measured, measure
from .processes import processes
from .prompts import ValidationPrompts
from .request import ValidationRequest
from .settings import NEED_UNALIGNED
from .shared_training import SharedTraining
from .training_rows import TrainingRow, training_rows, with_conversations
from .untrained_on import prompts_of, untrained_rows
from .words import UNTRAINED

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Study:
    """What all arms of a validation share.

    Attributes:
        request: what is to be done.
        prompts: what every model is asked.
        held_back: rows that no arm trains on.
        refusals: the refusals of the model before any training.
        untrained: what that model does.
        version: the version of the model.
        renderer: makes token ids of conversations.
        spare: the model before any training, as long as nobody has used it up.
        shared: the training that several arms begin with.
    """

    request: ValidationRequest
    prompts: ValidationPrompts
    held_back: tuple[TrainingRow, ...]
    refusals: Refusals
    untrained: Measured
    version: str
    renderer: Renderer
    spare: SpareModel
    shared: SharedTraining

    def drawn(self, name: str, seed: int) -> DrawnArm:
        """The rows of an arm."""
        return draw_arm(name, seed, self.request.scored, self.request.counts)

    def conversations(self, drawn: DrawnArm) -> list[Conversation]:
        """What the rows of an arm are before they are token ids: one for each of `rows`."""
        scored = self.request.scored
        ready = with_conversations(scored.take(drawn.rows), scored.row_format, self.renderer)
        return [conversation for conversation, _ in ready]

    def rows(self, drawn: DrawnArm) -> list[TrainingRow]:
        """The rows of an arm, ready to be trained on."""
        scored = self.request.scored
        return training_rows(scored.take(drawn.rows), scored.row_format, self.renderer)

    def model(self) -> LoadedModel:
        """The model before any training.

        Raises:
            ModelError: it cannot be loaded.
        """
        return self.spare.take(self.request.model)

    def model_to_train(self) -> LoadedModel:
        """The same in the precision in which an arm is trained.

        Steps of training all weights are smaller than bfloat16 can tell, so these are float32 unless the user says a
        dtype.

        Raises:
            ModelError: it cannot be loaded.
        """
        options = self.request.model
        if self.request.training.method == "full" and options.dtype == "auto":
            options = replace(options, dtype="float32")
        return self.spare.take(options)

    def digest(self, name: str, rows: Sequence[TrainingRow]) -> str:
        """Of all that decides what an arm's model does."""
        request = self.request
        base = request.comparing.base_model if name in NEED_UNALIGNED else None
        return validation_digest(
            name,
            digest_of_rows(rows),
            digest_of_rows(self.held_back),
            self.version,
            _of_model(request.model),
            request.training,
            None if base is None else locate(base).version,
            self.prompts,
            self.refusals.openings,
            request.limits,
        )

    def training_digest(self, rows: Sequence[TrainingRow]) -> str:
        """Of all that decides, beside the seed, what training the model as it is on some rows comes to."""
        request = self.request
        return validation_digest(digest_of_rows(rows), self.version, _of_model(request.model), request.training)


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


class SpareModel:
    """A model before any training that lies in memory, for the first who asks: reading it again takes as long.

    Args:
        options: the options, with which it was loaded.
        loaded: the model.
    """

    def __init__(self, options: ModelOptions, loaded: LoadedModel) -> None:
        self._options = options
        self._loaded: LoadedModel | None = loaded

    def take(self, options: ModelOptions) -> LoadedModel:
        """This model, which is the taker's from now on, or the same read anew.

        Args:
            options: the options, with which it is wanted; what is held goes either way, so that there are never two.

        Raises:
            ModelError: it cannot be loaded.
        """
        held, self._loaded = self._loaded, None
        if held is not None and options == self._options:
            return held
        del held
        release_memory(device_for(options))
        return load_whole(options)


def prepare(request: ValidationRequest, finished: FinishedArms) -> Study:
    """Load the model, make everything ready, and measure what it does before any training.

    Raises:
        LarfError: rows, prompts or model cannot be used.
    """
    loaded = load_whole(request.model)
    encoder = Encoder(request.model, Runtime(loaded))
    held_back = _held_back(request, encoder.renderer)
    prompts = prompts_of(request)
    key = validation_digest(
        _of_model(request.model), loaded.version, digest_of_rows(held_back), prompts, request.limits
    )
    refusals, untrained = finished.read_refusals(key), finished.read(UNTRAINED, 0, key)
    if refusals is None or untrained is None:
        require_enough(prompts.harmful)
        refusals, measured = measure(
            loaded, request.model, prompts, None, held_back, limits=request.limits, label="before training"
        )
        untrained = replace(measured, arm=UNTRAINED)
        finished.write_refusals(key, refusals)
        finished.write(key, untrained)
    spare = SpareModel(request.model, loaded)
    return Study(
        request,
        prompts,
        tuple(held_back),
        refusals,
        untrained,
        loaded.version,
        encoder.renderer,
        spare,
        SharedTraining(finished),
    )


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
    # Held back to measure by: what training would leave out of the loss is not left out here.
    plain = [
        {name: value for name, value in row.items() if not name.startswith("larf_")} for row in untrained_rows(request)
    ]
    return training_rows(plain, scored.row_format, renderer)
