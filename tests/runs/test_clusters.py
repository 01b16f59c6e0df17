"""Recipes on a real Ray cluster and a real Slurm give what they give on one process."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.process]


def no_slurm() -> bool:
    sinfo = shutil.which("sinfo")
    return sinfo is None or subprocess.run([sinfo], capture_output=True, check=False).returncode != 0


EXECUTORS = [
    pytest.param(
        "{kind: ray, tasks: 3, workers: 2, cpus_per_task: 1, mem_per_cpu_gb: 1}",
        marks=[
            pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
            pytest.mark.xdist_group("ray"),
        ],
        id="ray",
    ),
    pytest.param(
        "{kind: slurm, wait: true, tasks: 3, time: '00:10:00', partition: main, cpus_per_task: 1, qos: ''}",
        marks=[
            pytest.mark.skipif(no_slurm(), reason="no Slurm answers here; .ci/slurm start"),
            pytest.mark.xdist_group("slurm"),
        ],
        id="slurm",
    ),
]


def run(home: Path, executor: str, out: str) -> dict[str, pa.Table]:
    text = "source: {path: rows.jsonl, shard_rows: 64}\nscorer: {from: scorer}\nthreshold: {drop_top: 30}\n"
    (home / f"{out}.yaml").write_text(f"{text}executor: {executor}\noutput: {out}\n")
    command = [sys.executable, "-m", "larf_curate", "run", f"{out}.yaml"]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr
    files = {outcome: sorted((home / out / outcome).glob("*.parquet")) for outcome in ("kept", "removed", "unscorable")}
    return {outcome: pa.concat_tables(map(pq.read_table, paths)) for outcome, paths in files.items()}


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_cluster_decides_as_one_process_does(executor, tiny_scorer, tmp_path):
    tiny_scorer.save_pretrained(tmp_path / "scorer")
    rows = [{"instruction": f"Tell me of {i}.", "output": "bread salt river " * (i % 9)} for i in range(300)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    alone = run(tmp_path, "{kind: local}", "alone")
    assert [len(table) for table in alone.values()] == [236, 30, 34]
    for outcome, table in run(tmp_path, executor, "cluster").items():
        scores, others = table.column("larf_score").to_pylist(), alone[outcome].column("larf_score").to_pylist()
        assert scores == pytest.approx(others, abs=1e-4) if outcome != "unscorable" else scores == others
        assert table.drop_columns(["larf_score", "larf_score_l1", "larf_score_l3"]).equals(
            alone[outcome].drop_columns(["larf_score", "larf_score_l1", "larf_score_l3"])
        )


@pytest.mark.parametrize("executor", EXECUTORS)
def test_arms_of_a_validation_are_tasks_of_the_cluster(executor, tiny_scorer, refusing_model, tmp_path):
    tiny_scorer.save_pretrained(tmp_path / "scorer")
    rows = [{"instruction": f"Tell me of {i}.", "output": "Sure, here is bread. " * (1 + i % 5)} for i in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.yaml").write_text(
        "source: {path: rows.jsonl}\nscorer: {from: scorer}\nthreshold: {drop_top: 10}\n"
        f"executor: {executor}\noutput: out\n"
        f"validate: {{model: {refusing_model}, arms: [removed, random], rows: 4, seeds: 1, most_prompts: 16, "
        "answer_tokens: 4, training: {rank: 1, epochs: 1}}\n"
    )
    command = [sys.executable, "-m", "larf_curate", "run", "recipe.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "validation.json").read_text())
    assert list(found["arms"]) == ["none", "removed", "random"]
    assert found["verdict"] in done.stderr
    assert len(list((tmp_path / "out").glob("logs/*/*-arms/completions/*"))) == 2
