"""A validation from end to end on a tiny model: killed half-way, gone on with, and told in figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.validation import HARMFUL

from larf_curate.errors import DataError, LarfError, ModelError, PromptsError
from larf_curate.validation import run as running
from larf_curate.validation.results import Validation
from larf_curate.validation.settings import AskingSettings, TrainingSettings
from larf_curate.validation.validate import validate

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("few_choices")]

SETTINGS = TrainingSettings(rank=2, learning_rate=2e-3, epochs=1, batch_rows=4)
FIGURES = ["margin", "refused", "answered", "incoherent", "over_refusal", "usefulness", "coherent", "choice"]


def quickly(run: Path, model: Path, work: Path, **changed: Any) -> Validation:
    arguments = {
        "arms": ["removed", "matched"],
        "rows": 6,
        "seeds": 2,
        "asking": asked(),
        "training": SETTINGS,
        "work": work,
        "device": "cpu",
        **changed,
    }
    return validate(run, str(model), **arguments)


def asked(**changed: Any) -> AskingSettings:
    return AskingSettings(**{"prompts": HARMFUL[:16], "most_prompts": 16, "answer_tokens": 8, **changed})


def judged_by_hand(_prompt: str, answer: str) -> bool:
    return "can't" in answer


@pytest.fixture
def no_english(monkeypatch):
    """The tiny model writes no English: what reads wording is told to read all the same."""
    monkeypatch.setattr("larf_curate.validation.judging.is_english", lambda _text: True)


def test_killed_half_way_and_gone_on_with(scored_run, taught_model, tmp_path, monkeypatch, no_english):
    trained: list[str] = []
    train_arm = running.train_arm

    def until_killed(study, drawn, rows, loaded):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(f"{drawn.name}-{drawn.seed}")
        return train_arm(study, drawn, rows, loaded)

    monkeypatch.setattr(running, "train_arm", until_killed)
    work = tmp_path / "work"
    with pytest.raises(KeyboardInterrupt):
        quickly(scored_run, taught_model, work)
    assert trained == ["removed-0", "matched-0"]
    assert {path.name for path in work.iterdir()} >= {"none-0.json", "removed-0.json", "matched-0.json"}

    def counted(study, drawn, rows, loaded):
        trained.append(f"{drawn.name}-{drawn.seed}")
        return train_arm(study, drawn, rows, loaded)

    monkeypatch.setattr(running, "train_arm", counted)
    out = tmp_path / "found.json"
    found = quickly(scored_run, taught_model, work, out=out, asking=asked(judges=["wording", judged_by_hand]))
    assert trained == ["removed-0", "matched-0", "removed-1", "matched-1"]

    values = json.loads(out.read_text())
    assert list(values["arms"]) == ["none", "removed", "matched"]
    for arm in values["arms"].values():
        for name in FIGURES:
            low, high = arm[name]["interval"]
            assert low <= arm[name]["value"] <= high, name
    removed = values["arms"]["removed"]
    assert removed["control"] == "matched"
    assert removed["against"]["interval"][0] <= removed["against"]["value"] <= removed["against"]["interval"][1]
    for name in ("refused", "over_refusal", "usefulness"):
        low, high = removed["differences"][name]["interval"]
        assert low <= removed["differences"][name]["value"] <= high, name
    assert removed["equal"] in ("rows", "rows and trained tokens")
    assert (removed["rows"], removed["seeds"]) == (6, 2)
    assert values["verdict"] == found.verdict
    half = (removed["against"]["interval"][1] - removed["against"]["interval"][0]) / 2
    assert values["detectable"] == pytest.approx(half + 0.84 * removed["against"]["error"])
    assert [judge["name"] for judge in values["judges"]] == ["wording (English)", "judged_by_hand"]
    assert set(values["judges"][1]["answered"]) == {"none", "removed", "matched"}
    assert set(values["record"]["seconds"]) == {"training", "answering", "losses", "judging"}
    assert values["record"]["packages"]["trl"]
    # The model before training refuses what it was taught to, and the margin says so.
    assert found.arm("none").refused.value > 0.5
    assert found.arm("none").margin.value > 0
    read = Validation.from_json(out.read_text())
    assert read.to_json() == out.read_text()
    assert read.arm("removed").against == found.arm("removed").against

    # Nothing is trained again, unless it would be trained otherwise.
    trained.clear()
    assert quickly(scored_run, taught_model, work).arm("removed").margin == found.arm("removed").margin
    assert trained == []
    quickly(scored_run, taught_model, work, arms=["removed"], seeds=1, training=TrainingSettings(rank=1, epochs=1))
    assert trained == ["removed-0"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"arms": ["worst"]}, "there is no arm 'worst'; there are none, removed"),
        ({"remedies": ["prayer"]}, "there is no remedy 'prayer'"),
        ({"remedies": ["lox"]}, "the remedy lox needs the model before its alignment"),
        ({"remedies": ["lox"], "base_model": "/models/nowhere"}, "/models/nowhere does not exist"),
        ({"asking": asked(judges=["guard"])}, "there is no judge 'guard'"),
        ({"seeds": 0}, "seeds must be 1 or more, not 0"),
        ({"asking": asked(prompts=HARMFUL[:5])}, "5 prompts are too few"),
        (
            {"asking": asked(prompts=[f"What about item {n}?" for n in range(20)])},
            "harmful prompts are among the rows that are trained",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_is_one_line_before_any_training(
    changed, message, scored_run, taught_model, tmp_path, monkeypatch
):
    monkeypatch.setattr(running, "train_arm", None)
    with pytest.raises(LarfError, match=message) as caught:
        quickly(scored_run, taught_model, tmp_path / "work", **{"rows": 12, "seeds": 1, **changed})
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, DataError | ModelError | PromptsError)


def test_a_model_without_a_template_and_rows_that_are_not_split(scored_run, tmp_path, taught_model):
    from support.models import make_model

    with pytest.raises(ModelError, match="has no chat template"):
        quickly(scored_run, make_model(tmp_path / "bare", template=None), tmp_path / "work")
    with pytest.raises(DataError, match="holds no finished run"):
        quickly(tmp_path, taught_model, tmp_path / "work")


def test_the_wording_judge_refuses_what_it_cannot_read(scored_run, taught_model, tmp_path, monkeypatch):
    monkeypatch.setattr("larf_curate.validation.judging.is_english", lambda _text: False)
    monkeypatch.setattr(running, "train_arm", None)  # known before any other model is trained
    with pytest.raises(ModelError, match=r"the wording judge reads English, and .* answers are something else"):
        quickly(scored_run, taught_model, tmp_path / "work")


def test_a_judge_that_fails_is_known_before_any_other_model_is_trained(scored_run, taught_model, tmp_path, monkeypatch):
    class Broken:
        name = "broken"

        def verdicts(self, prompts, answers):
            raise ModelError(f"the judge broken is out of order ({len(prompts)} answer)")

    monkeypatch.setattr(running, "train_arm", None)
    with pytest.raises(ModelError, match=r"broken is out of order \(1 answer\)"):
        quickly(scored_run, taught_model, tmp_path / "work", asking=asked(judges=[judged_by_hand, Broken()]))
