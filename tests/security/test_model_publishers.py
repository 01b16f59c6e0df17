"""Whoever publishes a model, an adapter or a recipe runs no code here unless the user's own command or call says so."""

from __future__ import annotations

import builtins
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers
from support.checkpoints import load, make_adapter
from typer.testing import CliRunner

from larf_curate import LARFScorer, Recipe
from larf_curate.cache import clear_caches
from larf_curate.cli import app
from larf_curate.errors import ModelError, RecipeError, ScorerError
from larf_curate.models.options import ModelOptions

AUTO_CLASSES = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer")


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """A file that is there once code of a model has been run."""
    return tmp_path / "ran"


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked on the terminal, where somebody says yes to everything."""
    asked: list[str] = []

    def yes(question: str = "") -> str:
        asked.append(question)
        return "y"

    monkeypatch.setattr(builtins, "input", yes)
    return asked


def with_code(directory: Path, ran: Path, file: str, automatic: dict[str, Any]) -> None:
    """Make a configuration file of the directory name code of its own."""
    (directory / "own.py").write_text(
        f"open({str(ran)!r}, 'w').close()\n"
        "from transformers import LlamaConfig, PreTrainedTokenizerFast\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class OwnTokenizer(PreTrainedTokenizerFast):\n    pass\n"
    )
    path = directory / file
    values = json.loads(path.read_text()) | automatic
    if file == "config.json":
        values["model_type"] = "own"
    path.write_text(json.dumps(values))


@pytest.fixture
def model_with_code(tiny_model: Path, tmp_path: Path, ran: Path) -> Path:
    copy = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    with_code(copy, ran, "config.json", {"auto_map": {"AutoConfig": "own.OwnConfig"}})
    return copy


@pytest.fixture
def recipe_file(model_with_code: Path, references_file: Path, tmp_path: Path) -> Path:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Hello", "completion": "Good day"}\n' * 3)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"source: {{path: {rows}}}\n"
        f"scorer: {{model: {model_with_code}, layer: 1, references: {references_file}, device: cpu}}\n"
        f"threshold: {{drop_top: 1}}\noutput: {tmp_path / 'out'}\n"
    )
    return recipe


def test_an_adapter_s_tokenizer_asks_nobody_and_runs_nothing(
    tiny_model: Path, tmp_path: Path, ran: Path, questions: list[str]
) -> None:
    pytest.importorskip("peft", reason="adapters need larf-curate[peft]")
    make_adapter(tiny_model, tmp_path / "adapter")
    for file in tiny_model.glob("token*"):
        shutil.copy(file, tmp_path / "adapter")
    automatic = {"auto_map": {"AutoTokenizer": [None, "own.OwnTokenizer"]}, "tokenizer_class": "OwnTokenizer"}
    with_code(tmp_path / "adapter", ran, "tokenizer_config.json", automatic)
    with pytest.raises(ModelError, match=r"comes with code of its own.*--trust-remote-code"):
        load(tmp_path / "adapter", 1)
    assert (questions, ran.exists()) == ([], False)
    load(tmp_path / "adapter", 1, trust_remote_code=True)
    assert (questions, ran.exists()) == ([], True)


@pytest.mark.parametrize("trusted", [False, True])
def test_trust_is_said_to_every_loader(
    tiny_model: Path, tmp_path: Path, trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft", reason="adapters need larf-curate[peft]")
    make_adapter(tiny_model, tmp_path / "adapter")
    for file in tiny_model.glob("token*"):
        shutil.copy(file, tmp_path / "adapter")
    clear_caches()  # of which class a model is would be known
    said: dict[str, list[Any]] = {}
    for name in AUTO_CLASSES:
        loader = getattr(transformers, name)
        # A model's class is found by its config; the class itself loads no code.
        method = "from_config" if name.startswith("AutoModel") else "from_pretrained"
        original = getattr(loader, method)

        def spy(*arguments: Any, _name: str = name, _original: Any = original, **options: Any) -> Any:
            said.setdefault(_name, []).append(options.get("trust_remote_code"))
            return _original(*arguments, **options)

        monkeypatch.setattr(loader, method, spy)
    for model in (tiny_model, tmp_path / "adapter"):
        load(model, 1, trust_remote_code=trusted)
    assert said.keys() == set(AUTO_CLASSES)
    assert {value for values in said.values() for value in values} == {trusted}


def test_the_class_of_a_trusted_model_is_not_kept_for_one_that_is_not_trusted(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clear_caches()
    asked: list[bool] = []
    real = transformers.AutoModel.from_config

    def spy(*arguments: Any, **options: Any) -> Any:
        asked.append(options["trust_remote_code"])
        return real(*arguments, **options)

    monkeypatch.setattr(transformers.AutoModel, "from_config", spy)
    for trusted in (True, False, False, True):
        load(tiny_model, 1, trust_remote_code=trusted)
    assert asked == [True, False, True], "what the model's own code is trusted for is asked anew each time"


@pytest.mark.parametrize("value", ["true", "false", "null"])
@pytest.mark.parametrize("scorer", ["model: m, layer: 3", "from: fitted"])
def test_a_recipe_cannot_speak_of_trust(scorer: str, value: str) -> None:
    text = f"source: {{path: rows.jsonl}}\nscorer: {{{scorer}}}\nthreshold: {{drop_top: 1}}\noutput: out\n"
    with pytest.raises(RecipeError, match=r"line 2.*--trust-remote-code to `larf-curate run`"):
        Recipe.from_text(text.replace(scorer, f"{scorer}, trust_remote_code: {value}"), "r.yaml")
    with pytest.raises(RecipeError, match="--trust-remote-code to `larf-curate run`"):
        Recipe.from_text(text, "r.yaml", [f"scorer.trust_remote_code={value}"])


def test_trust_of_the_user_reaches_the_run_and_stays_out_of_its_recipe(recipe_file: Path) -> None:
    recipe = Recipe.load(recipe_file)
    plain, trusting = recipe.request(), recipe.request(trust_remote_code=True)
    assert plain.fit is not None
    assert trusting.fit is not None
    assert "trust_remote_code" not in plain.fit | plain.options
    assert trusting.fit["trust_remote_code"] is trusting.options["trust_remote_code"] is True
    assert "trust_remote_code" not in trusting.recipe


def test_a_scorer_cannot_speak_of_trust(tiny_scorer: LARFScorer, tmp_path: Path) -> None:
    tiny_scorer.save_pretrained(tmp_path)
    path = tmp_path / "larf_scorer.json"
    assert "trust_remote_code" not in path.read_text()
    values = json.loads(path.read_text())
    values["trust_remote_code"] = True
    path.write_text(json.dumps(values))
    with pytest.raises(ScorerError, match="trust_remote_code"):
        LARFScorer.from_pretrained(str(tmp_path))


@pytest.mark.parametrize("trusted", [False, True])
def test_a_dry_run_runs_no_code_of_a_model(
    recipe_file: Path, ran: Path, questions: list[str], tmp_path: Path, trusted: bool
) -> None:
    flags = ["--trust-remote-code"] if trusted else []
    environment = {"COLUMNS": "300", "TERM": "dumb"}
    result = CliRunner().invoke(app, ["run", str(recipe_file), "--dry-run", *flags], env=environment)
    assert (questions, ran.exists(), (tmp_path / "out").exists()) == ([], False, False)
    if trusted:
        assert result.exit_code == 0, result.output
        assert "executes code that comes with the model" in result.output
        assert "not known without the model's own code" in result.output
    else:
        assert "comes with code of its own" in f"{result.output}{result.exception}"


def test_the_plan_says_what_will_be_public(recipe_file: Path, tiny_model: Path) -> None:
    text = recipe_file.read_text().replace(f"model: {recipe_file.parent / 'model'}", f"model: {tiny_model}")
    recipe_file.write_text(f"{text}publish: {{repo: me/rows, private: false, removed: true, examples: 7}}\n")
    result = CliRunner().invoke(app, ["run", str(recipe_file), "--dry-run"], env={"COLUMNS": "300", "TERM": "dumb"})
    assert result.exit_code == 0, result.output
    output = " ".join(result.output.split())  # the table folds lines where a path in it is long
    for part in ("me/rows (PUBLIC, if it is new)", "kept and removed rows", "7 removed rows as examples"):
        assert part in output


def test_options_do_not_trust_by_default() -> None:
    assert ModelOptions("m").trust_remote_code is False
