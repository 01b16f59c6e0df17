"""A fitted scorer on disk and on the Hub, and its refusal to run on a model it was not fitted on."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from markdown_it import MarkdownIt
from support.hub import NumberedRepo
from support.loopback_hub import Hub
from support.models import CHATML, make_model, make_tokenizer

from larf_curate import LARFScorer
from larf_curate.encoding import runtime
from larf_curate.encoding.runtime import unload_models
from larf_curate.errors import ModelError, OutputError, ScorerError
from larf_curate.scoring.fitting import harmless_rows
from larf_curate.scoring.layer_search.profile import VERSION
from larf_curate.scoring.model_card import render_model_card
from larf_curate.scoring.public_names import public_spec
from larf_curate.scoring.records import Separation

CONFIG, TENSORS = "larf_scorer.json", "larf_scorer.safetensors"
ROWS = [{"instruction": f"Name {n} rivers.", "output": f"The river number {n}, and others."} for n in range(6)]


@pytest.fixture
def saved(tiny_scorer: LARFScorer, tmp_path: Path) -> Path:
    tiny_scorer.save_pretrained(tmp_path / "scorer")
    return tmp_path / "scorer"


def edit(saved: Path, **changes: Any) -> None:
    """Change fields of the JSON file; None takes one out."""
    fields = {**json.loads((saved / CONFIG).read_text()), **changes}
    (saved / CONFIG).write_text(json.dumps({key: value for key, value in fields.items() if value != "absent"}))


# On disk -------------------------------------------------------------------------------------------------------------


def test_a_saved_scorer_scores_the_same(tiny_scorer: LARFScorer, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = harmless_rows()[::12]
    monkeypatch.setattr("larf_curate.scoring.scorer.harmless_rows", lambda: few)
    loaded, first = LARFScorer.from_pretrained(saved), LARFScorer(tiny_scorer.spec, tiny_scorer._tensors)
    assert loaded.spec == tiny_scorer.spec
    assert loaded.layers == (1, 3)
    assert loaded.summary() == tiny_scorer.summary()
    # Those of the first scorer may have been made in batches of another size: the last bits differ.
    np.testing.assert_allclose(loaded.harmless_scores, first.harmless_scores, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(loaded.score(ROWS), tiny_scorer.score(ROWS))


def test_the_json_of_a_scorer_is_read_down_to_the_leaves_and_written_as_it_was(
    tiny_scorer: LARFScorer, saved: Path
) -> None:
    """The layout that earlier scorers, and the metadata of Parquet files, have."""
    fields = json.loads((saved / CONFIG).read_text())
    assert set(fields["references"]) == {"name", "digest", "pairs", "held_back", "figures", "findings"}
    assert set(fields["separation"]) == {"auc", "pairs", "method"}
    assert {side: len(values) for side, values in fields["quantiles"].items()} == {"unsafe": 21, "safe": 21}
    block = {
        "block": 1,
        "refusals": {"0.9": 3},
        "asked": {"0.9": 9},
        "delta": {"0.1": 2},
        "kappa": 20.0,
        "low": 0.0,
        "high": 30.0,
    }
    search = {
        "model": "m", "version": "v", "total_blocks": 5, "dtype": "float32", "prompts": 9, "digest": "d",
        "judge": "wording", "max_new_tokens": 32, "scales": [0.9, 1.1], "error_rate": 0.05, "unscaled": 4,
        "blocks": [{**block, "first": 1.0, "apart": False}], "p_value": 0.01, "best": 1,
        "locators": {"angle": [1.0, 2.0]}, "profile_version": VERSION,
    }  # fmt: skip
    edit(saved, search=search)
    spec = LARFScorer.from_pretrained(saved).spec
    assert replace(spec, search=None) == tiny_scorer.spec
    assert spec.references.pairs == 8
    assert spec.search is not None
    assert spec.search.blocks[0].kappa == 20
    again = LARFScorer(spec, tiny_scorer._tensors)
    again.save_pretrained(saved)
    assert json.loads((saved / CONFIG).read_text()) == {**fields, "search": search}


def test_the_artifact_is_json_and_safetensors_and_holds_no_weights(tiny_scorer: LARFScorer, saved: Path) -> None:
    from safetensors.numpy import load_file

    assert sorted(path.name for path in saved.iterdir()) == [CONFIG, TENSORS]
    fields = json.loads((saved / CONFIG).read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert fields["layers"] == [1, 3]
    assert fields["references"]["pairs"] == 8
    assert len(fields["references"]["digest"]) == 64
    tensors = load_file(saved / TENSORS)
    assert tensors["unsafe"].shape == tensors["safe"].shape == (8, 2, 48)
    assert {array.dtype for array in tensors.values()} == {np.dtype("float32")}
    assert (saved / TENSORS).stat().st_size < 2 * 8 * 2 * 48 * 4 + 4096


def test_saving_over_an_old_scorer_leaves_only_the_new_one(tiny_scorer: LARFScorer, saved: Path) -> None:
    edit(saved, model="something else")
    tiny_scorer.save_pretrained(saved)
    assert LARFScorer.from_pretrained(saved).spec == tiny_scorer.spec
    assert sorted(path.name for path in saved.iterdir()) == [CONFIG, TENSORS]


def test_a_save_that_fails_half_way_never_mixes_two_scorers(
    tiny_scorer: LARFScorer, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = LARFScorer.from_pretrained(saved).score(ROWS)
    negated = {name: -array for name, array in tiny_scorer._tensors.items()}
    negated["check"] = tiny_scorer._tensors["check"]
    real, moved = Path.replace, []

    def replace(self: Path, target: Path) -> Path:
        if moved:
            raise OSError(28, "No space left on device")
        moved.append(target)
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(OutputError, match="No space left"):
        LARFScorer(tiny_scorer.spec, negated).save_pretrained(saved)
    assert sorted(path.name for path in saved.iterdir()) == [CONFIG, TENSORS]
    try:
        after = LARFScorer.from_pretrained(saved).score(ROWS)
    except ScorerError:
        return  # told, at least
    np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("target", ["file", "file/below"])
def test_an_unwritable_place_is_named(tiny_scorer: LARFScorer, tmp_path: Path, target: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match=str(tmp_path / target)):
        tiny_scorer.save_pretrained(tmp_path / target)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_directory_is_named(tiny_scorer: LARFScorer, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        tiny_scorer.save_pretrained(tmp_path / "scorer")


@pytest.mark.parametrize("name", ["./none", "/none/at/all", "none", "~/none", "a/b/c"])
def test_a_missing_scorer_is_told_with_the_way_to_make_one(name: str) -> None:
    with pytest.raises(ScorerError, match=f"no scorer at {name}; .*larf-curate fit"):
        LARFScorer.from_pretrained(name)


def damage_config(saved: Path) -> None:
    (saved / CONFIG).write_text("{")


def remove_config(saved: Path) -> None:
    (saved / CONFIG).unlink()


def list_config(saved: Path) -> None:
    (saved / CONFIG).write_text("[1]")


def binary_config(saved: Path) -> None:
    (saved / CONFIG).write_bytes(b"\xff\xfe")


def remove_tensors(saved: Path) -> None:
    (saved / TENSORS).unlink()


def cut_tensors(saved: Path) -> None:
    (saved / TENSORS).write_bytes((saved / TENSORS).read_bytes()[:-100])


def other_tensors(saved: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros(3, np.float32)}, saved / TENSORS)


def drop_field(saved: Path) -> None:
    edit(saved, layers="absent")


def drop_field_with_a_default(saved: Path) -> None:
    edit(saved, max_tokens="absent")


def add_field(saved: Path) -> None:
    edit(saved, novelty=1)


def drop_nested_field(saved: Path) -> None:
    edit(saved, separation={"auc": 0.5, "pairs": 3})


def list_in_place_of_fields(saved: Path) -> None:
    edit(saved, references=["packaged"])


def half_a_search(saved: Path) -> None:
    edit(saved, search={"profile_version": VERSION})


@pytest.mark.parametrize(
    "damage",
    [
        damage_config,
        remove_config,
        list_config,
        binary_config,
        remove_tensors,
        cut_tensors,
        other_tensors,
        drop_field,
        drop_field_with_a_default,
        add_field,
        drop_nested_field,
        list_in_place_of_fields,
        half_a_search,
    ],
)
def test_a_damaged_scorer_is_refused_when_it_is_read(saved: Path, damage: Callable[[Path], None]) -> None:
    damage(saved)
    with pytest.raises(ScorerError, match="scorer"):
        LARFScorer.from_pretrained(saved)


@pytest.mark.parametrize("name", ["search", "join"])
def test_a_scorer_from_before_a_field_was_there_is_read(tiny_scorer: LARFScorer, saved: Path, name: str) -> None:
    edit(saved, **{name: "absent"})
    assert LARFScorer.from_pretrained(saved).spec == tiny_scorer.spec


@pytest.mark.parametrize("change", [{"format_version": 99}, {"formula_version": 0}])
def test_a_scorer_of_another_version_is_refused(saved: Path, change: dict[str, int]) -> None:
    edit(saved, **change)
    with pytest.raises(ScorerError, match=r"another version.*fit it again"):
        LARFScorer.from_pretrained(saved)


# The model it meets --------------------------------------------------------------------------------------------------


@pytest.fixture
def other_place(tiny_model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "moved")


def test_a_moved_model_is_found_by_with_options(tiny_scorer: LARFScorer, saved: Path, other_place: Path) -> None:
    expected = tiny_scorer.score(ROWS)
    edit(saved, model=str(other_place.parent / "gone"))
    lost = LARFScorer.from_pretrained(saved)
    with pytest.raises(ModelError, match="gone does not exist"):
        lost.score(ROWS)
    np.testing.assert_allclose(lost.with_options(model=str(other_place)).score(ROWS), expected, atol=1e-6)
    found = LARFScorer.from_pretrained(saved, model=str(other_place))
    np.testing.assert_allclose(found.score(ROWS), expected, atol=1e-6)


def test_other_weights_under_the_same_path_are_refused(saved: Path, other_place: Path) -> None:
    edit(saved, model=str(other_place))
    scorer = LARFScorer.from_pretrained(saved)
    assert np.isfinite(scorer.score(ROWS)).all()
    unload_models()
    make_model(other_place, seed=1)
    with pytest.raises(ScorerError, match="not the one this scorer was fitted on"):
        scorer.score(ROWS)


def test_a_model_of_another_width_is_refused(saved: Path, tmp_path: Path) -> None:
    from support.models import SIZES
    from transformers import LlamaConfig

    wider = make_model(tmp_path / "wide", LlamaConfig(**{**SIZES, "hidden_size": 96, "head_dim": 24}))
    with pytest.raises(ScorerError, match="not the one this scorer was fitted on"):
        LARFScorer.from_pretrained(saved, model=str(wider)).score(ROWS)


def test_a_changed_chat_template_is_refused(saved: Path, other_place: Path) -> None:
    make_tokenizer(other_place, CHATML.replace("<|im_start|>", "<|im_start|> "))
    with pytest.raises(ScorerError, match="another chat template"):
        LARFScorer.from_pretrained(saved, model=str(other_place)).score(ROWS)


def test_a_template_of_the_users_own_travels_with_the_scorer(
    tiny_scorer: LARFScorer, tiny_model: Path, references_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"instruction": "Name a colour.", "output": "Green.", "category": "plain"}
    monkeypatch.setattr("larf_curate.scoring.fitting.sample_rows", lambda: [row])  # a fit in a second
    own = tmp_path / "own.jinja"
    own.write_text(CHATML.replace("<|im_end|>", "<|im_end|> over"))
    scorer = LARFScorer.fit(tiny_model, [1, 3], references=references_file, chat_template=str(own))
    scorer.save_pretrained(tmp_path / "scorer")
    own.unlink()
    loaded = LARFScorer.from_pretrained(tmp_path / "scorer")
    np.testing.assert_array_equal(loaded.score(ROWS), scorer.score(ROWS))
    assert np.abs(loaded.score(ROWS) - tiny_scorer.score(ROWS)).max() > 1e-3
    assert loaded.annotate(ROWS).tokens[0] > tiny_scorer.annotate(ROWS).tokens[0]


# On the Hub ----------------------------------------------------------------------------------------------------------


def test_push_to_the_hub_and_back(saved: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = LARFScorer.from_pretrained(saved)
    assert scorer.push_to_hub("acme/larf-tiny", private=True).startswith(hub.endpoint)
    scorer.push_to_hub("acme/larf-tiny")
    with monkeypatch.context() as stranger:
        stranger.delenv("HF_TOKEN")
        stranger.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(saved.parent / "empty"))
        with pytest.raises(ScorerError, match="scorer acme/larf-tiny"):
            LARFScorer.from_pretrained("acme/larf-tiny")
    with pytest.raises(ScorerError, match="scorer acme/none is neither a local directory nor a repository"):
        LARFScorer.from_pretrained("acme/none")
    with monkeypatch.context() as offline:
        offline.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(ScorerError, match="HF_HUB_OFFLINE is set, and the cache does not hold it"):
            LARFScorer.from_pretrained("acme/none")
    again = LARFScorer.from_pretrained("acme/larf-tiny", model=scorer.spec.model)
    assert again.spec == public_spec(scorer.spec)  # where the model is on this machine is nobody's business
    rows = [{"question": "How deep is the lake?", "answer": "Twelve metres."}]
    assert np.isfinite(scorer.score(rows)).all()
    np.testing.assert_array_equal(again.score(rows), scorer.score(rows))
    repo = hub.repos["acme/larf-tiny"]
    assert repo.kind == "model"
    assert repo.private
    assert repo.files[TENSORS] == (saved / TENSORS).read_bytes()
    assert set(repo.files) - {".gitattributes", "README.md"} == {CONFIG, TENSORS}
    assert len(repo.commits) == 1  # the second push had nothing to send
    card = repo.files["README.md"].decode()
    assert 'LARFScorer.from_pretrained("acme/larf-tiny")' in card
    assert "AUC " in card
    assert "base_model" not in card  # it was fitted on a directory
    assert str(saved.parent) not in card


def test_a_scorers_card_is_inert_and_spares_what_is_not_ours(tiny_scorer):
    hostile = "x\n---\nlicense: mit\n<script>alert(1)</script> | [a](javascript:b) `c`"
    references = replace(tiny_scorer.spec.references, name=hostile, digest=hostile, findings=(hostile,))
    separation = Separation(0.5, 3, hostile)
    for name in ("dtype", "overflow"):
        with pytest.raises(ModelError, match=f"{name} must be"):
            replace(tiny_scorer.spec, **{name: hostile})
    changes = dict.fromkeys(("model", "formula"), hostile)
    spec = replace(tiny_scorer.spec, references=references, separation=separation, version="0" * 40, **changes)
    card = render_model_card(spec, "acme/larf-tiny")
    assert set(yaml.safe_load(card.split("---\n")[1])) == {"library_name", "tags"}
    rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(card.split("---\n", 2)[2])
    assert "<script" not in rendered
    assert re.findall('href="(.*?)"', rendered) == ["https://arxiv.org/abs/2507.18631"]
    assert rendered.count("<td>") == 2 * 7
    hub_spec = replace(tiny_scorer.spec, model="acme/base", version="0" * 40)
    assert yaml.safe_load(render_model_card(hub_spec, "a/b").split("---\n")[1])["base_model"] == "acme/base"


def test_a_model_on_the_hub_is_loaded_once_for_fitting_and_scoring(
    tiny_model: Path, references_file: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fitted by its branch, scored by its commit: one model, and one copy of it in memory."""
    repo = NumberedRepo("acme/tiny", "model", private=False)
    repo.files = {file.name: file.read_bytes() for file in tiny_model.iterdir() if file.is_file()}
    hub.repos["acme/tiny"] = repo
    load, loads = runtime.load_model, []
    monkeypatch.setattr(runtime, "load_model", lambda *arguments: loads.append(arguments) or load(*arguments))
    scorer = LARFScorer.fit("acme/tiny", 2, references=references_file)
    assert scorer.spec.commit == repo.sha
    rows = [{"question": "How deep is the lake?", "answer": "Twelve metres."}]
    scorer.score(rows)
    scorer.save_pretrained(tmp_path / "scorer")
    LARFScorer.from_pretrained(tmp_path / "scorer").score(rows)
    assert len(loads) == 1
