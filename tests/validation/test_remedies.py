"""The remedies are their papers' formulas, computed again by numpy."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.models import make_model
from support.states import ARCHITECTURES
from support.validation import HARMFUL

from larf_curate.encoding.directions import block_layers
from larf_curate.errors import DataError, ModelError
from larf_curate.models.loading import load_model
from larf_curate.models.options import ModelOptions
from larf_curate.rows.rendering import Renderer
from larf_curate.rows.turns import Conversation
from larf_curate.scoring.references import ReferenceSet
from larf_curate.validation import treating
from larf_curate.validation.arms import DrawnArm
from larf_curate.validation.measuring import answer_rows
from larf_curate.validation.remedies.added_refusals import REFUSALS, with_refusals
from larf_curate.validation.remedies.forget_filter import least_forgotten, safe_answers
from larf_curate.validation.remedies.weight_changes import lox, merged, safe_lora
from larf_curate.validation.request import ValidationRequest
from larf_curate.validation.scored_rows import ScoredRows
from larf_curate.validation.settings import AskingSettings, ComparingSettings, TrainingSettings
from larf_curate.validation.study import Study
from larf_curate.validation.training_rows import TrainingRow
from larf_curate.validation.treating import SafeLoraChange, extrapolate
from larf_curate.validation.validate import validate

pytestmark = pytest.mark.process

SHAPE = (12, 9)


def matrices(seed: int = 0) -> tuple[np.ndarray, ...]:
    """Aligned and unaligned weights, and the two factors of a change."""
    generator = np.random.default_rng(seed)
    aligned, step = generator.normal(size=SHAPE), generator.normal(size=SHAPE)
    left, right = generator.normal(size=(SHAPE[0], 3)), generator.normal(size=(3, SHAPE[1]))
    return aligned, aligned - 0.1 * step, left, right


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in arrays]


@pytest.mark.parametrize("factored", [True, False])
def test_safe_lora(factored):
    aligned, unaligned, left, right = matrices()
    direction = aligned - unaligned
    projection = direction @ direction.T / np.linalg.norm(direction)
    change = left @ right
    projected = projection @ change
    cosine = (projected * change).sum() / (np.linalg.norm(projected) * np.linalg.norm(change))
    assert 0 < cosine < 1
    given = tensors(left, right) if factored else [torch.from_numpy(change), None]

    def result(similarity: float) -> np.ndarray:
        found = safe_lora(*given, *tensors(aligned, unaligned), similarity).numpy()
        return found @ right if factored else found

    np.testing.assert_allclose(result(cosine + 1e-6), projected, rtol=1e-9)
    np.testing.assert_array_equal(result(cosine - 1e-6), change)


def test_safe_lora_without_an_alignment_changes_nothing():
    aligned, _, left, right = matrices()
    found = safe_lora(*tensors(left, right, aligned, aligned), 1.0)
    np.testing.assert_array_equal(found.numpy(), left)


@pytest.mark.parametrize("factored", [True, False])
def test_safe_lora_in_half_precision_is_computed_in_single(factored):
    """What alignment has changed is small beside the weights: their difference must not be rounded to 8 bits."""
    half = [one.bfloat16() for one in tensors(*matrices())]
    aligned, unaligned, left, right = half if factored else (*half[:2], half[2] @ half[3], None)
    wide = [None if one is None else one.double() for one in (left, right, aligned, unaligned)]
    exact = safe_lora(*wide, 1.0)
    found = safe_lora(left, right, aligned, unaligned, 1.0)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, exact.bfloat16())


def test_lox_in_half_and_in_double_precision():
    aligned, unaligned, _, _ = tensors(*matrices())
    left, values, right = np.linalg.svd((aligned - unaligned).numpy(), full_matrices=False)
    wanted = aligned.numpy() + 0.7 * left[:, :2] @ np.diag(values[:2]) @ right[:2]
    np.testing.assert_allclose(lox(aligned, unaligned, 2, 0.7).numpy(), wanted, rtol=1e-9, atol=1e-12)
    half = [one.bfloat16() for one in (aligned, unaligned)]
    exact = lox(half[0].double(), half[1].double(), 2, 0.7)
    torch.testing.assert_close(lox(*half, 2, 0.7), exact.bfloat16(), rtol=2**-7, atol=0)
    # A change of lower rank than is carried further, and none at all.
    flat = torch.outer(aligned[:, 0], aligned[0])
    torch.testing.assert_close(lox(aligned, aligned - flat, 6, 0.7), aligned + 0.7 * flat)
    assert lox(aligned, aligned) is aligned


def test_lox():
    aligned, unaligned, _, _ = matrices()
    change = (aligned - unaligned).astype(np.float32)
    left, values, right = np.linalg.svd(change)
    kept = left[:, :2] @ np.diag(values[:2]) @ right[:2]
    found = lox(*tensors(aligned.astype(np.float32), unaligned.astype(np.float32)), rank=2, strength=0.7)
    np.testing.assert_allclose(found.numpy(), aligned + 0.7 * kept, atol=1e-5)
    # Weights that are kept the other way round, and several experts in one parameter.
    turned = lox(*tensors(aligned.T.astype(np.float32), unaligned.T.astype(np.float32)), rank=2, strength=0.7)
    np.testing.assert_allclose(turned.numpy().T, found.numpy(), atol=1e-5)
    experts = lox(*(torch.stack([one.float(), one.float()]) for one in tensors(aligned, unaligned)), 2, 0.7)
    np.testing.assert_allclose(experts[1].numpy(), found.numpy(), atol=1e-5)


@pytest.fixture
def aligned_and_base(tiny_model, taught_model):
    return [load_model(ModelOptions(str(path)), None, torch.device("cpu")) for path in (taught_model, tiny_model)]


def test_lox_changes_every_matrix_of_the_model_and_nothing_else(aligned_and_base):
    loaded, base = aligned_and_base
    before = {name: weights.clone() for name, weights in loaded.model.named_parameters()}
    extrapolate(loaded, base)
    for name, weights in loaded.model.named_parameters():
        if weights.ndim == 1:
            assert torch.equal(weights, before[name]), name
            continue
        change = (before[name] - base.model.get_parameter(name)).detach().numpy()
        left, values, right = np.linalg.svd(change, full_matrices=False)
        kept = left[:, :6] @ np.diag(values[:6]) @ right[:6]
        np.testing.assert_allclose(weights.detach().numpy(), before[name].detach().numpy() + 1.25 * kept, atol=1e-4)


def test_safe_lora_says_how_many_layers_it_projects(aligned_and_base):
    loaded, base = aligned_and_base
    change = SafeLoraChange(loaded, base)
    generator, projected = torch.Generator().manual_seed(0), []
    for number, (name, layer) in enumerate(block_layers(loaded).items()):
        direction = (layer.weight - base.model.get_submodule(f"model.layers.{name}").weight).detach()
        left, right = torch.randn(direction.shape[0], 2, generator=generator), torch.randn(2, direction.shape[1])
        if number % 2:  # along the alignment's last direction, which the projection leaves next to nothing of
            left[:] = torch.linalg.svd(direction).U[:, -1:]
        wanted = direction @ direction.T @ left / direction.norm()
        cosine = torch.cosine_similarity((wanted @ right).flatten(), (left @ right).flatten(), dim=0)
        projected.append(bool(cosine <= 0.35))
        torch.testing.assert_close(change(name, left, right), wanted if projected[-1] else left)
    assert (change.layers, change.projected) == (len(projected), sum(projected))
    assert 0 < change.projected < change.layers


def test_safe_lora_of_layers_that_are_kept_the_other_way_round(tmp_path):
    """GPT-2's: a change is outputs by inputs, whatever the weights are."""
    for seed in (0, 1):
        make_model(tmp_path / str(seed), ARCHITECTURES["gpt2"](), seed=seed)
    loaded, base = (load_model(ModelOptions(str(tmp_path / n)), None, torch.device("cpu")) for n in "01")
    change, name = SafeLoraChange(loaded, base), "2.mlp.c_fc"
    direction = (block_layers(loaded)[name].weight - block_layers(base)[name].weight).detach().T
    left, right = torch.linalg.svd(direction).U[:, -1:], torch.randn(1, direction.shape[1])
    torch.testing.assert_close(change(name, left, right), direction @ direction.T @ left / direction.norm())


