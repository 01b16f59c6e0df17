"""States of references that are kept between fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from larf_curate import LARFScorer, ReferenceSet
from larf_curate.cache import clear_caches
from larf_curate.encoding.encoder import Encoder, get_encoder
from larf_curate.errors import ModelError
from larf_curate.models import demo
from larf_curate.models.options import ModelOptions
from larf_curate.progress import LOGGER
from larf_curate.scoring import reference_states
from larf_curate.scoring.layer_search.locators import separation

ROWS = [{"question": "Name a colour.", "answer": "Green."}, {"question": "Hide it?", "answer": "Sure, plan it well."}]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with nothing in it."""
    monkeypatch.setattr(reference_states, "directories", lambda: [tmp_path / "kept"])
    return tmp_path / "kept"


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many conversations each pass through the model had."""
    counts: list[int] = []
    encode = Encoder.encode

    def counted(self: Encoder, ids: Any, *args: Any) -> Any:
        counts.append(len(ids))
        return encode(self, ids, *args)

    monkeypatch.setattr(Encoder, "encode", counted)
    return counts


def test_a_second_fit_runs_three_conversations_and_a_fit_below_it_too(
    home: Path, encoded: list[int], tiny_model: Path, references_file: Path
) -> None:
    first = LARFScorer.fit(tiny_model, 3, references=references_file)
    assert encoded == [17]  # 8 pairs and the conversation by which a model is known again
    again = LARFScorer.fit(tiny_model, 3, references=references_file)
    below = LARFScorer.fit(tiny_model, [2, 0], references=references_file)
    assert encoded == [17, 3, 3]  # the shortest, the longest, and the one that a model is known by
    np.testing.assert_array_equal(first.score(ROWS), again.score(ROWS))
    assert first.spec == again.spec
    for file in home.rglob("*.safetensors"):
        file.unlink()
    anew = LARFScorer.fit(tiny_model, [2, 0], references=references_file)
    np.testing.assert_allclose(below.score(ROWS), anew.score(ROWS), atol=1e-6)
    LARFScorer.fit(tiny_model, 4, references=references_file)
    assert encoded[-1] == 17  # no pass has reached block 4 yet


def test_a_layer_search_and_a_fit_encode_the_references_once(
    home: Path, encoded: list[int], tiny_model: Path, references_file: Path
) -> None:
    references = ReferenceSet.from_jsonl(references_file)
    encoder = get_encoder(ModelOptions(str(tiny_model)), 4)
    found = separation(encoder, references)
    assert encoded == [17]
    LARFScorer.fit(tiny_model, 4, references=references_file)
    LARFScorer.fit(tiny_model, 2, references=references_file)
    assert encoded == [17, 3, 3]
    assert separation(encoder, references) == found
    assert encoded == [17, 3, 3, 3]


def test_a_search_for_a_fault_is_told_what_was_read_and_how(
    home: Path,
    tiny_model: Path,
    references_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_nobodys")
    told, before = [], LOGGER.level
    try:
        for level in ("DEBUG", "DEBUG", "INFO"):
            LOGGER.setLevel(level)
            clear_caches()
            LARFScorer.fit(tiny_model, 1, references=references_file)
            told.append("".join(capsys.readouterr()))
    finally:
        LOGGER.setLevel(before)
    assert f"model {tiny_model}: files in {tiny_model}, version local-" in told[0]
    assert "loaded in " in told[0]
    assert "batches of at most " in told[0]
    assert "states of references: 16 are encoded" in told[0]
    assert "states of references: 16 are read from files" in told[1]
    assert "hf_nobodys" not in told[0] + told[1]
    assert "states of references" not in told[2]


@pytest.mark.parametrize(
    "options", [{"max_tokens": 16}, {"chat_template": "{{ messages[0].content }} {{ messages[-1].content }}"}]
)
def test_what_the_model_reads_in_another_way_is_encoded_anew(
    home: Path, encoded: list[int], tiny_model: Path, references_file: Path, options: dict[str, Any]
) -> None:
    LARFScorer.fit(tiny_model, 1, references=references_file)
    LARFScorer.fit(tiny_model, 1, references=references_file, **options)
    assert encoded == [17, 17]


DAMAGES = ["another model's", "cut off", "another shape", "one state is another's", "not finite", "writable", "a link"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_states_that_are_not_this_models_are_not_used(
    home: Path, encoded: list[int], tiny_model: Path, references_file: Path, damage: str
) -> None:
    first = LARFScorer.fit(tiny_model, 1, references=references_file)
    (file,) = home.rglob("block-1.safetensors")
    states, whole = load_file(file)["states"], load_file(file)["states"]
    if damage == "another model's":
        save_file({"states": states + np.float32(0.05) * np.roll(states, 1, axis=1)}, file)
    elif damage == "another shape":
        save_file({"states": states[:, :-1].copy()}, file)
    elif damage == "one state is another's":  # that of the longest row, not of the one that a model is known by
        lengths = [len(row["request"] + row["unsafe"]) for row in map(json.loads, references_file.open())]
        states[int(np.argmax(lengths))] = -states[int(np.argmax(lengths))]
        save_file({"states": states}, file)
    elif damage == "not finite":
        save_file({"states": np.where(np.arange(len(states))[:, None] == 3, np.nan, states)}, file)
    elif damage == "writable":
        save_file({"states": states[::-1].copy()}, file)
        file.chmod(0o666)
    elif damage == "a link":
        file.rename(file.with_name("elsewhere"))
        file.symlink_to(file.with_name("elsewhere"))
    else:
        file.write_bytes(file.read_bytes()[:-100])
    again = LARFScorer.fit(tiny_model, 1, references=references_file)
    assert encoded[-1] == 17
    np.testing.assert_array_equal(first.score(ROWS), again.score(ROWS))
    np.testing.assert_array_equal(load_file(file)["states"], whole)
    assert not file.is_symlink()
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_fit_with_kept_states_finds_that_a_state_depends_on_its_batch_here(
    home: Path, tiny_model: Path, references_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was kept may have been encoded by other packages, or on another device."""
    LARFScorer.fit(tiny_model, 1, references=references_file)
    encode = Encoder.encode

    def dependent(self: Encoder, ids: Any, *args: Any) -> Any:
        states = encode(self, ids, *args)
        if len(ids) > 1:
            states.values[...] += 0.05 * np.roll(states.values, 1, axis=-1)
        return states

    monkeypatch.setattr(Encoder, "encode", dependent)
    with pytest.raises(ModelError, match="depends on the batch that it runs in"):
        LARFScorer.fit(tiny_model, 1, references=references_file)


