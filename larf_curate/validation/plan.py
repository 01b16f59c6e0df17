"""What a validation would do, and about how long it would take; nothing is loaded or trained."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from ..answering.prompts import choose_prompts, over_rejection_prompts
from ..encoding.memory import free_bytes
from ..errors import Unscorable
from ..models.devices import find_device, find_dtype, matrix_rate
from ..models.shape import CustomCodeError, Shape, shape_of
from ..scoring.references import ReferenceSet
from .arms import ONE_TRAINING, SMALL
from .processes import processes
from .prompts import ORDINARY
from .remedies.forget_filter import safe_answers
from .request import ValidationRequest, require_models
from .words import UNTRAINED

_CHARACTERS_PER_TOKEN = 4
_SHARE = 0.5  # of the matrix rate; what training and answering reach on the machines measured
_PROMPT_TOKENS = 20  # beside what all prompts share
_REFUSAL_TOKENS = 16  # after which most answers to harmful prompts have refused
_LOOKED_AT = 200  # rows
_BESIDE = {"lox": 1, "safe-lora": 2}  # models
_LESS_MEMORY = "it will run out; take dtype nf4, method lora, or fewer batch rows"
_QUANTISED = {"int8": 1.0, "nf4": 0.52}  # bytes a weight


@dataclass(frozen=True)
class ValidationPlan:
    """What a validation would do.

    Attributes:
        source: the rows.
        fewer: whether there are fewer rows than were asked for, so that arms have as few.
        model: the model that is trained, and how in words.
        arms: rows of each arm and remedy.
        seeds: models for each.
        models: how many are trained in all.
        finished: how many of them have a file of an earlier call; whether the settings were the same is known only when
            the rows have been read.
        prompts: asked of each model.
        judges: the judges by name.
        tokens: trained on in all, about, with prompts and over all epochs.
        seconds: about how long each part takes on this machine; None where only the model's own code knows its size.
        bytes: about how many bytes the training takes; None likewise.
        free: bytes that are free on the device; None where that is not known.
        home: where finished arms are kept.
        missing: packages that have to be installed first.
    """

    source: str
    fewer: bool
    model: str
    arms: Mapping[str, int]
    seeds: int
    models: int
    finished: int
    prompts: str
    judges: tuple[str, ...]
    tokens: int
    seconds: Mapping[str, float] | None
    bytes: int | None
    free: int | None
    home: str
    missing: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the memory is there, as far as that is known."""
        return self.bytes is None or self.free is None or self.bytes <= self.free

    @property
    def advice(self) -> str:
        """What to do where the memory is not there."""
        return _LESS_MEMORY

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps({**asdict(self), "fits": self.fits}, indent=2, ensure_ascii=False) + "\n"


def plan_validation(request: ValidationRequest) -> ValidationPlan:
    """Look at a few rows, the model's config and this machine.

    Raises:
        ModelError: the model is unknown.
        PromptsError: the prompts cannot be read, or are too few.
    """
    require_models(request.model, request.comparing)
    counts = request.counts
    arms = {
        name: 0 if name == UNTRAINED else counts.removed if name in SMALL else counts.kept
        for name in request.comparing.names
    }
    most = request.asking.most_prompts or 10**9
    there = {
        "harmful": len(choose_prompts(request.asking.prompts).prompts),
        "sensitive": len(over_rejection_prompts()),
        "ordinary": min(ORDINARY, counts.held_back),
    }
    asked = {kind: min(count, most) for kind, count in there.items()}
    per_row = _tokens_per_row(request)
    tokens = int(per_row * _trained_rows(request, arms) * request.training.epochs)
    device = find_device(request.model.device)
    shape = _shape(request)
    return ValidationPlan(
        source=f"{request.scored.name}: {len(request.scored.kept):,} kept, {len(request.scored.removed):,} removed",
        fewer=any(0 < rows < (request.comparing.rows or 0) for rows in arms.values()),
        model=f"{request.model.model}, {_method(request)}",
        arms=arms,
        seeds=request.comparing.seeds,
        models=len(request.trained),
        finished=sum((request.home / f"{name}-{seed}.json").is_file() for name, seed in request.trained),
        prompts=", ".join(f"{count} {kind}" for kind, count in asked.items()),
        judges=tuple(judge.name for judge in request.judges),
        tokens=tokens,
        seconds=None if shape is None else _seconds(request, shape, tokens, asked, per_row),
        bytes=None if shape is None else _bytes(request, shape),
        free=free_bytes(device),
        home=str(request.home),
        missing=tuple(name for name in ("trl", "peft", "accelerate") if importlib.util.find_spec(name) is None),
    )


