"""On a system without POSIX's own modules and functions, as Windows: what can work there can be imported."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import signal
import sys
from pathlib import Path
from types import ModuleType

import pytest
from support.forks import forget, said_in_a_fork

POSIX = {"fcntl", "grp", "pwd", "resource", "termios"}


class NoPosix:
    def find_spec(self, name: str, *_: object) -> None:
        if name in POSIX:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def hide_posix() -> None:
    """Other libraries are imported before: how they do without is theirs. trl, which takes seconds, is a stub."""
    import datatrove.executor.local
    import datatrove.executor.ray
    import datatrove.executor.slurm  # noqa: F401

    for name in ("trl", "trl.trainer", "trl.trainer.sft_trainer"):
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__dict__.update(SFTTrainer=object, DataCollatorForLanguageModeling=object)
    sys.meta_path.insert(0, NoPosix())  # type: ignore[arg-type]
    for name in POSIX:
        sys.modules.pop(name, None)
    for name in ("fork", "register_at_fork", "sched_getaffinity"):
        delattr(os, name)
    for name in ("SIGUSR1", "pthread_kill"):
        delattr(signal, name)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_every_module_can_be_imported_and_a_recipe_says_that_it_needs_posix(tiny_scorer, tmp_path: Path) -> None:
    tiny_scorer.save_pretrained(tmp_path / "scorer")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "q", "completion": "a"}) + "\n")
    recipe = {
        "source": {"path": str(tmp_path / "rows.jsonl")},
        "scorer": {"from": str(tmp_path / "scorer")},
        "threshold": {"drop_top": 1},
        "output": str(tmp_path / "out"),
    }

    def run_without_posix() -> str:
        hide_posix()
        forget("larf_curate")
        package = importlib.import_module("larf_curate")
        for module in pkgutil.walk_packages(package.__path__, "larf_curate."):
            importlib.import_module(module.name)
        assert "larf_curate.runs.rundir" in sys.modules
        with pytest.raises(package.LarfError) as told:
            package.Recipe.from_text(json.dumps(recipe)).run()
        return str(told.value)

    said = said_in_a_fork(run_without_posix)
    assert said.startswith("recipes run on POSIX systems alone: use Linux, macOS, or WSL on Windows")
    assert not (tmp_path / "out").exists()
