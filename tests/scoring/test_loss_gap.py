"""`formula="loss_gap"`: the difference of two models' losses, from a model to columns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from support.checkpoints import make_adapter
from support.commands import larf
from support.models import SIZES, make_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from larf_curate import LARFScorer
from larf_curate.encoding.encoder import Encoder
from larf_curate.errors import ModelError, ScorerError
from larf_curate.models.options import ModelOptions
from larf_curate.scoring import loss_gap
from larf_curate.scoring.public_names import public_spec
from larf_curate.scoring.records import OtherModel

ROWS = [
    {"instruction": "Bake a cake.", "output": "Sure, here is how to bake a cake."},
    {"instruction": "Count.", "output": "1. First item\n2. Second item"},
    {"instruction": "Name a fox.", "output": "The quick brown fox."},
]
TINY = {**SIZES, "num_hidden_layers": 2}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    first, second = (
        make_model(tmp_path_factory.mktemp("loss"), LlamaConfig(**TINY), seed=number) for number in range(2)
    )
    return first, second


@pytest.fixture(scope="module")
def scorer(models: tuple[Path, Path]) -> LARFScorer:
    first, second = models
    return LARFScorer.fit(str(first), formula="loss_gap", other=second, progress=False)


def mean_losses(home: Path) -> np.ndarray:
    """By transformers' own loss, with everything before the answer left out."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(home), AutoTokenizer.from_pretrained(home)
    losses = []
    for row in ROWS:
        turns = [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]}]
        start = len(tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=False))
        ids = tokenizer.apply_chat_template(turns, return_dict=False)
        ids = ids[: ids.index(tokenizer.convert_tokens_to_ids("<|im_end|>"), start) + 1]
        labels = torch.tensor([[-100] * start + ids[start:]])
        with torch.inference_mode():
            losses.append(float(model(input_ids=torch.tensor([ids]), labels=labels).loss))
    return np.array(losses)


def test_scores_are_the_second_models_loss_minus_the_firsts(scorer: LARFScorer, models: tuple[Path, Path]) -> None:
    first, second = models
    scores = scorer.annotate(ROWS)
    np.testing.assert_allclose(scores.score, mean_losses(second) - mean_losses(first), rtol=1e-3, atol=1e-4)
    assert (np.abs(scores.summed) > np.abs(scores.score)).all()


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.process
def test_it_is_saved_and_run_by_a_recipe(models: tuple[Path, Path], scorer: LARFScorer, tmp_path: Path) -> None:
    first, second = models
    scorer.save_pretrained(tmp_path / "scorer")
    np.testing.assert_array_equal(LARFScorer.from_pretrained(tmp_path / "scorer").score(ROWS), scorer.score(ROWS))
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"source: {{path: {source}}}\nscorer: {{model: {first}, formula: loss_gap, other: {second}}}\n"
        f"threshold: {{drop_top: 1}}\noutput: {tmp_path / 'run'}\n"
    )
    done = larf("run", str(recipe))
    assert done.returncode == 0, done.stderr
    card = larf("push", str(tmp_path / "run"), "--repo", "acme/rows", "--dry-run")
    assert card.returncode == 0
    assert "ForgetFilter" in card.stdout
    assert str(second.parent) not in card.stdout  # where models are on this machine is nobody's business
    assert str(second.parent) not in str(pq.read_schema(next((tmp_path / "run").rglob("*.parquet"))).metadata)
    assert public_spec(scorer.spec).other == OtherModel(second.name, scorer.spec.other.version)


def test_a_second_model_that_changed_is_refused(models: tuple[Path, Path], tmp_path: Path) -> None:
    first, _ = models
    second = make_model(tmp_path / "second", LlamaConfig(**TINY), seed=5)
    scorer = LARFScorer.fit(str(first), formula="loss_gap", other=second, progress=False)
    from larf_curate import clear_caches

    make_model(second, LlamaConfig(**TINY), seed=6)
    clear_caches()
    with pytest.raises(ScorerError, match="is not the one this scorer was fitted on"):
        scorer.score(ROWS)


def test_models_that_read_a_conversation_otherwise_are_refused(models: tuple[Path, Path], tmp_path: Path) -> None:
    template = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}<|im_end|>{% endfor %}"
    other = make_model(tmp_path, LlamaConfig(**TINY), template=template)
    with pytest.raises(ModelError, match="as different tokens"):
        LARFScorer.fit(str(models[0]), formula="loss_gap", other=other, progress=False)


@pytest.mark.parametrize("second_is_adapter", [False, True])
def test_a_base_that_is_given_is_that_of_each_model_that_is_an_adapter(
    models: tuple[Path, Path], tmp_path: Path, second_is_adapter: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where neither is where the adapter says."""
    first, second = models
    for name in ("one", "two"):
        make_adapter(first, tmp_path / name)
        path = tmp_path / name / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": "/gone"}))
    other = tmp_path / "two" if second_is_adapter else second
    options: dict[str, Any] = {"formula": "loss_gap", "other": other, "base": str(first), "progress": False}
    real, loaded = loss_gap.get_encoder, list[tuple[str, str | None]]()

    def encoder(of: ModelOptions, highest: None) -> Encoder:
        loaded.append((of.model, of.revision))
        return real(replace(of, revision=None), highest)  # as if the first model were on the Hub

    monkeypatch.setattr(loss_gap, "get_encoder", encoder)
    fitted = LARFScorer.fit(str(tmp_path / "one"), revision="main", **options)
    assert loaded == [(str(tmp_path / "one"), "main"), (str(other), None)], "a revision is the first model's"
    assert ("+" in fitted.spec.other.version) == second_is_adapter
    assert np.isfinite(fitted.with_options(base=str(first)).score(ROWS)).all()


def test_it_needs_a_second_model() -> None:
    with pytest.raises(ModelError, match="other is missing"):
        LARFScorer.fit("demo", formula="loss_gap")


def test_each_model_is_loaded_with_the_base_that_it_had(scorer: LARFScorer) -> None:
    """Of two adapters each has its own base; a model that is no adapter has none."""
    one, two = "a" * 40, "b" * 40
    adapters = replace(scorer.spec, version=f"{one}+{one}", other=OtherModel("acme/second", f"{two}+{two}"))
    assert adapters.model_options({}).base == f"@{one}"
    assert adapters.other_options({}).base == f"@{two}"
    assert adapters.other_options({"base": "elsewhere"}).base == "elsewhere"
    plain = replace(adapters, other=OtherModel("acme/second", two))
    assert plain.other_options({}).base is None
    assert plain.other_options({"base": "elsewhere"}).base is None
    assert plain.other_options({"base": "elsewhere"}).revision == two
