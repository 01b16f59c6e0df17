"""A threshold for each split: every split is divided as if it were alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, IterableDatasetDict

from larf_curate import Threshold
from larf_curate.errors import ThresholdError

SIZES = {"train": 40, "empty": 0, "test": 13, "validation": 7}


def scored(seed: int = 0) -> DatasetDict:
    """Splits whose scores lie apart, with ties and with rows that have none."""
    random = np.random.default_rng(seed)
    splits = {}
    for place, (name, rows) in enumerate(SIZES.items()):
        scores: list[float | None] = [round(float(score), 1) + 10 * place for score in random.normal(size=rows)]
        scores[::6] = [None] * len(scores[::6])
        data = {"row": list(range(rows)), "larf_score": np.array(scores, np.float64)}
        splits[name] = Dataset.from_dict(data)
    return DatasetDict(splits)


def streams_of(data: DatasetDict) -> IterableDatasetDict:
    """The same splits as streams; the library makes none of a split without rows."""
    return IterableDatasetDict({name: part.to_iterable_dataset() for name, part in data.items() if len(part)})


RULES = [Threshold.drop_top(3), Threshold.drop_fraction(0.25), Threshold.max_score(1.0), Threshold.drop_top(0)]


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("stream", [False, True])
def test_every_split_is_divided_as_if_it_were_alone(rule: Threshold, stream: bool) -> None:
    data = scored()
    parts = rule.split(streams_of(data) if stream else data, per_split=True)
    for name in parts.kept:
        alone = rule.split(data[name])
        for outcome in ("kept", "removed", "unscorable"):
            found = [row["row"] for row in getattr(parts, outcome)[name]]
            assert found == getattr(alone, outcome)["row"][:], (name, outcome)
        assert parts.threshold.by_split[name] == alone.threshold
    assert parts.threshold.removed == parts.counts["removed"]
    assert parts.threshold.rows == sum(SIZES.values())


def test_one_threshold_over_all_splits_is_what_is_had_unasked() -> None:
    parts = Threshold.drop_top(3).split(scored())
    assert parts.threshold.by_split == {}
    # The scores of the last split lie highest: it alone loses rows.
    assert {name: len(part) for name, part in parts.removed.items()} == {
        "train": 0,
        "empty": 0,
        "test": 0,
        "validation": 3,
    }


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_it_is_the_same_after_json_and_however_rows_are_cut_into_chunks(rule: Threshold) -> None:
    scores = np.concatenate([np.asarray(part["larf_score"][:], np.float64) for part in scored().values()])
    whole = rule.fit_splits(lambda: [scores], list(SIZES.items()))
    assert rule.fit_splits(lambda: np.array_split(scores, 11), list(SIZES.items())) == whole
    again = Threshold.from_json(whole.to_json())
    assert again == whole
    assert list(again.by_split) == list(SIZES)  # rows are found by the order of the splits
    mask = whole.removes(scores)
    pieces = [again.removes(scores[at : at + 9], at) for at in range(0, len(scores), 9)]
    assert np.concatenate(pieces).tolist() == mask.tolist()
    kept = [again.with_unscorable("keep").keep(score, row) for row, score in enumerate(scores)]
    assert kept == (~mask).tolist()


def test_what_it_cannot_do_is_said() -> None:
    data = scored()
    with pytest.raises(ThresholdError, match="per_split is for a DatasetDict"):
        Threshold.drop_top(3).split(data["train"], per_split=True)
    fitted = Threshold.drop_top(3).split(data, per_split=True).threshold
    assert "(validation)" in repr(fitted)
    with pytest.raises(ThresholdError, match="give row numbers, 0 to 59, in the order of the splits"):
        fitted.keep(0.3)
    with pytest.raises(ThresholdError, match="give row numbers"):
        fitted.removes(np.zeros(3), 58)
    refitted = fitted.fit([0.1, 0.2, 0.3, 0.4])
    assert (refitted.by_split, refitted.removed) == ({}, 3)


@pytest.mark.parametrize("change", ["nested", "rows", "unfitted", "name"])
def test_a_strangers_splits_are_checked(change: str) -> None:
    fields = json.loads(Threshold.drop_top(3).split(scored(), per_split=True).threshold.to_json())
    part = fields["by_split"][0]
    if change == "nested":
        part["by_split"] = [dict(fields["by_split"][2])]
    elif change == "rows":
        part["rows"] += 1
    elif change == "unfitted":
        part["value"] = None
    else:
        part["split"] = 3
    with pytest.raises(ThresholdError, match="not a threshold"):
        Threshold.from_json(json.dumps(fields))