def test_merging_is_the_mean_of_two_models():
    before, after, _, _ = matrices()
    np.testing.assert_allclose(before + merged(torch.from_numpy(after - before)).numpy(), (before + after) / 2)
    found = before + merged(torch.from_numpy(after - before), 0.3).numpy()
    np.testing.assert_allclose(found, 0.7 * before + 0.3 * after)


def test_forget_filter_drops_what_rises_most():
    generator = np.random.default_rng(0)
    before, after = generator.normal(size=20), generator.normal(size=20)
    wanted = sorted(np.argsort(after - before)[:15].tolist())
    assert least_forgotten(before, after, 5).tolist() == wanted
    assert least_forgotten([1.0, 1.0], [float("nan"), 9.0], 1).tolist() == [1]
    assert all(prompt and answer for prompt, answer in safe_answers())
    asked = {pair.safe.prompt for pair in ReferenceSet.packaged().held_back}
    assert asked
    assert not asked & {prompt for prompt, _ in safe_answers()}, "a validation asks these"


def test_forget_filter_trains_the_model_as_it_was_on_the_rows_that_stay(monkeypatch):
    """Two fifths of the dataset were removed: of five rows go the two whose loss the safe answers have raised most."""
    losses = {"noisy": [1.0, 2.0, 1.0, 1.0, 2.0], "cleaned": [1.1, 4.0, 0.9, 1.2, 3.0]}
    trained = []

    def train(loaded, rows, *_, **__):
        trained.append((loaded, rows))
        return SimpleNamespace(loaded="cleaned")

    monkeypatch.setattr(treating, "_trained_plainly", lambda *_: SimpleNamespace(loaded="noisy"))
    monkeypatch.setattr(treating, "train", train)
    monkeypatch.setattr(treating, "Runtime", lambda loaded: loaded)
    monkeypatch.setattr(treating, "mean_losses", lambda loaded, _rows: losses[loaded])
    monkeypatch.setattr(treating, "answer_rows", lambda *_: ["a safe answer", None])
    scored = SimpleNamespace(removed=[0] * 4, kept=[0] * 6)
    study = SimpleNamespace(
        request=SimpleNamespace(scored=scored, training=None), renderer=None, model_to_train=lambda: "as it was"
    )
    drawn = DrawnArm("forget-filter", 0, ())
    kept, model = treating._forget_filter(study, drawn, ["a", "b", "c", "d", "e"], "as it was")
    assert (kept, model) == (["a", "c", "d"], "as it was")
    assert trained == [("noisy", ["a safe answer"])]


