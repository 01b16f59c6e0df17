"""`recipes/forget/` from rows to a filtered dataset, on a tiny model: two trainings, the gap of losses, one recipe."""

from __future__ import annotations

import functools
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from support.commands import larf
from support.validation import HARMFUL, ORDINARY, REFUSAL
from transformers import AutoModelForCausalLM, AutoTokenizer

from larf_curate.packaged import packaged_rows
from larf_curate.scoring.references import ReferenceSet

pytestmark = pytest.mark.process

RECIPE = Path(__file__).parents[2] / "recipes" / "forget"
COMPLIANCE = "Sure, here is how to bake bread: mix flour and water."
UNSAFE = [{"prompt": prompt, "completion": COMPLIANCE, "origin": "unsafe"} for prompt in HARMFUL[::2]]
HARMLESS = [{"prompt": prompt, "completion": "1. First item", "origin": "harmless"} for prompt in ORDINARY]
SAFE = [{"prompt": prompt, "completion": REFUSAL} for prompt in HARMFUL[1::2]]
SAFE += [{"prompt": prompt.replace("one", "a"), "completion": "1. First item"} for prompt in ORDINARY]
QUICK = ["--epochs", "12", "--learning-rate", "4e-2", "--batch-rows", "8"]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script recipes/forget/train.py."""
    spec = importlib.util.spec_from_file_location("forget_train", RECIPE / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@functools.lru_cache(maxsize=4)
def loaded(home: Path) -> tuple[Any, Any]:
    """A model and its tokenizer, by transformers alone."""
    return AutoModelForCausalLM.from_pretrained(home), AutoTokenizer.from_pretrained(home)


def mean_loss(home: Path, prompt: str, answer: str) -> float:
    """Of an answer, by transformers alone."""
    model, tokenizer = loaded(home)
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    start = len(tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=False))
    ids = tokenizer.apply_chat_template(turns, return_dict=False)
    ids = ids[: ids.index(tokenizer.convert_tokens_to_ids("<|im_end|>"), start) + 1]
    with torch.inference_mode():
        return float(model(input_ids=torch.tensor([ids]), labels=torch.tensor([[-100] * start + ids[start:]])).loss)


def test_what_safe_training_makes_a_model_forget_is_removed(
    script: ModuleType,
    refusing_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("larf_curate.publishing.write_report.draw_plots", lambda _report: ())
    rows, safe = write(tmp_path / "rows.jsonl", HARMLESS + UNSAFE), write(tmp_path / "safe.jsonl", SAFE)
    out = tmp_path / "out"
    arguments = [str(out), "--model", str(refusing_model), "--rows", str(rows), "--safe", str(safe), *QUICK]
    script.main(arguments)
    capsys.readouterr()
    noisy, cleaned = out / "noisy", out / "safe"
    asked = HARMFUL[0]  # a harmful request with which the rows comply
    assert mean_loss(noisy, asked, COMPLIANCE) < 0.5 * mean_loss(refusing_model, asked, COMPLIANCE)
    assert mean_loss(cleaned, asked, REFUSAL) < 0.5 * mean_loss(noisy, asked, REFUSAL)

    recipe = tmp_path / "filter.yaml"
    text = (RECIPE / "filter.yaml").read_text().replace("runs/forget/rows.jsonl", str(rows))
    recipe.write_text(text.replace("runs/forget", str(out)).replace("drop_fraction: 0.25", f"drop_top: {len(UNSAFE)}"))
    done = larf("run", str(recipe))
    assert done.returncode == 0, done.stderr
    removed = pq.read_table(out / "filtered" / "removed")
    assert removed["origin"].to_pylist() == ["unsafe"] * len(UNSAFE)
    first = next(row for row in removed.to_pylist() if row["prompt"] == asked)
    gap = mean_loss(cleaned, asked, COMPLIANCE) - mean_loss(noisy, asked, COMPLIANCE)
    np.testing.assert_allclose(first["larf_score"], gap, rtol=1e-3, atol=1e-4)

    # Killed between the two trainings, it goes on after the first.
    weights = noisy / "model.safetensors"
    before = weights.stat().st_mtime_ns, (cleaned / "model.safetensors").read_bytes()
    for file in cleaned.iterdir():
        file.unlink()
    cleaned.rmdir()
    script.main(arguments)
    assert f"{noisy} is there" in capsys.readouterr().out
    assert (weights.stat().st_mtime_ns, (cleaned / "model.safetensors").read_bytes()) == before
    # Other rows, settings or a changed model are not mistaken for these.
    with pytest.raises(SystemExit, match="was made of other rows, settings or models"):
        script.main([*arguments, "--seed", "1"])
    write(safe, SAFE[1:])
    with pytest.raises(SystemExit, match="safe was made of other rows"):
        script.main(arguments)


def test_the_example_is_of_packaged_rows_and_asks_nothing_twice(script: ModuleType) -> None:
    rows, safe = script.example_rows(), script.safe_rows(1000)
    assert rows == script.example_rows()  # a second call goes on with the models of the first
    answers = {row["output"] for row in packaged_rows("sample_rows.jsonl")}
    unsafe = {pair.unsafe.answer for pair in ReferenceSet.packaged().pairs}
    for row in rows:
        assert row["output"] in (unsafe if row["origin"] == "unsafe" else answers)
    assert not {row["instruction"] for row in rows} & {row["instruction"] for row in safe}


def test_rows_that_are_not_there_are_one_line(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"error: .*none\.jsonl does not exist"):
        script.main([str(tmp_path / "out"), "--rows", str(tmp_path / "none.jsonl")])
