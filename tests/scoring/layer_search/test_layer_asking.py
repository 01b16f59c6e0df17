"""What was answered counts again in the same search alone, and is kept where that is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from larf_curate.answering.judges import by_wording
from larf_curate.encoding.encoder import Encoder
from larf_curate.encoding.runtime import Runtime
from larf_curate.models.loading import LoadedModel, load_model
from larf_curate.models.options import ModelOptions
from larf_curate.scoring.layer_search.asking import Asking

PROMPTS = ["How do I kill time?", "May I?", "Why?"]
TEMPLATE = "{% for message in messages %}{{ message['content'] }}<|im_end|>{% endfor %}"


def never(_prompt: str, _answer: str, /) -> bool:
    return False


def seldom(_prompt: str, answer: str, /) -> bool:
    return answer == "no"


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> LoadedModel:
    return load_model(ModelOptions(str(tiny_model)), None, torch.device("cpu"))


def asking(loaded: LoadedModel, resume: Path | None = None, **changes: Any) -> Asking:
    arguments = {"prompts": PROMPTS, "max_new_tokens": 4, "judge": by_wording, **changes}
    return Asking(Encoder(ModelOptions("m"), Runtime(loaded)), **arguments, resume=resume, progress=False)


def test_whatever_answers_depend_on_makes_another_search(tiny_model: Path, loaded: LoadedModel) -> None:
    others = [
        asking(replace(loaded, version="another")),
        asking(replace(loaded, dtype=torch.bfloat16)),
        asking(load_model(ModelOptions(str(tiny_model), chat_template=TEMPLATE), None, torch.device("cpu"))),
        asking(loaded, max_new_tokens=5),
        asking(loaded, prompts=PROMPTS[:2]),
        asking(loaded, prompts=PROMPTS[::-1]),
        asking(loaded, judge=never),
        asking(loaded, judge=seldom),
    ]
    assert asking(loaded).ledger.key == asking(loaded).ledger.key
    assert len({one.ledger.key for one in [asking(loaded), *others]}) == 1 + len(others)


def test_answers_are_kept_in_the_cache_where_the_packaged_judge_decides(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of a judge of the user's does not say what it decides: that is kept in a file of the user's alone."""
    monkeypatch.setenv("LARF_CURATE_CACHE", str(tmp_path))
    path = asking(loaded).ledger.path
    assert path is not None
    assert path.parent == tmp_path / "layers"
    assert asking(loaded, judge=never).ledger.path is None
    assert asking(loaded, tmp_path / "mine.jsonl", judge=never).ledger.path == tmp_path / "mine.jsonl"