def memory_shortage(request: ValidationRequest) -> str | None:
    """What to say before a training for which this machine has not the memory; None where it has, or that is not known.

    For those who see no plan. Of processes that train together the first says it.

    Raises:
        ModelError: the model is unknown.
    """
    shape, free = _shape(request), free_bytes(find_device(request.model.device))
    if shape is None or free is None or not processes().is_first or (needed := _bytes(request, shape)) <= free:
        return None
    there = f"{free / 2**20:,.0f} MiB are free"
    return f"training takes about {needed / 2**20:,.0f} MiB, and {there}: {_LESS_MEMORY}"


def _shape(request: ValidationRequest) -> Shape | None:
    """The model's size; None where only its own code knows it."""
    try:
        return shape_of(request.model.model, request.model.revision, None)
    except CustomCodeError:
        return None


def _method(request: ValidationRequest) -> str:
    training = request.training
    on = f" on {', '.join(training.targets)}" if training.targets else ""
    method = f"LoRA of rank {training.rank}{on}" if training.method == "lora" else "all weights"
    seen = f"{training.epochs:g} epochs, {training.batch_rows} rows a step"
    return f"{method}, learning rate {training.learning_rate:g}, {seen}"


def _tokens_per_row(request: ValidationRequest) -> float:
    scored = request.scored
    everything = np.concatenate([scored.kept, scored.removed])
    places = np.linspace(0, len(everything) - 1, min(_LOOKED_AT, len(everything))).astype(int)
    characters = []
    for row in scored.take(everything[places]):
        try:
            messages = scored.row_format.convert(row).messages
        except Unscorable:
            continue
        characters.append(sum(len(str(message["content"])) for message in messages))
    return min(request.model.max_tokens, float(np.mean(characters or [0])) / _CHARACTERS_PER_TOKEN + _PROMPT_TOKENS)


def _trained_rows(request: ValidationRequest, arms: Mapping[str, int]) -> int:
    """Rows of all trainings: arms that begin with the same one share it, where an adapter is trained."""
    rows = dict(arms)
    if "forget-filter" in rows:
        rows["forget-filter's first"] = request.counts.kept
        rows["forget-filter's second"] = len(safe_answers())
    same = [name for name in (*ONE_TRAINING, "forget-filter's first") if name in rows]
    if request.training.method == "lora":
        for name in same[1:]:
            del rows[name]
    return sum(rows.values()) * request.comparing.seeds


def _seconds(
    request: ValidationRequest, shape: Shape, tokens: int, asked: Mapping[str, int], per_row: float
) -> dict[str, float]:
    """2 operations a parameter and token forward; backward 2 for an adapter and 4 for all weights."""
    device = find_device(request.model.device)
    rate = _SHARE * matrix_rate(device, find_dtype(request.model.dtype, device))
    per_token = 2.0 * shape.parameters / rate
    models = len(request.trained) + 1
    whole = request.asking.answer_tokens
    answer = whole if request.asking.whole_answers else (whole + min(whole, _REFUSAL_TOKENS)) / 2
    passes = 2 if request.training.method == "lora" else 3
    prompts = sum(asked.values())
    choices = ReferenceSet.packaged().held_back[: request.asking.most_prompts]
    choice_tokens = sum(
        _PROMPT_TOKENS + len(one.prompt + one.answer) / _CHARACTERS_PER_TOKEN
        for pair in choices
        for one in (pair.safe, pair.unsafe)
    )
    return {
        "training": passes * per_token * tokens,
        "asking": per_token * prompts * (answer + _PROMPT_TOKENS) * models,
        "losses": per_token * (choice_tokens + request.counts.held_back * per_row) * models,
        # Of harmful and ordinary prompts, and of answers that many models give only once.
        "judging": 0.5 * per_token * (prompts - asked["sensitive"]) * (answer + _PROMPT_TOKENS) * models,
    }


def _bytes(request: ValidationRequest, shape: Shape) -> int:
    """Of weights, what the optimiser keeps, the states of one batch, and what remedies keep beside these."""
    device = find_device(request.model.device)
    size = find_dtype(request.model.dtype, device).itemsize
    linear = shape.linear_parameters if request.model.dtype in _QUANTISED else 0
    weights = (shape.parameters - linear) * size + linear * _QUANTISED.get(request.model.dtype, 0)
    # Beside the model that is trained: the one before its alignment, and for Safe LoRA the trained one's weights too.
    beside = weights * max((_BESIDE.get(name, 0) for name in request.comparing.remedies), default=0)
    if request.training.method == "full":
        return round(shape.parameters * 16 + beside)  # weights, gradients and two averages in float32
    return round(1.25 * weights + beside) + (512 << 20)
