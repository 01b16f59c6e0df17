"""A source that changes between two runs: what did not change is found again, and results are those of a first run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import HfApi
from support.loopback_hub import Hub

from larf_curate import LARFScorer, Recipe
from larf_curate.deciding.layout import OUTCOMES, SOURCE_ROWS, SUMMARY
from larf_curate.deciding.results import Results
from larf_curate.deciding.summary import Summary
from larf_curate.runs import driver

pytestmark = [
    pytest.mark.process,
    pytest.mark.usefixtures("no_row_is_run"),
]  # what is scored again matters here, and not by what

Rows = list[dict[str, object]]


def row(number: int, word: str = "bread") -> dict[str, object]:
    """Every thirtieth has no answer."""
    return {
        "number": number,
        "instruction": f"Say {number}.",
        "output": f"{word} " * (number % 9 + 1) * (number % 30 > 0),
    }


BEFORE = [row(number) for number in range(120)]
CHANGES: dict[str, Rows] = {
    "a row appended": [*BEFORE, row(9001)],
    "a row put first": [row(9001), *BEFORE],
    "a row in the middle changed": [*BEFORE[:61], row(61, "cakes"), *BEFORE[62:]],
    "a row in the middle deleted": [*BEFORE[:60], *BEFORE[61:]],
    "the second half first": [*BEFORE[60:], *BEFORE[:60]],
    "every row twice": [*BEFORE, *BEFORE],
}
MOST = {"the second half first": 6}
"""Shards of about 8 rows that may be scored again; else 3."""


def in_one_file(home: Path, rows: Rows) -> str:
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(home / "rows.jsonl")


def in_several_files(home: Path, rows: Rows) -> str:
    (home / "in").mkdir(exist_ok=True)
    for number in range(4):
        lines = [json.dumps(row) + "\n" for row in rows[30 * number : 30 * number + 30 if number < 3 else None]]
        (home / "in" / f"{number}.jsonl").write_text("".join(lines))
    return str(home / "in" / "*.jsonl")


def by_pandas(home: Path, rows: Rows) -> str:
    """Which notes in the file how many rows there are."""
    pd.DataFrame(rows).to_parquet(home / "rows.parquet")
    return str(home / "rows.parquet")


@pytest.fixture(scope="module")
def scorer(tiny_scorer: LARFScorer, tmp_path_factory: pytest.TempPathFactory) -> str:
    home = tmp_path_factory.mktemp("scorer") / "scorer"
    tiny_scorer.save_pretrained(home)
    return str(home)


@pytest.fixture(scope="module")
def run(scorer: str) -> Callable[..., Path]:
    """Run a recipe over a source into a directory, with so many tasks, and return the directory.

    No report is made: pictures take longer than all the rest, and show what is compared here in numbers.
    """

    def run(source: str, out: Path, tasks: int = 1, **options: bool) -> Path:
        sections = {
            "source": {"path": source, "shard_rows": 8},
            "scorer": {"from": scorer},
            "threshold": {"drop_top": 9},
            "executor": {"tasks": tasks, "workers": 1},
            "output": str(out),
        }
        summary = driver.run(Recipe.from_text(json.dumps(sections)).request(), **options)
        assert isinstance(summary, Summary)
        counts = summary.outcomes
        assert summary.rows == counts.kept + counts.removed + counts.unscorable
        return out

    return run


def shards(out: Path) -> dict[str, tuple[int, int]]:
    """The scored shards, and which file each is: it changes when one is scored again."""
    found = {str(path.relative_to(out)): path.stat() for path in out.glob("scored/*/[!.]*.parquet")}
    return {name: (state.st_mtime_ns, state.st_ino) for name, state in found.items()}


def result(out: Path) -> dict[str, object]:
    """What a run has decided, byte for byte: all but when it was and where."""
    files = {
        str(p.relative_to(out)): p.read_bytes()
        for name in (*OUTCOMES, SOURCE_ROWS)
        for p in (out / name).rglob("*.parquet")
    }
    summary = json.loads((out / SUMMARY).read_text())
    for name in ("started", "finished"):
        del summary["run"][name]
    return {**files, "summary": summary}


def assert_as_from_nothing(run: Callable[..., Path], source: str, out: Path, tasks: int, most: int) -> None:
    """Run again, and compare with a run into another directory."""
    before = shards(out)
    run(source, out, tasks)
    after = shards(out)
    assert before.items() <= after.items(), "what was scored is not scored again"
    fresh = run(source, out.with_name(f"{out.name}-fresh"), tasks)
    assert result(out) == result(fresh)
    assert shards(fresh).keys() <= after.keys()
    assert len(after) - len(before) <= most


@pytest.fixture(scope="module")
def first(run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over the rows as they were."""
    home = tmp_path_factory.mktemp("first")
    return run(in_one_file(home, BEFORE), home / "out")


@pytest.fixture
def out(first: Path, tmp_path: Path) -> Path:
    """A copy of that run's directory, with files of the same age."""
    return Path(shutil.copytree(first, tmp_path / "out", copy_function=shutil.copy2))


@pytest.mark.parametrize("change", ["a row put first", "the second half first", "every row twice"])
def test_only_shards_whose_rows_changed_are_scored_again(
    change: str, run, first: Path, out: Path, tmp_path: Path
) -> None:
    """The other changes are made to sources of other kinds, below."""
    source = in_one_file(tmp_path, CHANGES[change])
    assert_as_from_nothing(run, source, out, 1, MOST.get(change, 3))
    assert len(shards(first)) > 15


