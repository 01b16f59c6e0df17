"""A tiny model that refuses, and a run of rows to train it on."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.models import made_once
from support.validation import HARMFUL, ORDINARY, REFUSAL

from larf_curate.models.loading import load_model
from larf_curate.models.options import ModelOptions
from larf_curate.rows.rendering import Renderer
from larf_curate.validation import prompts
from larf_curate.validation.measuring import answer_rows
from larf_curate.validation.settings import TrainingSettings
from larf_curate.validation.training import train


@pytest.fixture(scope="session", autouse=True)
def accelerate_asks_once() -> Iterator[None]:
    """It reads the metadata of packages that are installed a dozen times for each training: a tenth of its time."""
    from accelerate.utils import imports

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(imports, "_is_package_available", functools.cache(imports._is_package_available))
        yield


@pytest.fixture
def few_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models choose between the answers to four requests, not to 16 or more, where their choice does not matter."""
    few = prompts.packaged_choices()[::14]
    monkeypatch.setattr(prompts, "packaged_choices", lambda: few)


@pytest.fixture(scope="session")
def taught_model(tiny_model: Path) -> Path:
    """The tiny model after training: it refuses `HARMFUL`, word for word those prompts, and answers `ORDINARY`."""
    return made_once("taught", functools.partial(_teach, tiny_model))


def _teach(tiny_model: Path, home: Path) -> None:
    loaded = load_model(ModelOptions(str(tiny_model)), None, torch.device("cpu"))
    pairs = [(prompt, REFUSAL) for prompt in HARMFUL] + [(prompt, "Sure, here is the item.") for prompt in ORDINARY]
    rows = [row for row in answer_rows(Renderer(loaded.tokenizer, 256), pairs) if row]
    settings = TrainingSettings("full", learning_rate=4e-3, epochs=14, batch_rows=8)
    trained = train(loaded, rows, settings, seed=0).loaded
    trained.model.save_pretrained(home)
    trained.tokenizer.save_pretrained(home)


@pytest.fixture
def scored_run(make_run: Any) -> Path:
    """60 rows of which the 12 with the highest scores are removed: short answers, every third a list."""
    from larf_curate.deciding.thresholds import Threshold

    rows = [{"question": f"What about item {number}?", "answer": _answer(number)} for number in range(60)]
    return make_run(rows, [number / 60 for number in range(60)], Threshold.drop_top(12))


def _answer(number: int) -> str:
    words = " ".join(["wizards", "judge", "the", "match"][: 1 + number % 4] * (1 + number % 3))
    return f"1. {words}\n2. {words}" if number % 3 == 0 else f"Sure, {words}."
