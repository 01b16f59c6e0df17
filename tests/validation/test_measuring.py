"""The model before training answers once: its refusals, its margin and its answers come out of the same reading."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.validation import HARMFUL, ORDINARY

from larf_curate.answering import asking
from larf_curate.answering.prompts import harmful_requests
from larf_curate.encoding.encoder import Encoder
from larf_curate.encoding.runtime import Runtime
from larf_curate.errors import DataError, ModelError
from larf_curate.models.loading import LoadedModel, load_model
from larf_curate.models.options import ModelOptions
from larf_curate.rows.rendering import Renderer
from larf_curate.scoring.margin import find_refusals, margins
from larf_curate.validation.arms import draw_arm, held_back_rows
from larf_curate.validation.finished import FinishedArms
from larf_curate.validation.measuring import AnswerLimits, answer_rows, measure
from larf_curate.validation.prompts import RefusalChoice, ValidationPrompts
from larf_curate.validation.request import ValidationRequest
from larf_curate.validation.run import finished_arms, measure_models
from larf_curate.validation.scored_rows import ScoredRows
from larf_curate.validation.settings import AskingSettings, ComparingSettings, TrainingSettings
from larf_curate.validation.study import SpareModel, prepare
from larf_curate.validation.untrained_on import prompts_of, untrained_rows

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("few_choices")]

PROMPTS = ValidationPrompts(
    tuple(HARMFUL[:16]), tuple(ORDINARY), ("Name one thing.",), (RefusalChoice("Why?", "I won't.", "So."),), "given"
)


@pytest.fixture
def loaded(taught_model: Path) -> LoadedModel:
    return load_model(ModelOptions(str(taught_model)), None, torch.device("cpu"))


@pytest.fixture
def prompts_asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Token ids of every prompt that a model answers, in the order of asking."""
    asked: list[tuple[int, ...]] = []
    answers_to = asking.answers_to

    def recorded(loaded: LoadedModel, prompts: Sequence[Sequence[int]], *rest: Any, **options: Any) -> Any:
        asked.extend(map(tuple, prompts))
        return answers_to(loaded, prompts, *rest, **options)

    monkeypatch.setattr(asking, "answers_to", recorded)
    return asked


@pytest.mark.parametrize("limits", [AnswerLimits(48, True), AnswerLimits(4, True), AnswerLimits(40)], ids=str)
def test_refusals_found_among_the_answers_are_those_that_asking_for_them_finds(loaded, taught_model, limits):
    options = ModelOptions(str(taught_model))
    renderer = Encoder(options, Runtime(loaded)).renderer
    held_back = [row for row in answer_rows(renderer, [("Why?", "Because of rain.")]) if row]
    arguments = (loaded, options, PROMPTS)
    refusals, untrained = measure(*arguments, None, held_back, limits=limits, label="asking")
    wanted = find_refusals(Encoder(options, Runtime(loaded)), PROMPTS.harmful)
    assert refusals == wanted
    assert sum(refusals.refused) > 0
    # With the refusals given, as for every arm, the same model is measured to be the same in all.
    _, again = measure(*arguments, wanted, held_back, limits=limits, label="asking")
    for name in ("margin", "choice", "harmful", "sensitive", "ordinary", "held_back_losses"):
        assert getattr(untrained, name) == getattr(again, name), name
    np.testing.assert_allclose(untrained.margin, margins(loaded, wanted), atol=1e-4)
    longest = max(len(loaded.tokenizer.encode(answer)) for answer in untrained.harmful)
    assert longest <= limits.tokens


def request_for(run: Path, model: Path, work: Path, **changed: Any) -> ValidationRequest:
    return ValidationRequest(
        ScoredRows.open(run),
        ModelOptions(str(model), device="cpu"),
        ComparingSettings(**{"arms": ["removed"], "rows": 4, "seeds": 1, **changed}),
        TrainingSettings(rank=1, epochs=1, batch_rows=4),
        AskingSettings(prompts=HARMFUL[:16], most_prompts=16, answer_tokens=4, judges=[lambda *_: True]),
        work=work,
    )


