"""Whoever reads what is published learns nothing of the machine, the user and the directories that it came from."""

from __future__ import annotations

import getpass
import json
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from support.hub import GOOD_TOKEN
from support.loopback_hub import Hub
from support.made_runs import SCORER, run_maker, sample_rows
from test_scorer_publishers import RUN, SEARCH

from larf_curate.deciding.layout import SUMMARY
from larf_curate.publishing.publication import public_recipe
from larf_curate.publishing.push_run import push_run
from larf_curate.pushing import Destination
from larf_curate.scoring.artifact import read_artifact, write_artifact
from larf_curate.scoring.formulas import FittedFormula
from larf_curate.scoring.public_names import public_spec
from larf_curate.scoring.push_scorer import push_scorer
from larf_curate.scoring.separation import measure_separation, reference_quantiles
from larf_curate.scoring.spec import ScorerSpec

DIRECTORY = "confidential-project"
SPELLINGS = {
    "absolute": f"/srv/{DIRECTORY}/in/rows.jsonl",
    "relative": f"{DIRECTORY}/rows.jsonl",
    "relative directory": f"{DIRECTORY}/in/rows",
    "below": f"./{DIRECTORY}/rows.jsonl",
    "above": f"../{DIRECTORY}/rows.jsonl",
    "home": f"~/{DIRECTORY}/rows.jsonl",
    "joined": f"{DIRECTORY}/a.jsonl + {DIRECTORY}/b.jsonl",
    "pattern": f"{DIRECTORY}/*.jsonl",
    "Windows": rf"C:\Users\{DIRECTORY}\rows.jsonl",
    "Windows, relative": rf"{DIRECTORY}\rows.jsonl",
    "network": rf"\\{DIRECTORY}\share\rows.jsonl",
    "address": f"https://me:pass@host.{DIRECTORY}.example/dir/rows.jsonl",
    "signed": f"https://store.example/rows.jsonl?X-Signature={DIRECTORY}#{DIRECTORY}",
    "file address": f"file:///{DIRECTORY}/rows.jsonl",
    "ends in a slash": f"/srv/{DIRECTORY}/rows/",
}


def assert_nowhere(files: dict[str, bytes], *secrets: str) -> None:
    for path, content in files.items():
        for secret in secrets:
            assert secret.encode() not in content, (path, secret)
            assert secret not in path


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.process
def test_a_published_run_tells_nothing_of_its_machine(
    spelling: str, tmp_path: Path, hub: Hub, request: pytest.FixtureRequest
) -> None:
    if spelling != "absolute":  # one set of real pictures is searched; of a spelling nothing is drawn
        request.getfixturevalue("blank_pictures")
    name = SPELLINGS[spelling]
    home = tmp_path / DIRECTORY
    home.mkdir()
    spec = replace(
        SCORER,
        model=name,
        version="local-0123456789abcdef",
        references=replace(SCORER.references, name=name),
        search=replace(SEARCH, model=name),
    )
    run = run_maker(home)(*sample_rows(), scorer=spec)
    summary = json.loads((run / SUMMARY).read_text())
    summary["run"] = {**RUN, "source": {**RUN["source"], "name": name}, "model": name}
    (run / SUMMARY).write_text(json.dumps(summary))
    recipe = {
        "source": {"path": name},
        "scorer": {"model": name, "references": name, "layer": 3, "chat_template": name, "device": DIRECTORY},
        "threshold": {"calibrated": 0.1, "harmless": name},
        "executor": {"kind": "slurm", "partition": DIRECTORY},
        "output": str(run),
    }
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    push_run(run, Destination("acme/clean"), removed=True, examples=3)
    published = hub.repos["acme/clean"].files
    assert len(published) > 6
    # Shorter names stand in any compressed file by chance.
    names = [name for name in (*tmp_path.parts[1:], socket.gethostname(), getpass.getuser()) if len(name) > 4]
    assert_nowhere(published, DIRECTORY, str(Path.home()), GOOD_TOKEN, *names)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_published_scorer_tells_nothing_of_its_machine(spelling: str, tiny_scorer, hub: Hub) -> None:
    name = SPELLINGS[spelling]
    spec = replace(
        tiny_scorer.spec,
        model=name,
        references=replace(tiny_scorer.spec.references, name=name),
        search=replace(SEARCH, model=name),
    )
    push_scorer(spec, tiny_scorer._tensors, "acme/scorer", None, None)
    assert_nowhere(hub.repos["acme/scorer"].files, DIRECTORY, str(Path.home()), GOOD_TOKEN)


