"""Training weights between two scores, wherever scores go: `map`, `filter`, recipes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Value, load_dataset
from support.commands import larf

from larf_curate import LARFScorer
from larf_curate.errors import ThresholdError
from larf_curate.rows.score_columns import ColumnNames
from larf_curate.scoring.weights import WeightRange

ROWS = [{"question": f"What is {n}?", "answer": f"It is {'very ' * n}small."} for n in range(6)]
ROWS.append({"question": "Nothing?", "answer": " "})


def test_bounds_may_be_numbers_of_numpy() -> None:
    """Such as some of the scores, which are float32."""
    scores = np.arange(1, 4, dtype=np.float32)
    made = WeightRange.of((scores.min(), scores.max()))
    assert made == WeightRange(1.0, 3.0)
    assert json.dumps([made.lower, made.upper]) == "[1.0, 3.0]"


@pytest.mark.parametrize(
    ("lower", "upper", "score", "weight"),
    [
        (0.0, 1.0, 0.25, 0.75),
        (0.0, 1.0, 0.0, 1.0),
        (0.0, 1.0, 1.0, 0.0),
        (0.0, 1.0, -9.0, 1.0),
        (0.0, 1.0, 9.0, 0.0),
        (0.0, 1.0, -np.inf, 1.0),
        (0.0, 1.0, np.inf, 0.0),
        (0.0, 1.0, np.nan, np.nan),
        (0.5, 0.5, 0.5, 1.0),
        (0.5, 0.5, 0.51, 0.0),
        (-0.2, -0.1, -0.16, 0.6),
    ],
)
def test_weights_fall_in_a_straight_line(lower: float, upper: float, score: float, weight: float) -> None:
    found = WeightRange(lower, upper).weights([score])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [weight], rtol=1e-6)


def test_a_higher_score_never_weighs_more() -> None:
    scores = np.sort(np.random.default_rng(0).normal(0, 0.2, 1000).astype(np.float32))
    weights = WeightRange(-0.1, 0.1).weights(scores)
    assert (np.diff(weights) <= 0).all()
    assert {0.0, 1.0} < set(weights.tolist())


@pytest.mark.parametrize(
    "pair", [(0.2, 0.1), (np.nan, 1), (0, np.inf), (-1e308, 1e308), (1,), (1, 2, 3), 1, ("a", "b")]
)
def test_ranges_that_are_none(pair: object, tiny_scorer: LARFScorer) -> None:
    with pytest.raises(ThresholdError, match="a weight"):
        tiny_scorer.with_options(weight=pair)  # type: ignore[arg-type]


def test_map_adds_the_column_with_its_type(tiny_scorer: LARFScorer, tmp_path: Path) -> None:
    lower, upper = np.nanquantile(tiny_scorer.score(ROWS), [0.2, 0.8])
    weighing = tiny_scorer.with_options(weight=(lower, upper))
    scored = Dataset.from_list(ROWS).map(weighing, batched=True)
    assert scored.column_names[-1] == "larf_weight"
    assert scored.data.schema.field("larf_weight").type == pa.float32()
    scores = np.array(scored["larf_score"][:], float)
    wanted = np.interp(scores, [lower, upper], [1, 0])
    np.testing.assert_allclose(np.array(scored["larf_weight"][:], float), np.where(np.isnan(scores), np.nan, wanted))
    assert scored["larf_weight"][:][-1] is None
    weighing.save_pretrained(tmp_path)
    assert LARFScorer.from_pretrained(tmp_path).spec.weight == WeightRange(lower, upper)
    again = scored.map(tiny_scorer, batched=True)
    assert "larf_weight" not in again.column_names, "a weight of an earlier scorer would pass for one of this"
    assert "larf_weight" in ColumnNames()


def test_filter_gives_kept_rows_a_weight(tmp_path: Path) -> None:
    scores = [0.05, 0.1, 0.2, 0.4, None]
    rows = [{"question": "q", "answer": "a", "larf_score": score, "larf_weight": 9.0} for score in scores]
    Dataset.from_list(rows).to_parquet(tmp_path / "scored.parquet")
    command = ("filter", "scored.parquet", "--max-score", "0.3", "--out", "out", "--weight")
    assert larf(*command, "0.1,0.3", "--unscorable", "keep", cwd=tmp_path).returncode == 0
    kept, removed = (pq.read_table(tmp_path / "out" / part) for part in ("kept", "removed"))
    assert kept.schema.names == ["question", "answer", "larf_score", "larf_weight"]
    assert kept.schema.field("larf_weight").type == pa.float32()
    assert kept["larf_weight"].to_pylist() == pytest.approx([1, 1, 0.5, None])
    assert removed["larf_weight"].to_pylist() == [0]
    read = load_dataset("parquet", data_files=str(tmp_path / "out/kept/*.parquet"), cache_dir=str(tmp_path / "cache"))
    assert read["train"].features["larf_weight"] == Value("float32")
    for wrong in ("0.3,0.1", "0.1", "a,b"):
        done = larf(*command, wrong, cwd=tmp_path)
        assert done.returncode == 2
        assert "--weight" in done.stderr


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.process
def test_a_recipe_weighs_and_scores_each_turn(tiny_scorer: LARFScorer, tmp_path: Path) -> None:
    said = [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, "abcd", strict=True)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"messages": said[: 2 + n % 3]}) + "\n" for n in range(9)))
    tiny_scorer.save_pretrained(tmp_path / "scorer")
    text = "source: {path: rows.jsonl}\nscorer: {from: scorer, turns: all}\nthreshold: {drop_top: 1%s}\noutput: run\n"
    (tmp_path / "recipe.yaml").write_text(text % ", weight: {lower: -1, upper: 1}")
    plan = larf("run", "recipe.yaml", "--dry-run", cwd=tmp_path)
    assert "weight 1 up to -1, 0 from 1" in " ".join(plan.stdout.split())
    assert larf("run", "recipe.yaml", cwd=tmp_path).returncode == 0
    kept = pq.read_table(tmp_path / "run" / "kept")
    added = ["larf_turn", "larf_tokens", "larf_issue", "larf_weight"]
    assert kept.schema.names[-4:] == added
    wanted = (1 - kept["larf_score"].to_numpy()) / 2
    np.testing.assert_allclose(kept["larf_weight"].to_numpy(), wanted, rtol=1e-5)
    scored_before = sorted((tmp_path / "run" / "scored").rglob("*.parquet"))
    (tmp_path / "recipe.yaml").write_text(text % ", weight: {lower: -1, upper: 3}")  # decided anew, not scored anew
    assert larf("run", "recipe.yaml", cwd=tmp_path).returncode == 0
    changed = pq.read_table(tmp_path / "run" / "kept")["larf_weight"].to_numpy()
    np.testing.assert_allclose(changed, (3 - kept["larf_score"].to_numpy()) / 4, rtol=1e-5)
    assert sorted((tmp_path / "run" / "scored").rglob("*.parquet")) == scored_before
    (tmp_path / "recipe.yaml").write_text(text % ", weight: {lower: 1, upper: -1}")
    assert "threshold.weight.upper" in larf("run", "recipe.yaml", cwd=tmp_path).stderr
