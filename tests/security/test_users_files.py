"""What somebody keeps beside results, or where results are to go, is never replaced, deleted or written through."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.commands import larf
from support.made_runs import sample_rows

from larf_curate import Recipe, Threshold
from larf_curate.cli.usage import require_figures
from larf_curate.deciding.layout import OUTCOMES, SOURCE_ROWS, SUMMARY
from larf_curate.deciding.results import Results
from larf_curate.engines.local_files import score_file, split_file
from larf_curate.errors import DataError, OutputError
from larf_curate.publishing.page import write_page
from larf_curate.publishing.write_report import write_report
from larf_curate.publishing.write_validation import require_places
from larf_curate.runs.rundir import OWN, locked, move_results_into_place
from larf_curate.sources.files import open_source
from larf_curate.written import RECORD

pytestmark = pytest.mark.usefixtures("no_row_is_run", "blank_pictures")
MINE = "years of work"


def everything(home: Path) -> dict[str, bytes]:
    return {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}


def scored_rows(path: Path) -> Path:
    rows = [{"question": f"q{i}", "answer": "a", "larf_score": i / 10} for i in range(6)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture(scope="module")
def run_recipe(tiny_scorer, tmp_path_factory: pytest.TempPathFactory):
    """Run a recipe over a few rows into a directory, with a threshold."""
    home = tmp_path_factory.mktemp("recipe")
    tiny_scorer.save_pretrained(home / "scorer")
    rows = [{"prompt": f"Say {i}", "completion": "Good day. " * (i % 5 + 1)} for i in range(20)]
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(out: Path, drop_top: int = 2) -> None:
        sections = {
            "source": {"path": str(home / "rows.jsonl")},
            "scorer": {"from": str(home / "scorer")},
            "threshold": {"drop_top": drop_top},
            "output": str(out),
        }
        Recipe.from_text(json.dumps(sections)).run()

    return run


# A directory that holds more than results ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["source and repository", "a note among kept rows", "an empty directory", "a link"])
def test_filter_replaces_no_directory_that_holds_anything_else(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    scored = scored_rows((out if kind == "source and repository" else tmp_path) / "scored.parquet")
    if kind == "source and repository":
        (out / ".git").mkdir()
        (out / ".git" / "HEAD").write_text("ref: refs/heads/main")
        (out / SUMMARY).write_text("{}")
    else:
        split_file(open_source(str(scored)), Threshold.drop_top(1), out)
        if kind == "a note among kept rows":
            (out / "kept" / "notes.txt").write_text(MINE)
        elif kind == "a link":
            (out / "removed" / "mine.parquet").symlink_to(scored)
        else:
            (out / "drafts").mkdir()
    before = everything(tmp_path)
    done = larf("filter", scored, "--out", out, "--drop-top", 2)
    assert done.returncode == 1
    assert "larf-curate did not write" in done.stderr or "holds the rows that are read" in done.stderr
    assert everything(tmp_path) == before


def test_filter_does_not_replace_the_directory_of_a_run(tmp_path: Path, run_recipe) -> None:
    run_recipe(tmp_path / "out")
    before = everything(tmp_path)
    assert len(before) > 10
    done = larf("filter", scored_rows(tmp_path / "scored.parquet"), "--out", tmp_path / "out", "--drop-top", 1)
    assert done.returncode == 1
    assert "larf-curate did not write" in done.stderr
    (tmp_path / "scored.parquet").unlink()
    assert everything(tmp_path) == before


def test_filter_replaces_its_own_results_and_their_report(tmp_path: Path) -> None:
    scored, out = scored_rows(tmp_path / "scored.parquet"), tmp_path / "out"
    split_file(open_source(str(scored)), Threshold.drop_top(1), out)
    write_report(out)
    write_page(out, out / "page.html")
    (out / ".DS_Store").write_text("what a file manager leaves")
    split_file(open_source(str(scored)), Threshold.drop_top(2), out)
    rows = {f"{outcome}/data.parquet" for outcome in OUTCOMES}
    assert set(everything(out)) == rows | {f"{SOURCE_ROWS}/{name}" for name in rows} | {SUMMARY, RECORD}
    assert pq.read_table(out / "removed" / "data.parquet").num_rows == 2


def test_a_file_that_comes_while_the_work_goes_on_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored, out = scored_rows(tmp_path / "scored.parquet"), tmp_path / "out"
    split_file(open_source(str(scored)), Threshold.drop_top(1), out)
    fit = Threshold.fit_chunks

    def slow(self: Threshold, chunks):
        (out / "notes.txt").write_text(MINE)
        return fit(self, chunks)

    monkeypatch.setattr(Threshold, "fit_chunks", slow)
    with pytest.raises(OutputError, match=r"notes\.txt"):
        split_file(open_source(str(scored)), Threshold.drop_top(2), out)
    assert (out / "notes.txt").read_text() == MINE


@pytest.mark.parametrize("record", ['["../scored.parquet"]', '["/etc/passwd"]', "[[]]", "{", '{"a": 1}'])
def test_a_record_speaks_of_its_own_directory_alone(tmp_path: Path, record: str) -> None:
    scored, out = scored_rows(tmp_path / "scored.parquet"), tmp_path / "out"
    split_file(open_source(str(scored)), Threshold.drop_top(1), out)
    (out / RECORD).write_text(record)
    with pytest.raises(OutputError, match="did not write"):
        split_file(open_source(str(scored)), Threshold.drop_top(2), out)
    assert scored.is_file()


# The source ----------------------------------------------------------------------------------------------------------


def test_no_result_replaces_its_own_source(tmp_path: Path, tiny_scorer) -> None:
    scored, out = scored_rows(tmp_path / "scored.parquet"), tmp_path / "out"
    split_file(open_source(str(scored)), Threshold.drop_top(1), out)
    before = everything(tmp_path)
    with pytest.raises(OutputError, match="holds the rows that are read"):
        split_file(open_source(str(out / "kept")), Threshold.drop_top(1), out)
    (tmp_path / "alias.parquet").symlink_to(scored)
    for target in (scored, tmp_path / "alias.parquet"):
        with pytest.raises(OutputError, match="holds the rows that are read"):
            score_file(open_source(str(scored)), tiny_scorer, target)
    (tmp_path / "alias.parquet").unlink()
    assert everything(tmp_path) == before


# Reports -------------------------------------------------------------------------------------------------------------


def test_a_report_deletes_only_plots_of_earlier_reports(make_run) -> None:
    rows, scores = sample_rows()
    run = make_run(rows, scores)
    write_report(run)
    assert (run / "plots" / "groups-0.png").is_file()
    (run / "plots" / "mine.png").write_bytes(b"mine")
    make_run([{**row, "category": f"one of {number}"} for number, row in enumerate(rows)], scores, name="other")
    for outcome in OUTCOMES:  # rows without groups
        (run.parent / "other" / outcome / "data.parquet").replace(run / outcome / "data.parquet")
    write_report(run)
    assert {path.name for path in (run / "plots").iterdir()} == {"scores.png", "length.png", "mine.png"}


@pytest.mark.parametrize("name", ["report.json", "plots/scores.png", "page.html"])
def test_a_report_replaces_no_file_of_somebody_else(plain_run: Path, name: str) -> None:
    (plain_run / "plots").mkdir()
    (plain_run / name).write_text(MINE)
    with pytest.raises(OutputError, match="was not written by larf-curate"):
        write_page(plain_run, plain_run / name) if name == "page.html" else write_report(plain_run)
    assert (plain_run / name).read_text() == MINE


# Single files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv"])
def test_scores_replace_no_rows_without_scores(tmp_path: Path, tiny_scorer, ending: str) -> None:
    source, out = tmp_path / "rows.jsonl", tmp_path / f"out.{ending}"
    source.write_text('{"prompt": "Say this", "completion": "Good day."}\n')
    out.touch()  # as by mktemp
    for _ in range(2):  # scored rows are replaced
        score_file(open_source(str(source)), tiny_scorer, out)
    mine = {
        "parquet": lambda: pq.write_table(pa.table({"prompt": ["a"], "completion": ["b"]}), out),
        "jsonl": lambda: out.write_text('{"prompt": "a", "completion": "b"}\n'),
        "csv": lambda: out.write_text("prompt,completion\na,b\n"),
    }
    for write in (mine[ending], lambda: out.write_text(MINE)):
        write()
        before = everything(tmp_path)
        with pytest.raises(OutputError, match="was not written by larf-curate, and is not replaced"):
            score_file(open_source(str(source)), tiny_scorer, out)
        assert everything(tmp_path) == before


@pytest.mark.parametrize("name", ["found.json", "found-arms.png"])
def test_a_validation_is_written_over_nothing_else(tmp_path: Path, plain_run: Path, name: str) -> None:
    (tmp_path / name).write_text(MINE)
    with pytest.raises(OutputError, match="was not written by larf-curate, and is not replaced"):
        require_places(plain_run, tmp_path / "found.json")
    assert (tmp_path / name).read_text() == MINE


def test_a_page_replaces_only_an_earlier_page(tmp_path: Path, plain_run: Path) -> None:
    page = tmp_path / "index.html"
    for _ in range(2):
        write_page(plain_run, page)
    page.write_text(MINE)
    with pytest.raises(OutputError, match="was not written by larf-curate, and is not replaced"):
        write_page(plain_run, page)
    assert page.read_text() == MINE


def test_figures_among_results_go_with_them(tmp_path: Path) -> None:
    scored, out = scored_rows(tmp_path / "scored.parquet"), tmp_path / "out"
    split_file(open_source(str(scored)), Threshold.drop_top(1), out)
    require_figures(out / "audit.json", "audit_version")
    for name in ("audit.json", "audit.png"):
        (out / name).write_text("figures")
    split_file(open_source(str(scored)), Threshold.drop_top(2), out)
    assert not (out / "audit.json").exists()
    (out / "audit.json").write_text(MINE)
    with pytest.raises(OutputError, match=r"audit\.json was not written by larf-curate"):
        require_figures(out / "audit.json", "audit_version")


# Runs ----------------------------------------------------------------------------------------------------------------


def test_a_new_threshold_deletes_nothing_of_somebody_else(tmp_path: Path, run_recipe) -> None:
    out = tmp_path / "out"
    run_recipe(out)
    notes = out / "kept" / "notes.txt"
    notes.write_text(MINE)
    before = everything(out / "kept")
    run_recipe(out)  # the same again is there already
    with pytest.raises(OutputError, match=r"kept/notes\.txt"):
        run_recipe(out, drop_top=3)
    assert everything(out / "kept") == before
    notes.rename(out / "notes.txt")
    run_recipe(out, drop_top=3)
    assert (out / "notes.txt").read_text() == MINE
    assert pq.read_table(out / "removed").num_rows == 3


def test_what_came_among_the_kept_rows_after_a_kill_stays(tmp_path: Path) -> None:
    work = tmp_path / OWN / "work"
    for outcome in OUTCOMES:
        (work / outcome).mkdir(parents=True)
        (work / outcome / "data.parquet").write_text("new")
    (work / SUMMARY).write_text("new")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "notes.txt").write_text(MINE)
    with pytest.raises(OutputError, match=r"kept/notes\.txt"):
        move_results_into_place(tmp_path, work)
    assert (tmp_path / "kept" / "notes.txt").read_text() == MINE


# Links and other users -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [f"{OWN}/lock", f"{OWN}/files.json", f"{OWN}/slurm.json", RECORD])
def test_a_run_writes_through_no_link(tmp_path: Path, run_recipe, name: str) -> None:
    (tmp_path / "thesis.txt").write_text(MINE)
    (tmp_path / "out" / OWN).mkdir(parents=True)
    (tmp_path / "out" / name).symlink_to(tmp_path / "thesis.txt")
    with pytest.raises(OutputError, match="is a link"):
        run_recipe(tmp_path / "out")
    assert (tmp_path / "thesis.txt").read_text() == MINE


@pytest.mark.parametrize("name", [f"{OWN}/work", "kept", "scored", "scorer", "logs"])
def test_a_run_goes_through_no_linked_directory(tmp_path: Path, run_recipe, name: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text(MINE)
    (tmp_path / "out" / OWN).mkdir(parents=True)
    (tmp_path / "out" / name).symlink_to(tmp_path / "mine")
    with pytest.raises(OutputError, match="is a link"):
        run_recipe(tmp_path / "out")
    assert everything(tmp_path / "mine") == {"thesis.txt": MINE.encode()}


@pytest.mark.parametrize("name", ["plots", "report.json"])
def test_a_report_writes_through_no_link(plain_run: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text(MINE)
    (plain_run / name).symlink_to(tmp_path / "mine" / ("thesis.txt" if name == "report.json" else ""))
    with pytest.raises(OutputError, match="is a link"):
        write_report(plain_run)
    assert everything(tmp_path / "mine") == {"thesis.txt": MINE.encode()}


def test_rows_behind_a_link_are_not_published(plain_run: Path, tmp_path: Path) -> None:
    kept = plain_run / "kept" / "data.parquet"
    kept.rename(tmp_path / "private.parquet")
    kept.symlink_to(tmp_path / "private.parquet")
    with pytest.raises(DataError, match="is a link"):
        Results.open(plain_run)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away")
def test_files_of_another_user_in_a_run_directory_are_refused(tmp_path: Path) -> None:
    shard = tmp_path / "scored" / "0123" / "000000-0123456789abcdef.parquet"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(b"planted")
    (tmp_path / OWN).mkdir()
    os.chown(shard, 12345, 12345)
    with pytest.raises(OutputError, match="belongs to another user"), locked(tmp_path):
        pytest.fail("there must be no run")
