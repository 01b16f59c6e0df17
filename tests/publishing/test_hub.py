"""Pushing: whole or not at all, once or twice, over what is there, and past whatever fails on the way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

STORIES = ["plain", "own_card", "other_format", "broken", "races", "tokens", "dry", "pull_request"]


@pytest.mark.parametrize("story", STORIES)
def test_pushing(story, plain_run, tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, Path(__file__).parents[1] / "support" / "pushes.py", story, plain_run, tmp_path / "hf"],
        capture_output=True,
        check=False,
        text=True,
        env=environment,
    )
    assert done.stdout.endswith("as told\n"), done.stdout[-2000:] + done.stderr[-4000:]
    assert "hf_good" not in done.stderr