@pytest.mark.parametrize(("write", "tasks"), [(in_several_files, 3), (by_pandas, 1)])
def test_the_kind_of_source_does_not_matter(write, tasks: int, run, tmp_path: Path) -> None:
    out = run(write(tmp_path, BEFORE), tmp_path / "out", tasks)
    for change in ("a row appended", "a row in the middle changed"):
        assert_as_from_nothing(run, write(tmp_path, CHANGES[change]), out, tasks, 3)
        shutil.rmtree(tmp_path / "out-fresh")


def test_the_same_rows_in_other_files_are_not_scored_again_and_are_found_in_these(
    run, out: Path, tmp_path: Path
) -> None:
    before = shards(out)
    run(in_several_files(tmp_path, BEFORE), out)
    assert shards(out) == before
    assert result(out) == result(run(in_several_files(tmp_path, BEFORE), tmp_path / "fresh"))
    places = [row.where for row in Results.open(out).summary.highest]
    assert all(" of " in place for place in places)


def test_a_new_commit_on_the_hub_scores_what_is_new_in_it(run, hub: Hub, tmp_path: Path) -> None:
    api = HfApi()
    api.create_repo("acme/rows", repo_type="dataset")

    def commit(rows: Rows) -> None:
        path = in_one_file(tmp_path, rows)
        api.upload_file(path_or_fileobj=path, path_in_repo="train.jsonl", repo_id="acme/rows", repo_type="dataset")

    commit(BEFORE)
    out = run("acme/rows", tmp_path / "out")
    commit(CHANGES["a row in the middle deleted"])
    assert_as_from_nothing(run, "acme/rows", out, 1, 3)


# What no run needs ----------------------------------------------------------------------------------------------------


def test_what_no_run_needs_is_removed_when_asked_for(run, tmp_path: Path, capsys) -> None:
    out = run(in_one_file(tmp_path, BEFORE), tmp_path / "out")
    source = in_one_file(tmp_path, CHANGES["a row in the middle deleted"])
    (out / "scored" / "notes.txt").write_text("mine")
    (folder,) = (path for path in (out / "scored").iterdir() if path.is_dir())
    others = [folder / "notes.txt", folder / f"{'0' * 32}.parquet", folder / f"{'0' * 32}.sha256"]
    for path in others:
        path.write_text("mine")
    before = shards(out)
    capsys.readouterr()
    run(source, out)
    assert "larf-curate run --sweep" in capsys.readouterr().err
    assert before.items() < shards(out).items(), "nothing goes unasked"
    run(source, out, sweep=True)
    assert "removed" in capsys.readouterr().err
    fresh = run(source, tmp_path / "fresh")
    assert shards(out).keys() - {str(others[1].relative_to(out))} == shards(fresh).keys()
    assert len(list(folder.glob("*.sha256"))) == len(shards(fresh)) + 1
    assert result(out) == result(fresh)
    assert all(path.read_text() == "mine" for path in (*others, out / "scored" / "notes.txt"))
    after = shards(out)
    run(source, out, sweep=True)
    assert shards(out) == after
    assert not capsys.readouterr().err.count("removed")


def test_what_another_run_needs_stays(run, tmp_path: Path) -> None:
    """The result that is there, the last run over another source, and one over newer rows that did not end."""
    out = run(in_one_file(tmp_path, BEFORE), tmp_path / "out")
    (tmp_path / "other").mkdir()
    run(in_one_file(tmp_path / "other", [row(i, "salt") for i in range(40)]), out)
    run(in_one_file(tmp_path, BEFORE), out)
    there = shards(out)
    run(in_one_file(tmp_path, BEFORE), out, sweep=True)
    assert shards(out) == there

    result_of_first = tmp_path / "kept-aside"
    shutil.copytree(out, result_of_first)
    run(in_one_file(tmp_path, CHANGES["a row appended"]), out)
    newer = shards(out)
    for name in (*OUTCOMES, SOURCE_ROWS, SUMMARY):  # as if the newer one had been killed at its end
        shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink()
        (result_of_first / name).rename(out / name)
    in_one_file(tmp_path, BEFORE)
    run(str(tmp_path / "rows.jsonl"), out, sweep=True)
    assert shards(out) == newer


def test_a_run_whose_record_cannot_be_read_needs_everything(run, tmp_path: Path, capsys) -> None:
    out = run(in_one_file(tmp_path, BEFORE), tmp_path / "out")
    (record,) = out.glob("logs/*/plan.json")
    source = in_one_file(tmp_path, CHANGES["a row appended"])
    run(source, out)
    before = shards(out)
    whole = record.read_text()
    for damaged in ("", "{", '{"shards": [[1, "../../rows"]]}', '{"shards": 3}'):
        record.write_text(damaged)
        run(source, out, sweep=True)
        assert "no scored shard is removed" in capsys.readouterr().err
        assert shards(out) == before
    record.write_text(whole)
    run(source, out, sweep=True)
    assert len(shards(out)) < len(before)


def test_shards_are_of_about_the_size_that_was_asked_for(first: Path) -> None:
    import pyarrow.parquet as pq

    sizes = [pq.read_metadata(path).num_rows for path in first.glob("scored/*/*.parquet")]
    assert sum(sizes) == len(BEFORE)
    assert 6 < np.mean(sizes) < 11
