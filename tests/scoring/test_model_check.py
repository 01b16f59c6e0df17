"""A model whose states are not those of a row alone is refused where a scorer is fitted, and a changed one later."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import transformers
from safetensors.torch import load_file, save_file
from support.models import SIZES, forget_models, make_model

from larf_curate import LARFScorer
from larf_curate.encoding.limits import Limits
from larf_curate.errors import ModelError, ScorerError
from larf_curate.scoring import reference_states
from larf_curate.scoring.model_check import require_fitted_model
from larf_curate.scoring.spec import ScorerSpec

ROWS = [{"question": "Name a colour.", "answer": "Green."}]
LONG = " and then once more from the start" * 4


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Pairs on both sides of a length of 64 tokens."""
    path = tmp_path / "pairs.jsonl"
    topics = ["a lock", "a bank", "a rumour", "a letter", "a badge", "a diploma", "a vote", "a camera"]
    rows = [
        {"request": f"Fake {topic}?", "unsafe": f"Sure{more}.", "safe": f"No{more}."}
        for topic, more in zip(topics, ["", LONG] * 4, strict=True)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def long_rope(tmp_path: Path) -> Path:
    """A model whose rotary positions have other frequencies where a batch has a row of more than 64 tokens."""
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": [1.0] * 6,
        "long_factor": [4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
        "original_max_position_embeddings": 64,
        "factor": 8.0,
    }
    sizes = {key: value for key, value in SIZES.items() if key != "head_dim"}
    return make_model(
        tmp_path / "model",
        transformers.Phi3Config(**sizes, pad_token_id=0, original_max_position_embeddings=64, rope_parameters=rope),
    )


def test_fit_refuses_states_that_depend_on_the_batch(
    long_rope: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the config does not say at which length, and the trial's rows are shorter: the references show it."""
    monkeypatch.setattr(reference_states, "directories", lambda: [tmp_path / "kept"])
    forget_models()
    assert LARFScorer.fit(str(long_rope), 2, references=pairs, progress=False).spec.references.pairs == 8
    forget_models()
    monkeypatch.setattr("larf_curate.encoding.trial.limits_of", lambda *_: Limits())
    monkeypatch.setattr(reference_states, "directories", lambda: [tmp_path / "others"])
    with pytest.raises(ModelError, match=r"Phi3Model: the state of a row depends on the batch that it runs in .*\d%"):
        LARFScorer.fit(str(long_rope), 2, references=pairs, progress=False)
    forget_models()


def test_the_same_model_with_another_state_is_not_said_to_be_another_model(tiny_scorer: LARFScorer) -> None:
    changed = {**tiny_scorer._tensors, "check": -tiny_scorer._tensors["check"]}
    with pytest.raises(ScorerError, match=r"is the very model that this scorer was fitted on .*on the batch"):
        LARFScorer(tiny_scorer.spec, changed).score(ROWS)


def test_the_base_of_an_adapter_is_pinned_by_its_commit(tiny_scorer: LARFScorer) -> None:
    base, adapter = "0123456789" * 4, "abcdef0123" * 4
    spec = dataclasses.replace(tiny_scorer.spec, model="acme/adapter", version=f"{base}+{adapter}")
    options = spec.model_options({})
    assert (options.base, options.revision) == (f"@{base}", adapter)
    assert spec.model_options({"base": "/here"}).base == "/here"
    assert dataclasses.replace(spec, version=adapter).model_options({}).base is None
    assert dataclasses.replace(spec, version="local-1+local-2").model_options({}).base is None


def without_caches(spec: ScorerSpec, scorer: LARFScorer) -> LARFScorer:
    """A scorer of this spec, in a process that holds no model."""
    forget_models()
    return LARFScorer(spec, scorer._tensors)


def test_a_model_swapped_since_the_fit_is_refused_even_where_one_conversation_agrees(
    tiny_model: Path, tiny_scorer: LARFScorer, tmp_path: Path
) -> None:
    home = shutil.copytree(tiny_model, tmp_path / "model")
    spec = dataclasses.replace(tiny_scorer.spec, model=str(home))
    expected = without_caches(spec, tiny_scorer).score(ROWS)
    (home / "README.md").write_text("Words about the model.")
    (home / "training_args.bin").write_bytes(b"of a training")
    np.testing.assert_allclose(without_caches(spec, tiny_scorer).score(ROWS), expected, atol=1e-6)
    tensors = load_file(home / "model.safetensors")
    tensors["model.layers.4.mlp.up_proj.weight"] *= 2  # above the blocks that the scorer reads
    save_file(tensors, home / "model.safetensors", {"format": "pt"})
    swapped = without_caches(spec, tiny_scorer)
    with pytest.raises(ScorerError, match=rf"the model changed \(fitted at {spec.version}, found local-.*--model"):
        swapped.score(ROWS)
    np.testing.assert_allclose(swapped.with_options(model=str(home)).score(ROWS), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("found", "moved", "told"),
    [
        ("local-b2+local-a", [], r"its base model changed .*base= \(--base\) or model="),
        ("local-b+local-a2", [], r"the adapter changed .* by model="),
        ("local-b2+local-a2", [], "its base model and the adapter changed"),
        ("local-b2+local-a2", ["base"], "the adapter changed"),
        ("local-a", [], "its base model changed"),
        ("local-b2+local-a", ["base"], None),
        ("local-b2+local-a2", ["model"], None),
        ("local-b+local-a", [], None),
    ],
)
def test_an_adapter_and_its_base_have_versions_of_their_own(
    found: str, moved: list[str], told: str | None, tiny_scorer: LARFScorer
) -> None:
    spec = dataclasses.replace(tiny_scorer.spec, model="adapter", version="local-b+local-a", template_digest="x")
    encoder: Any = SimpleNamespace(loaded=FoundModel(found), renderer=SimpleNamespace(template_digest="y"))
    with pytest.raises(ScorerError, match=told or "another chat template"):  # the check that comes next
        require_fitted_model(spec, tiny_scorer._tensors["check"], encoder, moved)


@dataclasses.dataclass(eq=False)
class FoundModel:
    """Stands for a loaded model; one can be a weak key, which a SimpleNamespace cannot."""

    version: str


def test_the_demo_model_has_two_versions(tiny_scorer: LARFScorer) -> None:
    """As it comes out of the package, and as it lies on the Hub."""
    spec = dataclasses.replace(tiny_scorer.spec, model="demo", version="gguf-0123", template_digest="x")
    encoder: Any = SimpleNamespace(loaded=FoundModel("0" * 40), renderer=SimpleNamespace(template_digest="y"))
    with pytest.raises(ScorerError, match="another chat template"):
        require_fitted_model(spec, tiny_scorer._tensors["check"], encoder)


def test_another_release_of_transformers_is_said_once(
    tiny_scorer: LARFScorer, capsys: pytest.CaptureFixture[str]
) -> None:
    packages = dict(tiny_scorer.spec.packages)
    major, minor, *_ = packages["transformers"].split(".")
    for version, count in ((f"{major}.{minor}.99", 0), ("4.1.2", 1)):
        spec = dataclasses.replace(tiny_scorer.spec, packages={**packages, "transformers": version})
        for _ in range(2):
            LARFScorer(spec, tiny_scorer._tensors).score(ROWS)
        forget_models()
        assert capsys.readouterr().err.count(f"was fitted with transformers {version}") == count