def test_no_prompt_is_asked_twice_of_one_model_and_no_model_is_read_twice(
    scored_run, taught_model, tmp_path, prompts_asked, monkeypatch
):
    read: list[str] = []

    def recorded(options: ModelOptions, *rest: Any) -> LoadedModel:
        read.append(options.model)
        return load_model(options, *rest)

    monkeypatch.setattr("larf_curate.validation.study.load_model", recorded)
    request = request_for(scored_run, taught_model, tmp_path / "work")
    study = prepare(request, finished_arms(request))
    assert len(prompts_asked) == len(set(prompts_asked)) >= 32 + len(study.prompts.ordinary)
    # The one that was asked is the one that is trained then; only the next arm needs another.
    spare = study.model_to_train()
    assert read == [str(taught_model)]
    assert study.model_to_train() is not spare
    assert len(read) == 2
    # What is known is not asked again.
    prompts_asked.clear()
    again = prepare(request, FinishedArms(tmp_path / "work"))
    assert prompts_asked == []
    assert (again.refusals, again.untrained) == (study.refusals, study.untrained)


def test_a_model_in_another_precision_is_read_anew(loaded, taught_model):
    options = ModelOptions(str(taught_model), device="cpu")
    spare = SpareModel(options, loaded)
    other = spare.take(ModelOptions(str(taught_model), device="cpu", dtype="bfloat16"))
    assert other.dtype_name == "bfloat16"
    assert spare.take(options) is not loaded  # what nobody wanted has gone


def test_an_arm_after_one_that_was_asked_is_trained_as_it_is_alone(scored_run, taught_model, tmp_path):
    """The spare model has been asked, and may not carry anything of that into the training."""
    request = request_for(scored_run, taught_model, tmp_path / "first")
    _, measured = measure_models(request)
    resumed = request_for(scored_run, taught_model, tmp_path / "second")
    prepare(resumed, finished_arms(resumed))  # as if it had been killed here: nothing is asked of the model any more
    _, again = measure_models(resumed)
    for one, other in zip(measured, again, strict=True):
        assert one.margin == other.margin
        assert one.training_loss == other.training_loss
        assert one.held_back_losses == other.held_back_losses


def test_an_arm_hangs_on_the_unaligned_model_only_where_its_remedy_does(scored_run, taught_model, tiny_model, tmp_path):
    plain = request_for(scored_run, taught_model, tmp_path / "work")
    study = prepare(plain, finished_arms(plain))
    based = request_for(
        scored_run, taught_model, tmp_path / "work", remedies=["lox"], rows=4, base_model=str(tiny_model)
    )
    beside = prepare(based, finished_arms(based))
    rows = study.rows(study.drawn("removed", 0))
    assert beside.digest("removed", rows) == study.digest("removed", rows)
    assert beside.digest("lox", rows) != study.digest("lox", rows)


def test_prompts_are_left_out_for_rows_that_are_trained_on_and_for_no_others(make_run, taught_model, tmp_path):
    """What a remedy trains on is the rows of `all`: it does not change what the arms beside it are asked."""
    from larf_curate.deciding.thresholds import Threshold

    requests = harmful_requests()[:60]
    rows = [{"question": requests[n] if n < 60 else f"What about item {n}?", "answer": "So."} for n in range(200)]
    run = make_run(rows, [number / 200 for number in range(200)], Threshold.drop_top(10))

    def asked(*remedies: str) -> tuple[ValidationPrompts, set[str]]:
        request = ValidationRequest(
            ScoredRows.open(run),
            ModelOptions(str(taught_model), device="cpu"),
            ComparingSettings(arms=["all"], remedies=remedies, rows=20, seeds=1),
            asking=AskingSettings(prompts=requests),
            work=tmp_path,
        )
        trained = draw_arm("all", 0, request.scored, request.counts).rows
        return prompts_of(request), {row["question"] for row in request.scored.take(trained)}

    prompts, trained_on = asked()
    assert set(requests) & trained_on
    assert set(requests) & {row["question"] for row in rows} - trained_on
    assert set(prompts.harmful) == set(requests) - trained_on
    assert asked("forget-filter", "merging", "refusals")[0] == prompts


