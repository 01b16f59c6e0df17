"""A recipe says all of a run, and a wrong one is told with its line, key and fix."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.commands import larf, start_larf, wait_for_exit

from larf_curate import LARFScorer, Recipe
from larf_curate.errors import RecipeError
from larf_curate.runs import driver

GOOD = """\
source: {path: rows.jsonl, split: train, format: alpaca}
scorer: {model: demo, layer: 14}
threshold: {drop_top: 1000}
executor: {kind: local, tasks: 8, workers: 2}
output: runs/alpaca
"""


def wrong(text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        Recipe.from_text(text, "r.yaml", overrides)
    told = str(caught.value)
    assert "\n" not in told
    assert "pydantic" not in told
    assert "http" not in told
    return told


def changed(line: int, text: str) -> str:
    lines = GOOD.splitlines()
    lines[line - 1] = text
    return "\n".join(lines)


def test_a_layer_may_be_searched_for() -> None:
    recipe = Recipe.from_text(GOOD.replace("layer: 14", "layer: auto"))
    assert (recipe.scorer.layer, recipe.scorer.layers) == ("auto", [])
    assert Recipe.from_text(recipe.to_yaml()) == recipe


def test_a_recipe_reads_back_equal():
    recipe = Recipe.from_text(GOOD)
    assert recipe.threshold.rule == ("drop_top", 1000)
    assert (recipe.executor.tasks, recipe.executor.workers, recipe.scorer.layers) == (8, 2, [14])
    assert Recipe.from_text(recipe.to_yaml()) == recipe


RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize(
    "path", sorted([*RECIPES.glob("*.yaml"), *RECIPES.glob("forget/*.yaml")]), ids=lambda path: path.name
)
def test_recipes_that_we_ship_are_right(path):
    recipe = Recipe.load(path)
    assert recipe.output.startswith("runs/")
    assert Recipe.from_text(recipe.to_yaml()) == recipe


@pytest.mark.parametrize(
    ("line", "text", "told"),
    [
        (3, "treshold: {drop_top: 5}", "r.yaml, line 3: unknown key 'treshold'; did you mean 'threshold'?"),
        (1, "source: {paht: x}", "line 1: unknown key 'paht'; did you mean 'path'?"),
        (
            1,
            "source: {path: x, format: alpacca}",
            "line 1: source.format: unknown format 'alpacca'; did you mean 'alpaca'",
        ),
        (1, "source: {path: x, shard_rows: 0}", "source.shard_rows must be greater than or equal to 1, not 0"),
        (1, "source: [1]", "line 1: source must be a mapping of keys"),
        (2, "scorer: {model: demo}", "line 2: scorer: give model and layer, or from"),
        (2, "scorer: {from: x, layer: 3}", "scorer.layer: belongs to fitting"),
        (2, "scorer: {model: demo, layer: 3, unsafe: a}", "unsafe and safe go together"),
        (
            2,
            "scorer: {model: demo, layer: 3, unsafe: a, safe: b, references: c}",
            "give references, or unsafe and safe",
        ),
        (2, "scorer: {model: demo, layer: -1}", "layer: a block from 0"),
        (2, "scorer: {model: demo, layer: [3, 3]}", "layer: a block from 0"),
        (2, "scorer: {model: demo, layer: true}", "scorer.layer"),
        (2, "scorer: {model: demo, layer: 3, dtype: float8}", "scorer.dtype must be 'auto', 'float32'"),
        (2, "scorer: {model: demo, layer: 3, max_tokens: 3}", "scorer.max_tokens"),
        (3, "threshold: {}", "give one of max_score, drop_top, drop_fraction, calibrated"),
        (
            3,
            "threshold: {drop_top: 5, max_score: 0.1}",
            "give one of max_score, drop_top, drop_fraction, calibrated, not",
        ),
        (3, "threshold: {drop_top: 5.5}", "threshold.drop_top"),
        (3, "threshold: {drop_top: -1}", "threshold.drop_top"),
        (3, "threshold: {drop_fraction: 10}", "threshold.drop_fraction must be less than or equal to 1, not 10"),
        (3, "threshold: {calibrated: 0}", "threshold.calibrated"),
        (3, "threshold: {max_score: .nan}", "threshold.max_score"),
        (3, "threshold: {drop_top: 5, harmless: x}", "threshold.harmless: belongs to calibrated"),
        (
            3,
            "threshold: {drop_top: 5, unscorable: lose}",
            "threshold.unscorable must be 'separate', 'keep' or 'remove'",
        ),
        (4, "executor: {kind: cloud}", "executor.kind must be 'local', 'ray' or 'slurm'"),
        (4, "executor: {taks: 3}", "line 4: executor.taks: unknown key 'taks'; did you mean 'tasks'?"),
        (4, "executor: {tasks: '8'}", "executor.tasks must be a valid integer, not '8'"),
        (4, "executor: {workers: 0}", "workers: 1 or more, or -1"),
        (4, "executor: {logging_dir: x}", "unknown key 'logging_dir'"),
        (4, "executor: {address: auto}", "executor.address: belongs to kind ray"),
        (4, "executor: {kind: ray, wait: true}", "executor.wait: belongs to kind slurm"),
        (4, "executor: {kind: slurm, time: '1'}", "kind slurm needs partition"),
        (
            4,
            "executor: {kind: slurm, partition: p, time: 20:00:00}",
            "executor.time: must be a valid string: put it in",
        ),
        (4, "executor: {kind: ray, cpus_per_task: many}", "executor.cpus_per_task: must be a valid integer"),
        (4, "executor: {kind: slurm, partition: p, time: '1', job_id_retriever: x}", "unknown key 'job_id_retriever'"),
        (2, "scorer: {model: demo, layer: '14'}", "line 2: scorer.layer: a block from 0, a list of different"),
        (2, "scorer: {model: demo, layer: 3, references: ''}", "line 2: scorer.references: must not be blank"),
        (2, "scorer: {model: demo, layer: 3, chat_template: ' '}", "line 2: scorer.chat_template: must not be blank"),
        (2, "scorer: {model: demo, layer: 3, formula: subspace, top_k: 4}", "scorer.top_k: belongs to formula larf"),
        (1, 'source: {path: "a\\0b"}', "line 1: source.path: must not hold a NUL"),
        (3, "int: 5", "line 3: unknown key 'int'"),
        (4, "executor:\n  kind: local\n  taks: 3", "line 6: executor.taks: unknown key 'taks'"),
        (5, "output: ''", "line 5: output: must not be blank"),
        (5, "outptu: x", "did you mean 'output'"),
        (5, "output: x\noutput: y", "line 6: output is there twice; first: r.yaml, line 5"),
        (5, "output: [", "not YAML"),
        (5, "output: !!python/object:os.system x", "not YAML"),
        (5, "output:\n\t- x", "a tab: indent with blanks"),
        (5, "output: 2024-13-45", "not YAML"),
    ],
)
def test_faults_are_told_with_line_key_and_fix(line, text, told):
    assert told in wrong(changed(line, text))


def test_what_is_missing_is_told():
    assert "output is missing" in wrong(GOOD.replace("output: runs/alpaca", ""))
    assert "not a mapping" in wrong("")
    assert "not a mapping" in wrong("- 1")


def test_a_secret_in_the_wrong_place_is_not_repeated():
    assert "hf_secret" not in wrong(changed(1, "source: {path: x, token: hf_secret}"))
    assert "hf_secret" not in wrong(GOOD, "source.token=hf_secret")


def test_overrides():
    recipe = Recipe.from_text(
        GOOD, "r.yaml", ["threshold.drop_fraction=0.5", "executor.tasks=3", "scorer.layer=[1, 2]"]
    )
    assert recipe.threshold.rule == ("drop_fraction", 0.5), "a rule replaces the one in the file"
    assert (recipe.executor.tasks, recipe.scorer.layers) == (3, [1, 2])
    assert "did you mean 'tasks'" in wrong(GOOD, "executor.taks=3")
    assert wrong(GOOD, "threshold={drop_top: -1}").startswith("--set threshold: threshold.drop_top must be")
    calibrated = changed(3, "threshold: {calibrated: 0.01, harmless: known.parquet}")
    assert Recipe.from_text(calibrated, "r.yaml", ["threshold.drop_top=5"]).threshold.harmless is None
    assert Recipe.from_text(calibrated, "r.yaml", ["threshold.calibrated=0.5"]).threshold.harmless == "known.parquet"
    assert "section.key=value" in wrong(GOOD, "executor")
    assert "holds no keys" in wrong(GOOD, "output.x=1")
    assert "not YAML" in wrong(GOOD, "output=[")
    shared = changed(4, "executor: {kind: slurm, time: '1', partition: p, srun_args: &a {mem: 1}, sbatch_args: *a}")
    options = Recipe.from_text(shared, "r.yaml", ["executor.sbatch_args.mem=9"]).executor.options
    assert (options["srun_args"], options["sbatch_args"]) == ({"mem": 1}, {"mem": 9})


def test_aliases_within_aliases_are_read_at_once():
    text = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{x: *a{i - 1}, y: *a{i - 1}}}\n" for i in range(1, 40))
    assert "its aliases expand to far more than it holds" in wrong(GOOD + text)


def test_files_that_are_none(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"output: \xff")
    for path in (tmp_path, tmp_path / "none.yaml", tmp_path / "latin.yaml"):
        with pytest.raises(RecipeError, match="cannot be read"):
            Recipe.load(path)


# Run from the command line ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory, tiny_scorer: LARFScorer) -> Path:
    """Sixty rows, a fitted scorer, and a recipe for them."""
    home = tmp_path_factory.mktemp("recipe")
    tiny_scorer.save_pretrained(home / "scorer")
    rows = [{"instruction": f"Tell me of {i}.", "output": "\x1b[31m bread <b>salt</b> " * (i % 7)} for i in range(60)]
    rows[0]["output"] = "word " * 10_000
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = "source: {path: rows.jsonl}\nscorer: {from: scorer}\nthreshold: {drop_top: 6}\noutput: out\n"
    (home / "recipe.yaml").write_text(text)
    return home


def counts(home: Path) -> list[int]:
    return [pq.read_table(home / "out" / outcome).num_rows for outcome in ("kept", "removed", "unscorable")]


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the command is forked")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_plan_changes_nothing_and_a_run_does_all(home, tmp_path):
    planned = larf("run", "recipe.yaml", "--dry-run", cwd=home)
    assert planned.returncode == 0, planned.stderr
    words = " ".join(planned.stdout.split())
    assert "60 rows" in words
    assert "blocks 0 to 3 of 0..4 are loaded" in words
    assert "nothing is left" not in words
    assert sorted(path.name for path in home.iterdir()) == ["recipe.yaml", "rows.jsonl", "scorer"]

    # In a process of its own: what datatrove logs goes to its standard error.
    out, errors = tmp_path / "out.txt", tmp_path / "errors.txt"
    status = wait_for_exit(start_larf("run", "recipe.yaml", out=out, errors=errors, first=partial(os.chdir, home)))
    assert status == 0, errors.read_text()
    assert counts(home) == [46, 6, 8]  # every seventh answer is empty, but the first
    assert "highest scores" in out.read_text()
    assert "\x1b[31m" not in out.read_text()
    assert "stage 1 of 2: score" in errors.read_text()
    assert "datatrove" not in errors.read_text()
    scored = {path: path.stat().st_mtime_ns for path in home.glob("out/scored/*/*")}

    assert larf("run", "recipe.yaml", cwd=home).returncode == 0
    other = larf("run", "recipe.yaml", "--set", "threshold.drop_top=3", cwd=home)
    assert other.returncode == 0
    assert counts(home) == [49, 3, 8]
    assert {path: path.stat().st_mtime_ns for path in home.glob("out/scored/*/*")} == scored, "scored once"
    planned = " ".join(larf("run", "recipe.yaml", "--dry-run", cwd=home).stdout.split())
    assert "time nothing is left to score" in planned
    assert "about 0" not in planned, "no figure of what is not done"
    summary = json.loads((home / "out" / "larf_summary.json").read_text())
    assert (summary["rows"], summary["removed"], summary["issues"]["truncated"]) == (60, 3, 1)
    assert Recipe.load(home / "out" / "recipe.yaml").threshold.rule == ("drop_top", 3)


def test_runs_in_one_process_and_second_with_a_key_that_is_always_null(home, tmp_path):
    """As OpenAI exports it: Arrow types the key null, and its cast breaks slices of that."""
    turns = [{"role": "user", "content": "Hi.", "name": None}, {"role": "assistant", "content": "Hello.", "name": None}]
    rows = [{"messages": [{**turns[0], "content": f"Hi {i}."}, turns[1]]} for i in range(90)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = f"scorer: {{from: {home}/scorer}}\noutput: {tmp_path}/out\n"
    text += f"source: {{path: {tmp_path}/rows.jsonl, shard_rows: 32}}\nthreshold: {{drop_top: 6}}\n"
    for removed in (6, 7, 8):  # nothing is scored twice, so that the later ones take no time; and no report is made
        driver.run(Recipe.from_text(text, "r.yaml", [f"threshold.drop_top={removed}"]).request())
        tables = [pq.read_table(tmp_path / "out" / outcome) for outcome in ("kept", "removed", "unscorable")]
        assert [len(table) for table in tables] == [90 - removed, removed, 0]
        found = [row for table in tables for row in table.column("messages").to_pylist()]
        assert sorted(map(str, found)) == sorted(str(row["messages"]) for row in rows)


@pytest.mark.parametrize(
    ("override", "code", "told"),
    [
        ("executor.taks=2", 2, "did you mean 'tasks'"),
        ("source.path=none.jsonl", 1, "none.jsonl does not exist"),
        ("scorer.from=nowhere", 1, "there is no scorer at nowhere"),
        ("output=scorer", 1, "is no run directory"),
        (f"output={'x' * 300}", 1, "File name too long"),
        ("threshold={calibrated: 0.1, harmless: rows.jsonl}", 1, "has no column 'larf_score'"),
        ("threshold={calibrated: 0.1, harmless: gone.parquet}", 1, "gone.parquet does not exist"),
        ('source={path: rows.jsonl, format: "a\u202eb"}', 2, r"a\u202eb"),
    ],
)
def test_what_cannot_be_run_is_one_line(home, override, code, told):
    done = larf("run", "recipe.yaml", "--set", override, cwd=home)
    assert (done.returncode, done.stdout) == (code, "")
    assert told in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
