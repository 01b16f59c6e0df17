"""Options that say how rows are read, and what the command line says of rows that are not."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.commands import Finished, larf

from larf_curate import LARFScorer
from larf_curate.recipe.recipe import Recipe

pytestmark = pytest.mark.usefixtures("no_row_is_run")

ROW = {"instruction": "Add.", "input": "1 2", "output": "3"}


@pytest.fixture(scope="module")
def scorer(tiny_scorer: LARFScorer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scorer") / "s"
    tiny_scorer.save_pretrained(path)
    return path


def score(home: Path, scorer: Path, name: str, *options: str) -> tuple[Finished, list[float | None]]:
    done = larf("score", name, "--scorer", scorer, "--out", "out.parquet", *options, cwd=home)
    out = home / "out.parquet"
    return done, pq.read_table(out)["larf_score"].to_pylist() if out.exists() else []


def test_options_name_columns_rows_and_configurations(scorer, tiny_scorer, tmp_path):
    wanted = tiny_scorer.score([ROW], progress=False)[0]
    renamed = {"ask": "Add.", "about": "1 2", "say": "3"}
    (tmp_path / "in.json").write_text(json.dumps({"version": 1, "data": [renamed]}))
    assert "pass --field data" in score(tmp_path, scorer, "in.json")[0].stderr
    names = ("--map", "ask=instruction,about=input", "--map", "say=output")
    done, scores = score(tmp_path, scorer, "in.json", "--field", "data", *names)
    assert done.returncode == 0, done.stderr
    assert scores == [pytest.approx(wanted, abs=1e-6)]

    home = tmp_path / "repository"
    home.mkdir()
    (home / "README.md").write_text(
        "---\nconfigs:\n- {config_name: a, data_files: a.json}\n- {config_name: b, data_files: b.json}\n---\n"
    )
    (home / "a.json").write_text(json.dumps([ROW]))
    (home / "b.json").write_text(json.dumps([ROW, ROW]))
    done, scores = score(tmp_path, scorer, "repository", "--config", "b")
    assert done.returncode == 0, done.stderr
    assert len(scores) == 2


@pytest.mark.parametrize(
    ("join", "text"), [(r"\n\n", "Add.\n\n1 2"), ("Q: {instruction} ({input})", "Q: Add. (1 2)"), (None, "Add.\n1 2")]
)
def test_join_is_what_stands_between_request_and_input(join, text, scorer, tiny_scorer, tmp_path):
    (tmp_path / "in.json").write_text(json.dumps([ROW]))
    done, scores = score(tmp_path, scorer, "in.json", *([] if join is None else ["--join", join]))
    assert done.returncode == 0, done.stderr
    wanted = tiny_scorer.score([{"prompt": text, "completion": "3"}], progress=False)[0]
    assert scores == [pytest.approx(wanted, abs=1e-6)]


@pytest.mark.parametrize("options", [("--map", "ask"), ("--join", "{input}")])
def test_options_that_say_nothing_are_wrong_usage(options, scorer, tmp_path):
    (tmp_path / "in.json").write_text(json.dumps([ROW]))
    assert score(tmp_path, scorer, "in.json", *options)[0].returncode == 2


def test_texts_that_are_not_read_are_named(scorer, tmp_path):
    (tmp_path / "in.json").write_text(json.dumps([{**ROW, "prompt": "p", "chosen": "c", "rejected": "r", "n": 1}]))
    done, _ = score(tmp_path, scorer, "in.json")
    note = "read as preference (input, prompt, chosen, rejected); not read: instruction, output, which would be alpaca"
    assert note in " ".join(done.stderr.split())


def test_a_dataset_without_any_score_is_an_error_that_says_why(scorer, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"instruction": "Rank.", "output": ["good", "bad"]}\n' * 3)
    done, scores = score(tmp_path, scorer, "in.jsonl")
    assert done.returncode == 1
    assert scores == [None] * 3, "no row is lost"
    complaint = (
        "3 of 3 rows have no score (wrong_type: first in row 0, column 'output' holds a list where a text is wanted)"
    )
    assert complaint in done.stderr


def test_most_rows_without_a_score_are_said_loudly_and_each_fault_with_its_first_row(scorer, tmp_path):
    turns = [{"role": "user", "content": "Hi?"}, {"role": "narrator", "content": "x"}]
    good = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]
    rows = [{"messages": good}, {"messages": turns}, {"messages": []}, {"messages": turns}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done, _ = score(tmp_path, scorer, "in.jsonl")
    assert done.returncode == 0, done.stderr
    assert "3 of 4 rows have no score" in done.stderr
    said = " ".join(done.stdout.split())
    assert "unknown_role: first in row 1, column 'messages', turn 2: 'narrator'" in said
    assert "empty_conversation: first in row 2" in said


def test_a_second_score_gets_a_prefix_and_may_decide(scorer, tmp_path):
    rows = [{**ROW, "output": f"It is {number}."} for number in range(6)]
    (tmp_path / "in.json").write_text(json.dumps(rows))
    done, scores = score(tmp_path, scorer, "in.json")
    assert done.returncode == 0, done.stderr
    for options, words in ((("--prefix", "Mine"), "begins with a letter, not 'Mine'"), (("--prefix", ""), "not ''")):
        for command in (("score", "in.json", "--scorer", scorer), ("filter", "out.parquet", "--drop-top", 1)):
            done = larf(*command, "--out", "none.parquet", *options, cwd=tmp_path)
            assert done.returncode == 2
            assert words in " ".join(done.stderr.replace("│", " ").split())
    done = larf("score", "out.parquet", "--scorer", scorer, "--out", "both.parquet", "--prefix", "mine", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "read as" not in done.stderr, "the issue of a score is no text that is left unread"
    told = next(line for line in done.stdout.splitlines() if line.startswith("next: "))
    command = shlex.split(told.removeprefix("next: larf-curate ").partition(", ")[0].replace("DIRECTORY", "split"))
    assert command[-4:] == ["--drop-fraction", "0.05", "--out", "split"]
    table = pq.read_table(tmp_path / "both.parquet")
    assert table["mine_score"].to_pylist() == table["larf_score"].to_pylist() == scores

    places = table.column_names.index("mine_score")
    falling = table.set_column(places, "mine_score", pa.array([-float(n) for n in range(6)], pa.float32()))
    pq.write_table(falling, tmp_path / "both.parquet")
    command[command.index("0.05")] = "0.5"
    assert larf(*command, cwd=tmp_path).returncode == 0
    assert pq.read_table(tmp_path / "split" / "removed")["output"].to_pylist() == ["It is 0.", "It is 1.", "It is 2."]
    harmless = ("--calibrated", "0.5", "--harmless", "both.parquet", "--prefix", "mine")
    assert larf("filter", "both.parquet", *harmless, "--out", "split", cwd=tmp_path).returncode == 0
    assert json.loads((tmp_path / "split" / "larf_summary.json").read_text())["threshold"]["value"] == -2.0


@pytest.mark.usefixtures("blank_pictures")
def test_a_recipe_takes_the_same_keys(scorer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = {"mine_score": 0.1, "mine_tokens": 2**40, "mine_issue": "truncated"}  # of another score: columns like any
    rows = [{"ask": f"Tell me of {number}.", "say": f"{number} it is.", "note": "x", **mine} for number in range(10)]
    Path("in.json").write_text(json.dumps({"data": rows}))
    recipe = {
        "source": {
            "path": "in.json",
            "field": "data",
            "columns": {"ask": "prompt", "say": "completion"},
            "join": "\n\n",
        },
        "scorer": {"from": str(scorer)},
        "threshold": {"drop_top": 2},
        "output": "out",
    }
    loaded = Recipe.from_text(json.dumps(recipe))
    assert Recipe.from_text(loaded.to_yaml()) == loaded
    assert loaded.plan().format == "prompt-completion (ask, say); not read: note"
    summary = loaded.run()
    assert (summary.scored, summary.outcomes.removed) == (10, 2)
    report = json.loads(Path("out/report.json").read_text())
    assert report["source"]["reading"] == "read as prompt-completion (ask, say); not read: note"
    kept = pq.read_table("out/kept")
    assert kept.column_names == [*rows[0], "larf_score", "larf_score_l1", "larf_score_l3", "larf_tokens", "larf_issue"]
    assert all({name: row[name] for name in rows[0]} in rows for row in kept.to_pylist())