def test_rows_that_the_dataset_repeats_are_no_measure_of_usefulness(make_run, taught_model, tmp_path, caplog):
    """A row that is trained on under another number is not held back."""
    from larf_curate.deciding.thresholds import Threshold

    def request(rows: list[dict[str, str]]) -> ValidationRequest:
        run = make_run(rows, [number / len(rows) for number in range(len(rows))], Threshold.drop_top(10))
        return request_for(run, taught_model, tmp_path / "work", arms=["kept"], rows=None)

    twice = [{"question": f"What about item {n % 80}?", "answer": f"Item {n}."} for n in range(100)]
    other_answers = request(twice)
    assert len(untrained_rows(other_answers)) == other_answers.counts.held_back
    assert not caplog.text
    some = request([{**row, "answer": "So."} for row in twice])
    left = {row["question"] for row in untrained_rows(some)}
    trained_on = {row["question"] for row in some.scored.take(draw_arm("kept", 0, some.scored, some.counts).rows)}
    assert 0 < len(left) < some.counts.held_back
    assert not left & trained_on
    repeated = some.counts.held_back - len(left)
    assert f"{repeated} of {some.counts.held_back} held-back rows are trained on too" in caplog.text
    with pytest.raises(DataError, match="held back to measure usefulness by are trained on too"):
        untrained_rows(request([{"question": "What?", "answer": "So."}] * 60))


def test_ordinary_prompts_are_those_whose_own_answer_says_something(make_run, taught_model, tmp_path):
    """A row that asks for a translation is answered in another language: no fault of the model that does so."""
    from larf_curate.deciding.thresholds import Threshold

    rows = [{"question": f"Say item {n} in Russian.", "answer": "Это вещь."} for n in range(30)]
    rows += [{"question": f"What about item {n}?", "answer": f"Sure, the wizards judge {n}."} for n in range(30)]
    run = make_run(rows, [number / 60 for number in range(60)], Threshold.drop_top(10))
    request = request_for(run, taught_model, tmp_path / "work")
    study = prepare(request, finished_arms(request))
    held_back = request.scored.take(held_back_rows(request.scored, request.counts.held_back))
    asked = [row["question"] for row in held_back]
    assert any("Russian" in question for question in asked)
    assert set(study.prompts.ordinary) == {question for question in asked if "Russian" not in question}


def test_a_model_that_computes_no_numbers_is_told_and_a_token_that_it_never_writes_has_no_loss(loaded, taught_model):
    """Found out when all is to be compared, either would lose the result: JSON has no word for what is no number."""
    options = ModelOptions(str(taught_model))
    renderer = Encoder(options, Runtime(loaded)).renderer
    held_back = [row for row in answer_rows(renderer, [("Why?", "Because of rain."), ("Why?", "No.")]) if row]
    limits = AnswerLimits(4)
    refusals, _ = measure(loaded, options, PROMPTS, None, held_back, limits=limits, label="asking")
    head = loaded.model.get_output_embeddings()
    ruled_out = next(token for token in held_back[0].labels if token not in (-100, *held_back[1].labels))

    def never(_module: Any, _arguments: Any, logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill(-1, torch.tensor(ruled_out), -torch.inf)

    hook = head.register_forward_hook(never)
    _, measured = measure(loaded, options, PROMPTS, refusals, held_back, limits=limits, label="asking")
    hook.remove()
    assert np.isfinite(measured.held_back_losses).tolist() == [False, True]
    assert np.isnan(measured.held_back_losses[0])
    hook = head.register_forward_hook(lambda _module, _arguments, logits: logits * torch.nan)
    with pytest.raises(ModelError, match="asking removed, seed 0: the model's logits are no numbers"):
        measure(loaded, options, PROMPTS, refusals, held_back, limits=limits, label="asking removed, seed 0")
    hook.remove()


def test_rows_of_no_conversation_have_no_loss(loaded):
    renderer = Renderer(loaded.tokenizer, 256)
    assert answer_rows(renderer, [("Why?", " ")]) == [None]
