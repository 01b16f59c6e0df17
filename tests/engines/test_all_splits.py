"""`--split all`: every split is read, what is written has the same splits, and one threshold is
found over all rows, or one for each split."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, load_dataset
from support.commands import larf
from support.loopback_hub import Hub

from larf_curate import LARFScorer, Threshold
from larf_curate.deciding.results import Results
from larf_curate.deciding.summary import Summary
from larf_curate.engines.local_files import score_file, split_file
from larf_curate.errors import DataError, OutputError, RecipeError
from larf_curate.publishing.card import render_card
from larf_curate.publishing.publication import publish_files
from larf_curate.publishing.push_run import push_run
from larf_curate.pushing import Destination
from larf_curate.recipe.recipe import Recipe
from larf_curate.scoring.excerpts import signed
from larf_curate.sources.files import open_source

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("no_row_is_run", "blank_pictures")]
SIZES = {"train_sft": 30, "test_sft": 12, "train_gen": 7}
"""Splits whose names only `data/NAME-00000-of-00001` tells apart; in this order."""


def rows_of(split: str) -> list[dict[str, str]]:
    words = ["bread", "salt", "harbour", "violin"]
    return [
        {"instruction": f"Tell me of {split} {i}.", "output": f"{words[i % 4]} " * (1 + i % 5) + split}
        for i in range(SIZES[split])
    ]


def as_saved(home: Path) -> str:
    DatasetDict({split: Dataset.from_list(rows_of(split)) for split in SIZES}).save_to_disk(home / "saved")
    return str(home / "saved")


def as_downloaded(home: Path) -> str:
    """A repository of the Hub, downloaded."""
    (home / "repository" / "data").mkdir(parents=True)
    for split in SIZES:
        path = home / "repository" / "data" / f"{split}-00000-of-00001.parquet"
        Dataset.from_list(rows_of(split)).to_parquet(path)
    return str(home / "repository")


def as_plain(home: Path) -> str:
    (home / "plain").mkdir()
    for split, name in (("train_sft", "train"), ("test_sft", "test"), ("train_gen", "validation")):
        lines = [json.dumps(row) + "\n" for row in rows_of(split)]
        (home / "plain" / f"{name}.jsonl").write_text("".join(lines))
    return str(home / "plain")


@pytest.mark.parametrize("make", [as_saved, as_downloaded, as_plain])
def test_every_split_is_read_as_load_dataset_reads_it(make: Callable[[Path], str], tmp_path: Path) -> None:
    where = make(tmp_path)
    source = open_source(where, "all")
    wanted = DatasetDict.load_from_disk(where) if make is as_saved else load_dataset(where, cache_dir=tmp_path / "c")
    assert dict(source.splits) == {split: len(part) for split, part in wanted.items()}
    read = [row for table in source.tables(10) for row in table.to_pylist()]
    assert read == [row for split, _ in source.splits for row in wanted[split].to_list()]


def test_one_file_has_no_splits(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps(rows_of("train_sft")[0]) + "\n")
    with pytest.raises(DataError, match="has no splits, so there is no 'all'"):
        open_source(str(tmp_path / "in.jsonl"), "all")


def test_splits_of_other_columns_are_named(tmp_path: Path) -> None:
    parts = {"train": Dataset.from_list(rows_of("train_sft")), "test": Dataset.from_dict({"text": ["x"]})}
    DatasetDict(parts).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match="the splits train and test have different columns: read one with --split"):
        open_source(str(tmp_path / "saved"), "all")


def texts(directory: Path, cache: Path) -> dict[str, list[str]]:
    return {split: part["instruction"][:] for split, part in load_dataset(str(directory), cache_dir=cache).items()}


def assert_split_as_the_library_does(out: Path, scored: DatasetDict, cache: Path) -> None:
    """kept/ and removed/ hold what `Threshold.split` gives for the same `DatasetDict`, under the same splits."""
    parts = Threshold.drop_top(9).split(scored)
    for outcome in ("kept", "removed"):
        wanted = {split: part["instruction"][:] for split, part in getattr(parts, outcome).items() if len(part)}
        assert texts(out / outcome, cache) == wanted
    assert open_source(str(out / "unscorable"), None).rows == 0


def test_files_in_one_process(tiny_scorer: LARFScorer, tmp_path: Path) -> None:
    score_file(open_source(as_downloaded(tmp_path), "all"), tiny_scorer, tmp_path / "scored")
    scored = load_dataset(str(tmp_path / "scored"), cache_dir=tmp_path / "cache")
    assert {split: len(part) for split, part in scored.items()} == SIZES
    summary = split_file(open_source(str(tmp_path / "scored"), "all"), Threshold.drop_top(9), tmp_path / "out")
    assert summary.outcomes is not None
    assert (summary.outcomes.kept, summary.outcomes.removed) == (40, 9)
    assert_split_as_the_library_does(tmp_path / "out", scored, tmp_path / "cache")
    with pytest.raises(OutputError, match="is one file, and --split all keeps splits apart"):
        score_file(open_source(as_saved(tmp_path), "all"), tiny_scorer, tmp_path / "scored.parquet")


@pytest.mark.parametrize("tasks", [1, 3])
def test_a_recipe_and_what_is_published_of_it(tasks: int, tiny_scorer: LARFScorer, tmp_path: Path) -> None:
    tiny_scorer.save_pretrained(tmp_path / "scorer")
    recipe = {
        "source": {"path": as_saved(tmp_path), "split": "all", "shard_rows": 16},
        "scorer": {"from": str(tmp_path / "scorer")},
        "threshold": {"drop_top": 9},
        "executor": {"tasks": tasks},
        "output": str(tmp_path / "out"),
    }
    Recipe.from_text(json.dumps(recipe)).run()
    data = DatasetDict({split: Dataset.from_list(rows_of(split)) for split in SIZES})
    scored = data.map(tiny_scorer, batched=True)
    assert_split_as_the_library_does(tmp_path / "out", scored, tmp_path / "cache")

    results = Results.open(tmp_path / "out")
    publication = publish_files(results, "acme/clean", removed=True)
    published = {name for name in publication.files if "/kept/" in name}
    assert {name.rsplit("/", 1)[1].split("-")[0] for name in published} == set(SIZES)
    card = render_card(publication.card)
    assert "  - split: test_sft\n    path: larf/kept/test_sft-*.parquet\n" in card
    assert 'kept = load_dataset("acme/clean")\n' in card


def test_the_command_line(tiny_scorer: LARFScorer, tmp_path: Path) -> None:
    tiny_scorer.save_pretrained(tmp_path / "scorer")
    where = as_plain(tmp_path)
    done = larf("score", where, "--scorer", tmp_path / "scorer", "--split", "all", "--out", tmp_path / "scored")
    assert done.returncode == 0, done.stderr
    done = larf("filter", tmp_path / "scored", "--split", "all", "--drop-top", 9, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert set(texts(tmp_path / "out" / "kept", tmp_path / "cache")) == {"train", "test", "validation"}


def recipe_of(home: Path, scorer: LARFScorer, **keys: object) -> dict[str, object]:
    scorer.save_pretrained(home / "scorer")
    return {
        "source": {"path": as_saved(home), "split": "all", "shard_rows": 16},
        "scorer": {"from": str(home / "scorer")},
        "threshold": {"drop_top": 3, "per_split": True},
        "output": str(home / "out"),
        **keys,
    }


@pytest.mark.parametrize("tasks", [1, 3])
def test_a_threshold_for_each_split_from_the_recipe_to_the_hub(
    tasks: int, tiny_scorer: LARFScorer, tmp_path: Path, hub: Hub
) -> None:
    summary = Recipe.from_text(json.dumps(recipe_of(tmp_path, tiny_scorer, executor={"tasks": tasks}))).run()
    data = DatasetDict({split: Dataset.from_list(rows_of(split)) for split in SIZES})
    parts = Threshold.drop_top(3).split(data.map(tiny_scorer, batched=True), per_split=True)
    assert isinstance(summary, Summary)
    assert summary.threshold is not None
    cuts = {split: part.value for split, part in summary.threshold.by_split.items()}
    # Rows of other batches: the last bits of a score may differ.
    assert cuts == pytest.approx({split: part.value for split, part in parts.threshold.by_split.items()}, abs=1e-5)
    told = json.loads((tmp_path / "out" / "larf_summary.json").read_text())["threshold"]["by_split"]
    assert [(part["split"], part["rows"], part["removed"]) for part in told] == [(*each, 3) for each in SIZES.items()]

    push_run(tmp_path / "out", Destination("acme/clean"), removed=True)
    for config, outcome in ((None, "kept"), ("removed", "removed")):
        loaded = load_dataset("acme/clean", config)
        wanted = {split: part["instruction"][:] for split, part in getattr(parts, outcome).items()}
        assert {split: part["instruction"][:] for split, part in loaded.items()} == wanted
    card = hub.repos["acme/clean"].files["README.md"].decode()
    assert "the 3 highest-scoring rows, for each split by itself" in card
    for split, rows in SIZES.items():
        assert f"3 of {rows} rows: scores above {signed(cuts[split])}" in card
    report = json.loads(hub.repos["acme/clean"].files["larf/report.json"])
    assert [part["split"] for part in report["threshold"]["by_split"]] == list(SIZES)


def test_a_threshold_for_each_split_on_the_command_line(tiny_scorer: LARFScorer, tmp_path: Path) -> None:
    score_file(open_source(as_saved(tmp_path), "all"), tiny_scorer, tmp_path / "scored")
    summary = split_file(
        open_source(str(tmp_path / "scored"), "all"), Threshold.drop_top(2), tmp_path / "api", per_split=True
    )
    command = ["filter", tmp_path / "scored", "--drop-top", 2, "--out", tmp_path / "out"]
    done = larf(*command, "--split", "all", "--per-split")
    assert done.returncode == 0, done.stderr
    commanded, called = (json.loads((tmp_path / out / "larf_summary.json").read_text()) for out in ("out", "api"))
    assert commanded.pop("filtered")["per_split"] is True, "what was typed, which a call in Python has not"
    assert commanded == called
    assert summary.threshold is not None
    for split, rows in SIZES.items():
        cut = signed(summary.threshold.by_split[split].value, 6)
        assert f"threshold of {split}: drop_top 2 removes scores above {cut}, 2 of {rows} rows" in done.stdout.replace(
            "\n", " "
        )
    assert larf(*command, "--per-split").returncode == 2


def test_a_threshold_for_each_split_needs_splits(tiny_scorer: LARFScorer, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, tiny_scorer, source={"path": as_saved(tmp_path), "split": "test_sft"})
    with pytest.raises(RecipeError, match=r"per_split is for `source: \{split: all\}`"):
        Recipe.from_text(json.dumps(recipe))
    score_file(open_source(as_plain(tmp_path), "train"), tiny_scorer, tmp_path / "scored.parquet")
    with pytest.raises(DataError, match="is read as one split"):
        split_file(open_source(str(tmp_path / "scored.parquet")), Threshold.drop_top(2), tmp_path / "o", per_split=True)
