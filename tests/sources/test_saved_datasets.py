"""Datasets that the `datasets` library has saved, and those on the Hub."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from datasets import Dataset, DatasetDict
from support.source_rows import (
    ROWS,
    copy,
    jsonl,
    read,
    saved,
    saved_splits,
)

from larf_curate.errors import DataError
from larf_curate.sources.files import open_source


def test_a_split_is_chosen_by_name_and_train_by_itself(tmp_path):
    path = str(saved_splits(tmp_path))
    assert [row["n"] for row in read(open_source(path, "test"))] == [99]
    with pytest.raises(DataError, match=r"test, train; say which one with --split"):
        open_source(path, "dev")


def test_two_splits_without_train_are_not_chosen_between(tmp_path):
    DatasetDict({"a": Dataset.from_list(ROWS), "b": Dataset.from_list(ROWS)}).save_to_disk(tmp_path / "d")
    with pytest.raises(DataError, match="a, b"):
        open_source(str(tmp_path / "d"))


@pytest.mark.parametrize("make", [jsonl, saved])
def test_a_split_is_not_ignored_where_there_are_none(make, tmp_path):
    with pytest.raises(DataError, match="split"):
        open_source(str(make(tmp_path)), "test")


HUB = """
import json, sys
from datasets import Dataset, DatasetDict
from larf_curate.sources.files import open_source
from larf_curate.sources.json_values import rows_of
from larf_curate.errors import DataError
rows = json.load(sys.stdin)
DatasetDict({"train": Dataset.from_list(rows), "test": Dataset.from_list(rows[:1])}).push_to_hub("acme/rows")
def read(split=None):
    return [row for t in open_source("acme/rows", split).tables(2) for row in rows_of(t, t.column_names)]
errors = []
for name, split in (("acme/rows", "dev"), ("acme/missing", None)):
    try: open_source(name, split)
    except DataError as error: errors.append(str(error))
print(json.dumps({"train": read(), "test": read("test"), "errors": errors}))
"""


def test_a_dataset_on_the_hub(hub_environment):
    done = subprocess.run(
        [sys.executable, "-c", HUB],
        input=json.dumps(ROWS),
        capture_output=True,
        check=False,
        text=True,
        env=hub_environment(),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["train"] == ROWS
    assert found["test"] == ROWS[:1]
    assert "dev" in found["errors"][0]
    assert "test" in found["errors"][0], "the splits there are"
    assert found["errors"][1].startswith("acme/missing is neither a file nor a directory here, nor a dataset on the")


def test_saved_dataset_keeps_its_feature_types(tmp_path):
    from datasets import ClassLabel, Features, List, Value

    features = Features({"label": ClassLabel(names=["no", "yes"]), "tags": List(Value("large_string"))})
    Dataset.from_dict({"label": [1, 0], "tags": [["a"], []]}, features=features).save_to_disk(tmp_path / "in")
    copy(open_source(str(tmp_path / "in")), tmp_path / "out.parquet")
    again = Dataset.from_parquet(str(tmp_path / "out.parquet"), cache_dir=str(tmp_path / "cache"))
    assert again.features == features
    assert again.to_list() == [{"label": 1, "tags": ["a"]}, {"label": 0, "tags": []}]


@pytest.mark.parametrize("file", ["state.json", "dataset_info.json", "data-00000-of-00001.arrow"])
def test_a_saved_dataset_that_is_damaged(file, tmp_path):
    path = saved(tmp_path)
    (path / file).write_bytes(b"{ rot")
    with pytest.raises(DataError, match="saved"):
        read(open_source(str(path)))