def test_refusals_replace_the_last_answers_of_some_rows_alone(tiny_model):
    loaded = load_model(ModelOptions(str(tiny_model)), None, torch.device("cpu"))
    renderer = Renderer(loaded.tokenizer, 256)
    pairs = [(f"Item {number}?", f"Sure, item {number}.") for number in range(20)]
    conversations = [
        Conversation(({"role": "user", "content": ask}, {"role": "assistant", "content": answer}))
        for ask, answer in pairs
    ]
    rows = [row for row in answer_rows(renderer, pairs) if row]
    changed = with_refusals(rows, conversations, renderer, seed=1)
    other = [number for number in range(20) if changed[number] != rows[number]]
    assert len(other) == 2
    for number in other:
        trained = loaded.tokenizer.decode([token for token in changed[number].labels if token != -100])
        assert trained.removesuffix("<|im_end|>") in REFUSALS
        assert f"Item {number}?" in loaded.tokenizer.decode(list(changed[number].ids))
    assert with_refusals(rows, conversations, renderer, seed=1) == changed
    assert with_refusals(rows, conversations, renderer, seed=2) != changed


def test_a_refusal_stands_behind_all_earlier_turns_and_tools(tiny_model):
    loaded = load_model(ModelOptions(str(tiny_model)), None, torch.device("cpu"))
    renderer = Renderer(loaded.tokenizer, 512)
    said = ["system", "user", "assistant", "user", "assistant"]
    turns = tuple({"role": role, "content": f"turn {number}"} for number, role in enumerate(said))
    conversation = Conversation(turns, ({"type": "function", "function": {"name": "weather"}},))
    (row,) = with_refusals([TrainingRow((5,), (1.0,))], [conversation], renderer, seed=0)
    text = loaded.tokenizer.decode(row.ids)
    assert [f"turn {number}" in text for number in range(5)] == [True, True, True, True, False]
    assert "weather" in text
    assert any(refusal in text for refusal in REFUSALS)


