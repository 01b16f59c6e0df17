"""On a system without POSIX's own modules and functions, as Windows: what can work there can be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HIDDEN = """
import os, signal, sys
import datasets, datatrove.executor.local, datatrove.executor.ray, datatrove.executor.slurm, torch, transformers
from trl import SFTTrainer

POSIX = {"fcntl", "grp", "pwd", "resource", "termios"}


class NoPosix:
    def find_spec(self, name, *_):
        if name in POSIX:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, NoPosix())
for name in POSIX:
    sys.modules.pop(name, None)
for name in ("fork", "register_at_fork", "sched_getaffinity"):
    delattr(os, name)
for name in ("SIGUSR1", "pthread_kill"):
    delattr(signal, name)
"""
"""Other libraries are imported first: how they do without is theirs."""


def run(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", HIDDEN + script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.process
def test_every_module_can_be_imported_and_a_recipe_says_that_it_needs_posix(tiny_scorer, tmp_path: Path):
    tiny_scorer.save_pretrained(tmp_path / "scorer")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "q", "completion": "a"}) + "\n")
    recipe = {
        "source": {"path": str(tmp_path / "rows.jsonl")},
        "scorer": {"from": str(tmp_path / "scorer")},
        "threshold": {"drop_top": 1},
        "output": str(tmp_path / "out"),
    }
    said = run(
        "import importlib, pkgutil, larf_curate\n"
        "for module in pkgutil.walk_packages(larf_curate.__path__, 'larf_curate.'):\n"
        "    importlib.import_module(module.name)\n"
        "from larf_curate import LarfError, Recipe\n"
        f"try: Recipe.from_text({json.dumps(recipe)!r}).run()\n"
        "except LarfError as error: print(error)\n"
    )
    assert said.startswith("recipes run on POSIX systems alone: use Linux, macOS, or WSL on Windows")
    assert not (tmp_path / "out").exists()