def test_a_home_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Path, references_file: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(reference_states, "directories", lambda: [tmp_path / "file" / "below"])
    assert LARFScorer.fit(tiny_model, 1, references=references_file).layers == (1,)


@pytest.mark.demo
def test_the_package_ships_the_states_of_its_references_for_the_demo_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, encoded: list[int], demo_scorer: LARFScorer
) -> None:
    """`recipes/reference_states.py` makes them anew where this fails."""
    packaged = ReferenceSet.packaged()
    few = ReferenceSet((*packaged.fitted[::40], *packaged.held_back[::20]), "some of the packaged")
    here = LARFScorer.fit("demo", demo.LAYER, references=few, progress=False)
    assert encoded == [2 * len(few.pairs) + 1]
    for side in ("unsafe", "safe"):
        np.testing.assert_allclose(demo_scorer._tensors[side][::40], here._tensors[side], rtol=1e-3, atol=1e-3)

    monkeypatch.undo()
    directories = [tmp_path, Path(reference_states.__file__).parents[1] / "data" / "reference_states"]
    monkeypatch.setattr(reference_states, "directories", lambda: directories)
    shipped = LARFScorer.fit("demo", demo.LAYER, progress=False)
    assert not list(tmp_path.iterdir()), "not found among those of the package: encoded"
    assert shipped.spec == demo_scorer.spec
