"""A run that is run again makes anew what was lost, and shows its result where nothing can be written."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.managers import SyncManager
from pathlib import Path
from threading import Event

import pyarrow.parquet as pq
import pytest
from datatrove.executor import local

from larf_curate import Recipe
from larf_curate.deciding.summary import Summary
from larf_curate.encoding import encoder
from larf_curate.errors import OutputError
from larf_curate.runs import driver

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("no_row_is_run")]


@pytest.fixture
def recipe(tiny_scorer, tmp_path: Path):
    """Makes a recipe of a run over the rows in `rows.jsonl`, into `out`."""
    tiny_scorer.save_pretrained(tmp_path / "scorer")
    rows = [{"prompt": f"Say {i}", "completion": "Good day. " * (i % 5 + 1)} for i in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def recipe(drop_top: int = 2, out: str = "out") -> Recipe:
        sections = {
            "source": {"path": str(tmp_path / "rows.jsonl")},
            "scorer": {"from": str(tmp_path / "scorer")},
            "threshold": {"drop_top": drop_top},
            "output": str(tmp_path / out),
        }
        return Recipe.from_text(json.dumps(sections))

    return recipe


@pytest.mark.parametrize("damage", ["cut short", "lost", "without its files"])
def test_rows_that_were_cut_short_or_lost_are_split_again(
    recipe, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, kept = driver.run(recipe().request()), tmp_path / "out" / "kept"
    (path,) = kept.iterdir()
    whole = pq.read_table(path)
    if damage == "cut short":
        path.write_bytes(path.read_bytes()[:-30])
    elif damage == "lost":
        shutil.rmtree(kept)
    else:
        path.unlink()
    monkeypatch.setattr(encoder.Encoder, "states_of", lambda *_: pytest.fail("scored again"))
    assert driver.run(recipe().request()).outcomes == before.outcomes
    assert pq.read_table(path).equals(whole)


def test_runs_in_two_threads_of_one_process_take_turns(recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run changes of its process, the other would put back to what the first had made of it."""
    real, begun, second_began, first_ended = driver.chain, [], Event(), Event()

    def chain(*arguments):
        begun.append(arguments)
        if len(begun) == 1:
            second_began.wait(0.5)
        else:
            second_began.set()
            first_ended.wait(5)
        return real(*arguments)

    def run(out: str) -> Summary:
        summary = driver.run(recipe(out=out).request())
        first_ended.set()
        return summary

    monkeypatch.setattr(driver, "chain", chain)
    before = [local.multiprocess, SyncManager.start, os.fstat(2).st_ino]
    with ThreadPoolExecutor(2) as threads:
        summaries = list(threads.map(run, ["one", "two"]))
    assert [summary.outcomes.removed for summary in summaries] == [2, 2]
    assert [local.multiprocess, SyncManager.start, os.fstat(2).st_ino] == before


@pytest.mark.usefixtures("blank_pictures")
def test_a_finished_run_that_cannot_be_written_shows_its_result(
    recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = recipe().run()
    report = (tmp_path / "out" / "report.json").stat().st_mtime_ns
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "out" not in str(path) and access(path, mode))
    monkeypatch.setattr("larf_curate.runs.driver.locked", lambda _: pytest.fail("it cannot be locked"))
    assert recipe().run() == before
    assert (tmp_path / "out" / "report.json").stat().st_mtime_ns == report
    monkeypatch.undo()
    (tmp_path / "out").chmod(0o500)
    try:
        assert recipe().run() == before
        if os.geteuid() != 0:
            with pytest.raises(OutputError, match="cannot be written"):
                recipe(drop_top=3).run()
    finally:
        (tmp_path / "out").chmod(0o700)