def test_refusals_answer_the_requests_of_their_own_rows_where_rows_are_left_out(make_run, tiny_model, tmp_path):
    """A row of weight 0 is not trained on, and has no place among the conversations either."""
    from transformers import AutoTokenizer

    from larf_curate.deciding.thresholds import Threshold

    rows = [
        {"question": f"Item {n}?", "answer": f"Sure, item {n}.", "larf_weight": float(n % 3 > 0)} for n in range(60)
    ]
    run = make_run(rows, [number / 60 for number in range(60)], Threshold.drop_top(12))
    request = ValidationRequest(
        ScoredRows.open(run), ModelOptions(str(tiny_model)), ComparingSettings(arms=["all"], seeds=1), work=tmp_path
    )
    renderer = Renderer(AutoTokenizer.from_pretrained(tiny_model), 256)
    study = Study(request, *[None] * 5, renderer, None, None)  # type: ignore[arg-type] # what rows have no need of
    drawn = study.drawn("all", 0)
    ready, conversations = study.rows(drawn), study.conversations(drawn)
    assert len(ready) == len(conversations) < len(drawn.rows)
    for before, after in zip(ready, with_refusals(ready, conversations, renderer, seed=0, share=1.0), strict=True):
        asked = [renderer.tokenizer.decode(row.ids).partition("assistant")[0] for row in (before, after)]
        assert asked[0] == asked[1]


@pytest.mark.usefixtures("few_choices")
def test_every_remedy_runs_as_an_arm(scored_run, taught_model, tiny_model, tmp_path, monkeypatch):
    from larf_curate.validation.weighted_loss import WeightedTrainer  # not above: trl takes seconds

    monkeypatch.setattr("larf_curate.validation.judging.is_english", lambda _text: True)
    monkeypatch.setattr("larf_curate.validation.treating.safety_blocks", lambda _study: (1, 2))
    monkeypatch.setattr("larf_curate.validation.treating.safe_answers", lambda: safe_answers()[:8])
    remedies = ["safe-lora", "lox", "merging", "sppft", "refusals", "forget-filter"]
    trained: list[int] = []
    to_the_end = WeightedTrainer.train
    monkeypatch.setattr(WeightedTrainer, "train", lambda trainer: trained.append(1) or to_the_end(trainer))
    found = validate(
        scored_run,
        str(taught_model),
        arms=["all"],
        remedies=remedies,
        rows=8,
        seeds=1,
        asking=AskingSettings(prompts=HARMFUL[:16], most_prompts=16, answer_tokens=8),
        base_model=str(tiny_model),
        training=TrainingSettings(rank=2, learning_rate=5e-3, epochs=1, batch_rows=4),
        work=tmp_path / "work",
        device="cpu",
    )
    assert [arm.name for arm in found.arms] == ["none", "all", *remedies]
    margins = {arm.name: arm.margin.value for arm in found.arms}
    assert len({round(value, 6) for value in margins.values()}) == len(margins), "each remedy has an effect of its own"
    for name in remedies:
        arm = found.arm(name)
        assert arm.control == "all"
        assert arm.rows == (8 if name != "forget-filter" else 6)  # a fifth of the rows was removed
    assert "Of the remedies" in found.verdict
    # All, Safe LoRA, merging and the first training of ForgetFilter are one. It has two more of its own.
    assert len(trained) == 1 + len(["lox", "sppft", "refusals"]) + 2
    # Half of the change lies between no change and the whole.
    low, high = sorted((margins["none"], margins["all"]))
    assert low <= margins["merging"] <= high


def test_a_base_of_another_shape_is_told(scored_run, taught_model, tmp_path):
    from support.models import SIZES, make_model
    from transformers import LlamaConfig

    as_many_weights = {"num_attention_heads": 6, "intermediate_size": 48}
    other = make_model(tmp_path / "other", LlamaConfig(**{**SIZES, **as_many_weights}))
    with pytest.raises(ModelError, match="before its alignment: its layers differ"):
        validate(
            scored_run,
            str(taught_model),
            arms=["none"],
            remedies=["lox"],
            rows=4,
            seeds=1,
            asking=AskingSettings(prompts=HARMFUL[:16], most_prompts=16, answer_tokens=2),
            base_model=str(other),
            work=tmp_path / "work",
            device="cpu",
        )


ASKED = ModelOptions("m", revision="main", base="b", dtype="bfloat16", chat_template="t", trust_remote_code=True)


