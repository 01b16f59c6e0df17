"""`report`, `push` and `publish:` as a person types them."""

from __future__ import annotations

import json

import pytest
from support import commands
from support.commands import Finished
from support.made_runs import sample_rows

from larf_curate import LARFScorer
from larf_curate.publishing.report import Report

pytestmark = pytest.mark.usefixtures("no_row_is_run")


def larf(*arguments: object) -> Finished:
    return commands.larf(*arguments, env={"COLUMNS": "120"})


@pytest.mark.usefixtures("blank_pictures")
def test_report(plain_run, tmp_path):
    done = larf("report", plain_run, "--html", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    assert "176 kept, 19 removed, 5 unscorable" in done.stdout
    assert "longer answers tend to score lower" in done.stdout
    assert "by category" in done.stdout
    assert Report.from_json((plain_run / "report.json").read_text()).rows.total == 200
    page = (tmp_path / "page.html").read_text()
    assert page.count('src="data:image/png') == 3
    assert "https://" not in page.split("</style>", 1)[0]


@pytest.mark.parametrize("command", ["report", "push"])
def test_no_run(hub, tmp_path, command):
    done = larf(command, tmp_path, *(["--repo", "acme/clean"] if command == "push" else []))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "holds no finished run" in done.stderr


@pytest.mark.usefixtures("blank_pictures")
def test_push(hub, plain_run, monkeypatch):
    done = larf("push", plain_run, "--repo", "acme/clean", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "larf/kept/train-00000-of-00001.parquet" in done.stdout
    assert "## What the score does not say" in done.stdout
    assert hub.repos == {}
    done = larf("push", plain_run, "--repo", "acme/clean", "--public")
    assert (done.returncode, hub.repos["acme/clean"].private) == (0, False), done.stderr
    assert "published: http" in done.stdout
    assert "nothing had changed" in larf("push", plain_run, "--repo", "acme/clean").stdout
    monkeypatch.delenv("HF_TOKEN")
    done = larf("push", plain_run, "--repo", "acme/clean")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no token" in done.stderr


@pytest.mark.process
@pytest.mark.usefixtures("blank_pictures")
def test_a_recipe_that_publishes(hub, tiny_model, references_file, tmp_path, monkeypatch):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in sample_rows(60)[0]))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"source: {{path: {rows}}}\nscorer: {{model: {tiny_model}, layer: [1, 3], references: {references_file}}}\n"
        f"threshold: {{drop_top: 6}}\noutput: {tmp_path / 'run'}\n"
        "publish: {repo: acme/clean, removed: true, examples: 2}\n"
    )
    with monkeypatch.context() as without_token:
        without_token.delenv("HF_TOKEN")
        refused = larf("run", recipe)  # told before the work, not after it
    assert "no token" in refused.stderr
    assert not (tmp_path / "run").exists()
    done = larf("run", recipe)
    assert done.returncode == 0, done.stderr
    files = hub.repos["acme/clean"].files
    assert "published: http" in done.stderr
    assert {"larf/plots/layers.png", "larf/removed/train-00000-of-00001.parquet"} <= set(files)
    for name in ("larf_scorer.json", "larf_scorer.safetensors"):
        (tmp_path / "theirs").mkdir(exist_ok=True)
        (tmp_path / "theirs" / name).write_bytes(files[f"larf/scorer/{name}"])
    assert LARFScorer.from_pretrained(tmp_path / "theirs").layers == (1, 3)
    card = files["README.md"].decode()
    assert "54 of the 60 rows of rows\\.jsonl" in card
    assert "## Examples of removed rows" in card
    everything = b"".join(content for name, content in files.items() if not name.endswith(".png"))
    for private in (tmp_path, tiny_model, references_file.parent):
        assert str(private).encode() not in everything
    assert (tmp_path / "run" / "report.json").is_file()
    commits = len(hub.repos["acme/clean"].commits)
    again = larf("run", recipe)  # nothing is scored, nothing is sent
    assert again.returncode == 0, again.stderr
    assert len(hub.repos["acme/clean"].commits) == commits


@pytest.mark.parametrize("section", ["{repo: clean}", "{}", "{repo: a/b, examples: -1}", "{repo: a/b, token: hf_x}"])
def test_wrong_publish_sections(tmp_path, section):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"source: {{path: x}}\nscorer: {{model: demo, layer: 1}}\nthreshold: {{drop_top: 1}}\noutput: o\n"
        f"publish: {section}\n"
    )
    done = larf("run", recipe)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "publish" in done.stderr
    assert "line 5" in done.stderr
    assert "hf_x" not in done.stderr


def test_a_repository_without_a_namespace_is_wrong_usage(plain_run):
    done = larf("push", plain_run, "--repo", "alpaca-larf")
    assert done.returncode == 2
    assert "namespace/name" in done.stderr


@pytest.mark.usefixtures("blank_pictures")
def test_what_a_dry_run_prints_is_the_card(hub, plain_run):
    dry = larf("push", plain_run, "--repo", "acme/clean", "--dry-run", "-q")
    told = json.loads(larf("push", plain_run, "--repo", "acme/clean", "--dry-run", "--json").stdout)
    assert told["sent"] is False
    assert told["card"] in dry.stdout
    assert "  path: " in told["card"], "no line of it is indented: the test tests nothing"