def test_names_on_the_hub_stay() -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    recipe = {
        "source": {"path": "acme/rows", "revision": commit},
        "scorer": {"model": "acme/model", "layer": 3, "revision": commit, "chat_template": "{{ messages }} a/b"},
        "threshold": {"drop_top": 1},
        "output": "runs/first",
    }
    public = yaml.safe_load(public_recipe(yaml.safe_dump(recipe)))
    assert public == {**recipe, "output": "first"}
    for fitted, expected in (
        ("/srv/scorer", "larf/scorer"),
        ("mine/scorer", "larf/scorer"),
        ("acme/scorer", "acme/scorer"),
    ):
        revision = {"revision": commit} if fitted == expected else {}
        text = yaml.safe_dump({**recipe, "scorer": {"from": fitted, **revision}})
        assert yaml.safe_load(public_recipe(text, scorer="larf/scorer"))["scorer"]["from"] == expected


def made_scorer(model: str) -> tuple[ScorerSpec, dict[str, np.ndarray]]:
    """A scorer of eight pairs of random states, whose figures are those of its states."""
    draw = np.random.default_rng(0)
    tensors = {side: draw.normal(size=(8, 1, 48)).astype(np.float32) for side in ("unsafe", "safe")}
    tensors["check"] = draw.normal(size=(1, 48)).astype(np.float32)
    fitted = FittedFormula("larf", tensors["unsafe"], tensors["safe"])
    none = {f"held_{side}": tensors[side][:0] for side in ("unsafe", "safe")}
    spec = replace(
        SCORER,
        model=model,
        version="local-0123456789abcdef",
        references=replace(SCORER.references, pairs=8, held_back=0, name=f"{model}.jsonl"),
        separation=measure_separation({**tensors, **none}, fitted, "larf", None, 16),
        quantiles=reference_quantiles(tensors, fitted),
    )
    return spec, tensors


@pytest.mark.usefixtures("blank_pictures")
def test_the_scorer_of_a_run_is_published_with_it_and_can_be_loaded(plain_run: Path, tmp_path: Path, hub: Hub) -> None:
    spec, tensors = made_scorer(f"/srv/{DIRECTORY}/model")
    write_artifact(plain_run / "scorer" / "0123", spec, tensors)
    summary = json.loads((plain_run / SUMMARY).read_text()) | {"run": RUN}
    (plain_run / SUMMARY).write_text(json.dumps(summary))
    recipe = {"source": {"path": "rows.jsonl"}, "scorer": {"from": f"/srv/{DIRECTORY}/scorer"}, "threshold": {}}
    (plain_run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    for _ in range(2):
        push_run(plain_run, Destination("acme/clean"))
    assert len(hub.repos["acme/clean"].commits) == 1, "the same scorer is the same files"
    published = hub.repos["acme/clean"].files
    for name in ("larf_scorer.json", "larf_scorer.safetensors"):
        (tmp_path / name).write_bytes(published[f"larf/scorer/{name}"])
    read, states = read_artifact(tmp_path)
    assert read == public_spec(spec)
    assert read.model == "model"
    assert np.array_equal(states["unsafe"], tensors["unsafe"])
    assert yaml.safe_load(published["larf/recipe.yaml"])["scorer"] == {"from": "larf/scorer"}
    assert "The fitted scorer is in `larf/scorer/`." in published["README.md"].decode()
    assert_nowhere(published, DIRECTORY)
