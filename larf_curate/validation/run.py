"""Runs a validation: prepares it, trains and asks every arm that is not done yet, judges, and sums up."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version

from ..encoding.memory import release_memory
from ..encoding.runtime import Runtime, unload_models
from ..progress import LOGGER, progress, say
from .finished import FinishedArms
from .judged import JudgedModel, judge_models, losses_before_training, try_judges
from .judging import AnswerJudge
from .measuring import Measured, measure
from .processes import processes
from .request import ArmAndSeed, ValidationRequest, require_models
from .results import Validation, ValidationRecord
from .study import Study, device_for, prepare
from .summarising import Models, arm_results, judge_results, trend_of
from .training import require_training_packages
from .training_rows import total_trained_tokens
from .treating import train_arm
from .verdict import verdict_of
from .words import UNTRAINED

_PACKAGES = ("larf-curate", "torch", "transformers", "trl", "peft")


def run_validation(request: ValidationRequest) -> Validation:
    """Do all that a request asks for. Arms that an earlier call has finished are not trained again.

    Raises:
        LarfError: rows, model, prompts or judges cannot be used.
    """
    return sum_up(*measure_models(request))


def measure_models(request: ValidationRequest) -> tuple[Study, list[Measured]]:
    """Train and ask every model that no earlier call has; the one before any training is the first.

    Raises:
        LarfError: rows, model or prompts cannot be used.
    """
    study, finished = prepared(request), finished_arms(request)
    measured = [study.untrained]
    with progress(len(request.trained), "validate", unit="model") as update:
        for group in request.groups:
            for name, seed in group:
                measured.append(measure_arm(study, finished, name, seed))
                update(1)
            forget_shared_training(study, group)
    return study, measured


def prepared(request: ValidationRequest) -> Study:
    """The prompts, the rows, and what the model does before any training, which is measured once for all arms.

    Raises:
        LarfError: rows, model, prompts or judges cannot be used, or a package is missing.
    """
    if not processes().is_first:
        LOGGER.setLevel(logging.WARNING)
    require_training_packages()
    require_models(request.model, request.comparing)
    finished = finished_arms(request)
    finished.require_writable()
    unload_models()  # a scorer's model, of which this process keeps a copy, would take the room of the trained one
    study = prepare(request, finished)
    if processes().is_first:
        try_judges(request.judges, study.prompts, study.untrained)
    return study


def finished_arms(request: ValidationRequest) -> FinishedArms:
    """Where finished arms are kept."""
    return FinishedArms(request.home, private=request.work is None)


def measure_arm(study: Study, finished: FinishedArms, name: str, seed: int) -> Measured:
    """Train and ask one arm, unless that is done.

    Raises:
        LarfError: it cannot be trained or asked.
    """
    request = study.request
    drawn = study.drawn(name, seed)
    rows = study.rows(drawn)
    digest = study.digest(name, rows)
    done = finished.read(name, seed, digest)
    if done is not None and done.counts == study.untrained.counts:
        return done
    number = request.trained.index((name, seed)) + 1
    say(f"validate: {name}, seed {seed} (model {number} of {len(request.trained)})")
    release_memory(device_for(request.model))
    arm = train_arm(study, drawn, rows, study.model_to_train())
    model = arm.trained.loaded
    _, measured = measure(
        model,
        request.model,
        study.prompts,
        study.refusals,
        study.held_back,
        limits=request.limits,
        label=f"asking {name}, seed {seed}",
    )
    measured = replace(
        measured,
        arm=name,
        seed=seed,
        rows=len(arm.rows),
        trained_tokens=total_trained_tokens(arm.rows),
        training_loss=arm.trained.loss,
        seconds={"training": arm.seconds, **measured.seconds},
    )
    finished.write(digest, measured)
    return measured


def forget_shared_training(study: Study, group: Sequence[ArmAndSeed]) -> None:
    """Remove what the models of a group have in common from memory and disk, once all of them are measured."""
    if len(group) > 1:
        study.shared.forget(group[0][1])


def sum_up(study: Study, measured: Sequence[Measured]) -> Validation:
    """Judge what the models answered, and compare them.

    Raises:
        ModelError: a judge cannot be asked, or cannot read the answers.
    """
    request = study.request
    began = time.monotonic()
    release_memory(device_for(request.model))
    losses = losses_before_training(measured, study.prompts, Runtime(study.model()), study.renderer)
    judged = judge_models(measured, study.prompts, request.judges, losses, study.untrained.held_back_losses)
    judging = time.monotonic() - began
    arms: dict[str, Models] = {
        name: [pair for pair in zip(measured, judged, strict=True) if pair[0].arm == name]
        for name in dict.fromkeys((UNTRAINED, *request.comparing.names))
    }
    judge, refusal_judge = request.judges[0].name, _refusal_judge(request.judges, judged)
    results = arm_results(arms, judge, refusal_judge)
    trend = trend_of(arms)
    removed = next((arm for arm in results if arm.name == "removed"), None)
    compared = removed or next((arm for arm in results if arm.against is not None), None)
    against = compared.against if compared is not None else None
    return Validation(
        verdict=verdict_of(results, trend, request.comparing.seeds, len(study.prompts.harmful)),
        arms=results,
        judges=judge_results(arms, [judge.name for judge in request.judges]),
        trend=trend,
        detectable=None if against is None else against.detectable,
        record=_record(study, measured, judging),
    )


def _refusal_judge(judges: Sequence[AnswerJudge], judged: Sequence[JudgedModel]) -> str | None:
    """The first judge that says which answers refuse."""
    for judge in judges:
        for model in judged:
            verdicts = model.harmful.verdicts.get(judge.name)
            if verdicts is not None and verdicts.refused is not None:
                return judge.name
    return None


def _record(study: Study, measured: Sequence[Measured], judging: float) -> ValidationRecord:
    request, prompts = study.request, study.prompts
    parts = dict.fromkeys(part for model in measured for part in model.seconds)
    return ValidationRecord(
        source=request.scored.name,
        run_digest=request.scored.digest,
        model=request.model.model,
        version=study.version,
        base_model=request.comparing.base_model,
        seeds=request.comparing.seeds,
        training=asdict(request.training),
        prompts={
            "harmful": len(prompts.harmful),
            "sensitive": len(prompts.sensitive),
            "ordinary": len(prompts.ordinary),
            "choices": len(prompts.choices),
            "held_back_rows": len(study.held_back),
        },
        prompts_from=prompts.source,
        dropped_prompts=len(prompts.dropped),
        answer_tokens=request.asking.answer_tokens,
        seconds={
            **{part: sum(model.seconds.get(part, 0.0) for model in measured) for part in parts},
            "judging": judging,
        },
        packages={name: installed for name in _PACKAGES if (installed := _version(name))},
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