@pytest.mark.parametrize(
    ("best", "blocks"), [(4, (2, 3, 4, 5, 6)), (0, (0, 1, 2)), (8, (6, 7, 8, 9)), (9, (7, 8, 9)), (None, None)]
)
def test_safety_blocks_are_the_best_of_the_search_and_two_on_each_side(best, blocks, monkeypatch):
    """Of the model as it is loaded for the validation, an adapter on the base that was given too."""
    searched = []

    def search(model, **options):
        searched.append(ModelOptions(model, **options))
        return SimpleNamespace(best=best, blocks=[SimpleNamespace(block=number) for number in range(10)])

    monkeypatch.setattr("larf_curate.scoring.layer_search.search.find_safety_layers", search)
    study = SimpleNamespace(request=SimpleNamespace(model=ASKED))
    if blocks is None:
        with pytest.raises(ModelError, match="sppft needs safety layers, and the search finds none"):
            treating.safety_blocks(study)
    else:
        assert treating.safety_blocks(study) == blocks
    assert searched == [ASKED]


def test_the_model_before_its_alignment_has_a_revision_and_a_base_of_its_own(aligned_and_base, monkeypatch):
    loaded, base = aligned_and_base
    asked = []
    monkeypatch.setattr(treating, "load_whole", lambda options: asked.append(options) or base)
    study = SimpleNamespace(request=SimpleNamespace(model=ASKED, comparing=SimpleNamespace(base_model="unaligned")))
    assert treating._unaligned_model(study, loaded) is base
    assert asked == [replace(ASKED, model="unaligned", revision=None, base=None)]


def test_rows_of_a_dataset_are_those_of_its_run(scored_run):
    """`validate(parts)` sees what `validate(directory)` sees."""
    from datasets import load_dataset

    from larf_curate.deciding.thresholds import Threshold

    opened = ScoredRows.open(scored_run)
    files = [str(path) for outcome in ("kept", "removed") for path in sorted((scored_run / outcome).glob("*.parquet"))]
    dataset = load_dataset("parquet", data_files=files, split="train")
    parts = ScoredRows.of_parts(Threshold.drop_top(12).split(dataset))
    assert (len(parts.kept), len(parts.removed)) == (len(opened.kept), len(opened.removed)) == (48, 12)
    assert sorted(parts.scores.tolist()) == sorted(opened.scores.tolist())
    assert parts.take([0])[0]["question"] == opened.take([0])[0]["question"]


def test_all_splits_of_a_dataset_are_taken_and_no_stream():
    from datasets import Dataset, DatasetDict

    from larf_curate.deciding.thresholds import Threshold

    rows = [{"question": f"q{n}", "answer": f"a{n}", "larf_score": n / 10} for n in range(8)]
    splits = DatasetDict({"train": Dataset.from_list(rows[:5]), "test": Dataset.from_list(rows[5:])})
    found = ScoredRows.of_parts(Threshold.drop_top(4).split(splits))
    assert [row["question"] for row in found.take(found.kept)] == ["q0", "q1", "q2", "q3"]
    assert [row["question"] for row in found.take(found.removed)] == ["q4", "q5", "q6", "q7"]
    stream = Dataset.from_list(rows).to_iterable_dataset()
    with pytest.raises(DataError, match="validate takes no IterableDataset: load the dataset without streaming"):
        ScoredRows.of_parts(Threshold.drop_top(4).split(stream))


def test_rows_are_those_of_the_score_that_they_were_split_by():
    """Two scores live in one dataset under prefixes: each has weights and spans of its own."""
    from datasets import Dataset

    from larf_curate.deciding.thresholds import Threshold

    dataset = Dataset.from_dict(
        {
            "question": ["a", "b", "c"],
            "answer": ["x", "y", "z"],
            "mine_score": [0.5, 0.1, 0.9],
            "mine_weight": [0.25, 1.0, 0.0],
            "larf_score": [0.1, 0.2, 0.3],
            "larf_spans": [[{"turn": 1, "start": 0, "end": 1}]] * 3,
        }
    )
    rows = ScoredRows.of_parts(Threshold.drop_top(1).split(dataset, "mine_score"))
    np.testing.assert_allclose(rows.scores, [0.5, 0.1, 0.9])
    assert rows.take([0]) == [{"question": "a", "answer": "x", "larf_score": 0.5, "larf_weight": 0.25}]
    with pytest.raises(DataError, match="or the directory of a run, not Dataset"):
        ScoredRows.of_parts(dataset)
