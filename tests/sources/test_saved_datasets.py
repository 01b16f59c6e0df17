"""Datasets that the `datasets` library has saved, and those on the Hub."""

from __future__ import annotations

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
    with pytest.raises(DataError, match=r"test, train.*say which one with --split"):
        open_source(path, "dev")


def test_two_splits_without_train_are_not_chosen_between(tmp_path):
    DatasetDict({"a": Dataset.from_list(ROWS), "b": Dataset.from_list(ROWS)}).save_to_disk(tmp_path / "d")
    with pytest.raises(DataError, match="a, b"):
        open_source(str(tmp_path / "d"))


@pytest.mark.parametrize("make", [jsonl, saved])
def test_a_split_is_not_ignored_where_there_are_none(make, tmp_path):
    with pytest.raises(DataError, match="split"):
        open_source(str(make(tmp_path)), "test")


def test_a_dataset_on_the_hub(hub):
    DatasetDict({"train": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS[:1])}).push_to_hub("acme/rows")
    assert read(open_source("acme/rows")) == ROWS
    assert read(open_source("acme/rows", "test")) == ROWS[:1]
    with pytest.raises(DataError, match=r"dev.*test"):  # the splits there are
        open_source("acme/rows", "dev")
    with pytest.raises(DataError, match=r"^acme/missing is neither a file nor a directory here, nor a dataset on the"):
        open_source("acme/missing")


def test_configurations_of_a_dataset_on_the_hub(hub):
    for config, rows in (("one", ROWS[:1]), ("two", ROWS[:2])):
        Dataset.from_list(rows).push_to_hub("acme/several", config)
    assert read(open_source("acme/several", config="two")) == ROWS[:2]
    with pytest.raises(
        DataError, match=r"acme/several has several configurations: one, two; say which one with --config"
    ):
        open_source("acme/several")
    with pytest.raises(DataError, match=r"no configuration 'three'; it has one, two"):
        open_source("acme/several", config="three")


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
