"""A recipe's run: what it decides, what it leaves when it is cut off, and what it says when something is wrong."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Timer
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from support.commands import Finished, larf, start_larf, wait_for_exit

from larf_curate import LARFScorer, Recipe, Threshold
from larf_curate.deciding.layout import OUTCOMES, SUMMARY
from larf_curate.deciding.summary import ExecutorRecord, PlannedRun, ScorerRecord, SourceRecord
from larf_curate.errors import DataError, LarfError, OutputError, ScorerError
from larf_curate.runs import driver, stages
from larf_curate.runs.job import Driver, Job
from larf_curate.runs.rundir import OWN, locked, move_results_into_place
from larf_curate.runs.signals import first_failure, killed_task, task_records

pytestmark = pytest.mark.process

T = TypeVar("T")
WORDS = ["bread", "salt", "river", "lamp", "orchard", "harbour", "copper", "violin", "meadow", "lantern"]


def row(number: int) -> dict[str, object]:
    """Of many lengths, some equal to each other, every hundredth without an answer."""
    chance = np.random.default_rng(number % 150)
    answer = " ".join(chance.choice(WORDS, 1 + number % 17)) if number % 100 else ""
    return {"number": number, "instruction": f"Say something of {chance.choice(WORDS)}.", "output": answer}


def write_rows(path: Path, count: int, first: int = 0) -> None:
    path.write_text("".join(json.dumps(row(first + i)) + "\n" for i in range(count)))


@pytest.fixture(scope="module")
def scorer(tiny_scorer: LARFScorer, tmp_path_factory: pytest.TempPathFactory) -> str:
    home = tmp_path_factory.mktemp("scorer") / "scorer"
    tiny_scorer.save_pretrained(home)
    return str(home)


def recipe(home: Path, scorer: str | dict, source: str = "rows.jsonl", out: str = "out", **sections: object) -> Path:
    said = {
        "source": {"path": str(home / source), "shard_rows": 32},
        # A size that another process measures meanwhile would make other batches, and scores with other last bits.
        "scorer": {"from": scorer, "batch_tokens": 512} if isinstance(scorer, str) else scorer,
        "threshold": {"drop_top": 30},
        "output": str(home / out),
        **sections,
    }
    path = home / f"{out}.yaml"
    path.write_text(json.dumps(said))
    return path


def run(path: Path) -> None:
    """Without the report, whose pictures take longer than all the rest."""
    driver.run(Recipe.load(path).request())


def told(done: Finished) -> str:
    """The one line that a command says beside its progress, which is to have failed."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("larf-curate: ")]
    assert len(said) == 1, done.stderr
    assert "a defect" not in said[0]
    return said[0]


def results(home: Path, out: str = "out") -> dict[str, pa.Table]:
    files = {outcome: sorted((home / out / outcome).glob("*.parquet")) for outcome in OUTCOMES}
    return {outcome: pa.concat_tables([pq.read_table(path) for path in paths]) for outcome, paths in files.items()}


def states(home: Path, out: str = "out") -> dict[str, int]:
    """When each scored shard was written; what is being written has a name with a dot."""
    shards = (home / out / "scored").glob("*/[!.]*.parquet")
    return {str(path): path.stat().st_mtime_ns for path in shards}


@pytest.mark.parametrize(
    ("tasks", "stages"), [(1, ["score", "filter"]), (2, ["score", "threshold", "filter", "finish"])]
)
def test_one_task_needs_no_stages_that_wait_for_each_other(
    tmp_path: Path, scorer: str, tasks: int, stages: list[str]
) -> None:
    write_rows(tmp_path / "rows.jsonl", 70)
    run(recipe(tmp_path, scorer, executor={"tasks": tasks, "workers": 1}))
    logs = sorted(path.parent.name for path in (tmp_path / "out" / "logs").glob("*/*/stats.json"))
    assert logs == [f"{number}-{name}" for number, name in enumerate(stages, 1)]
    assert sum(map(len, results(tmp_path).values())) == 70


def test_a_run_in_one_process_starts_no_other_and_leaves_nothing_in_the_environment(tmp_path, scorer, monkeypatch):
    """What workers need to know is there while they start, not for whatever the process starts afterwards."""
    write_rows(tmp_path / "rows.jsonl", 20)
    before = {name: value for name, value in os.environ.items() if name.startswith("LARF")}
    if hasattr(os, "fork"):
        monkeypatch.setattr(os, "fork", None)  # by which datatrove would start one for each stage
    run(recipe(tmp_path, scorer, threshold={"drop_top": 1}))
    assert {name: value for name, value in os.environ.items() if name.startswith("LARF")} == before


@pytest.fixture(scope="module")
def undisturbed(scorer: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 rows in some shards, and their results from one process."""
    home = tmp_path_factory.mktemp("undisturbed")
    write_rows(home / "rows.jsonl", 300)
    run(recipe(home, scorer))
    return home


# What it decides ----------------------------------------------------------------------------------------------------


def test_it_decides_as_map_and_threshold_do(undisturbed, tiny_scorer):
    data = load_dataset("json", data_files=str(undisturbed / "rows.jsonl"), split="train")
    scored = data.map(tiny_scorer, batched=True, batch_size=100)
    scores = np.array(scored["larf_score"], dtype=np.float64)
    threshold = Threshold.drop_top(30).fit(scores)
    kept = scored.filter(threshold.with_unscorable("keep").keep, input_columns="larf_score", with_indices=True)
    found = results(undisturbed)
    assert {outcome: len(table) for outcome, table in found.items()} == {"kept": 267, "removed": 30, "unscorable": 3}
    assert set(kept["number"]) - set(found["unscorable"]["number"].to_pylist()) == set(
        found["kept"]["number"].to_pylist()
    )
    for outcome in ("kept", "removed"):
        mapped = scores[found[outcome]["number"].to_numpy()]
        np.testing.assert_allclose(found[outcome]["larf_score"].to_numpy(), mapped, rtol=0, atol=1e-4)
        numbers = found[outcome]["number"].to_pylist()
        assert numbers == sorted(numbers), "in the source's order"
        assert [
            {name: row[name] for name in ("number", "instruction", "output")} for row in found[outcome].to_pylist()
        ] == [row(number) for number in numbers]


def assert_same_results(home: Path, undisturbed: Path, out: str = "out") -> None:
    alone = results(undisturbed)
    for outcome, table in results(home, out).items():
        assert table.equals(alone[outcome]), outcome


def test_tasks_change_nothing(undisturbed, scorer, tmp_path):
    path = recipe(tmp_path, scorer, executor={"tasks": 3, "workers": 1})
    (tmp_path / "rows.jsonl").symlink_to(undisturbed / "rows.jsonl")
    run(path)
    assert_same_results(tmp_path, undisturbed)
    assert len(list((tmp_path / "out" / "kept").iterdir())) == 3


def wait_for(condition: Callable[[], T], process: subprocess.Popen, seconds: float = 120) -> T:
    """What the condition gives, once that is true, as long as the process is there."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)
    return found


def scoring_workers(home: Path, out: str) -> list[int]:
    """The processes that are scoring rows of a run."""
    found = []
    for path in (home / out / "logs").glob("*/tasks/WriteShards*.alive"):
        with contextlib.suppress(OSError, IndexError):  # it has just ended, or has yet to write its number
            found.append(int(path.read_text().split()[0]))
    return found


SCRIPT = """\
import signal, sys
from larf_curate import LarfError, Recipe

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as under nohup
    Recipe.load("whole.yaml").run()
    print("torch" in sys.modules, flush=True)
    try:
        Recipe.load("loses-a-worker.yaml").run()
    except LarfError as error:
        print(error, flush=True)
    Recipe.load("killed.yaml").run()
"""


@dataclass(frozen=True)
class RunsWithWorkers:
    """What the script above has left: the directory of its runs, and the lines that it has printed."""

    home: Path
    said: list[str]


@pytest.fixture(scope="module")
def with_workers(undisturbed: Path, scorer: str, tmp_path_factory: pytest.TempPathFactory) -> RunsWithWorkers:
    """Three runs with workers as users have them: forked from a server, by a process that Ctrl-C does not reach.

    The first ends, the second loses a worker to a kill, and in the third all of the process is killed. They share a
    process, since it and the server take longer to import torch than all the runs together.
    """
    home = tmp_path_factory.mktemp("with-workers")
    (home / "rows.jsonl").symlink_to(undisturbed / "rows.jsonl")
    write_rows(home / "many.jsonl", 2_000)
    recipe(home, scorer, out="whole", executor={"tasks": 8, "workers": 2})
    recipe(home, scorer, "many.jsonl", "loses-a-worker", executor={"tasks": 2, "workers": 2})
    recipe(home, scorer, out="killed", executor={"tasks": 4, "workers": 2})
    (home / "script.py").write_text(SCRIPT)
    running = subprocess.Popen(
        [sys.executable, "script.py"], cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        worker, *_ = wait_for(lambda: scoring_workers(home, "loses-a-worker"), running)
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: len(states(home, "killed")) >= 3, running)
    finally:
        running.kill()
        said, _ = running.communicate(timeout=60)  # its workers hold the other end until they have noticed
    return RunsWithWorkers(home, said.splitlines())


def test_workers_change_nothing_and_their_driver_loads_no_model(with_workers, undisturbed):
    assert with_workers.said[0] == "False", "torch was not imported"
    assert_same_results(with_workers.home, undisturbed, "whole")
    assert len(list((with_workers.home / "whole" / "kept").iterdir())) == 8


def test_a_script_without_a_guard_is_told_so(scorer, tmp_path):
    write_rows(tmp_path / "rows.jsonl", 200)
    path = recipe(tmp_path, scorer, executor={"tasks": 2, "workers": 2})
    (tmp_path / "script.py").write_text(
        "from larf_curate import Recipe\n"
        "from larf_curate.runs import pools\n"
        "pools.FORK_SERVER_IMPORTS = ()\n"  # which takes seconds, and no worker gets to where it needs them
        f"Recipe.load({str(path)!r}).run()\n"
    )
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py"], check=False, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 1
    assert 'if __name__ == "__main__"' in done.stderr.splitlines()[-1]


# What scores again, and what does not -------------------------------------------------------------------------------


def test_only_what_changes_scores_is_scored_again(scorer, tmp_path):
    write_rows(tmp_path / "rows.jsonl", 150)
    run(recipe(tmp_path, scorer))
    first = states(tmp_path)
    assert len(first) > 3
    run(recipe(tmp_path, scorer, threshold={"max_score": 0.0, "unscorable": "keep"}))
    assert states(tmp_path) == first
    assert len(results(tmp_path)["unscorable"]) == 0

    run(recipe(tmp_path, {"from": scorer, "dtype": "bfloat16"}))
    assert len(states(tmp_path)) == 2 * len(first)
    assert first.items() < states(tmp_path).items()


def test_harmless_rows_that_change_make_another_threshold(scorer, tiny_scorer, tmp_path):
    write_rows(tmp_path / "rows.jsonl", 60)
    known = tmp_path / "known"
    known.mkdir()
    rule = {"calibrated": 0.1, "harmless": f"{known}/a*.parquet"}
    pq.write_table(pa.table({"larf_score": ["no part of the pattern"]}), known / "b.parquet")
    pq.write_table(pa.table({"larf_score": np.zeros(0, dtype=np.float32)}), known / "a0.parquet")
    thresholds = []
    for shift in (0.0, 0.5):
        pq.write_table(
            pa.table({"larf_score": np.linspace(0, 0.1, 500, dtype=np.float32) + shift}), known / "a.parquet"
        )
        run(recipe(tmp_path, scorer, threshold=rule))
        thresholds.append(json.loads((tmp_path / "out" / SUMMARY).read_text())["threshold"]["value"])
    assert thresholds[1] == pytest.approx(thresholds[0] + 0.5)


# Cut off ------------------------------------------------------------------------------------------------------------


def test_a_killed_run_goes_on_where_whole_shards_ended(with_workers, undisturbed, scorer):
    """The killed one had two workers; the one that goes on has none, and needs none to find what they left."""
    home = with_workers.home
    before = states(home, "killed")
    assert not (home / "killed" / "kept").exists()
    run(recipe(home, scorer, out="killed", executor={"tasks": 4, "workers": 1}))
    assert before.items() <= states(home, "killed").items(), "what was whole is not scored again"
    assert len(states(home, "killed")) == len(states(undisturbed))
    assert_same_results(home, undisturbed, "killed")
    for outcome in OUTCOMES:
        columns = pq.read_schema(next((home / "killed" / outcome).iterdir()))
        assert columns.names[:3] == ["number", "instruction", "output"]


def test_a_worker_that_is_killed_ends_the_run_though_ctrl_c_is_ignored(with_workers):
    """As under nohup. The pool would wait for the dead worker for ever."""
    assert "was killed, perhaps for lack of memory" in with_workers.said[1]


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")
may_fork = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@forks
@may_fork
def test_an_interrupt_that_a_worker_gets_alone_ends_the_run(scorer, tmp_path):
    write_rows(tmp_path / "rows.jsonl", 2_000)
    path = recipe(tmp_path, scorer, executor={"tasks": 2, "workers": 2, "start_method": "fork"})
    running = start_larf("run", path, out=tmp_path / "said.txt")
    deadline = time.monotonic() + 60
    while not (workers := scoring_workers(tmp_path, "out")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(workers[0], signal.SIGINT)
    assert wait_for_exit(running) == 1
    said = (tmp_path / "said.txt").read_text().splitlines()[-1]
    assert said.startswith("larf-curate: a worker was interrupted; what it had finished is kept")


def signal_itself_after(count: int, sent: int) -> None:
    """Let this process get a signal soon after it has written so many scored shards, while it scores the next."""
    write, written = stages.write_scored, []

    def write_scored(home: Path, file_name: str, table: pa.Table) -> None:
        write(home, file_name, table)
        written.append(file_name)
        if len(written) == count:
            Timer(0.02, os.kill, (os.getpid(), sent)).start()

    stages.write_scored = write_scored


@forks
@may_fork
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_ctrl_c_says_so_and_leaves_what_is_done(sent, scorer, tmp_path):
    write_rows(tmp_path / "rows.jsonl", 600)
    path, said = recipe(tmp_path, scorer), tmp_path / "said.txt"
    assert wait_for_exit(start_larf("run", path, out=said, first=partial(signal_itself_after, 3, sent))) == 130
    assert said.read_text().splitlines()[-1] == "larf-curate: interrupted; nothing was left half written"
    assert "Traceback" not in said.read_text()
    assert 3 <= len(states(tmp_path)) < 19


@pytest.mark.parametrize("interrupted", [True, False])
@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (EOFError, "a process of the run was ended"),
        (BrokenPipeError, "a process of the run was ended"),
        (ConnectionRefusedError, "a process of the run was ended"),
        (OSError, "cannot be written: x"),
        (DataError, "^x$"),
    ],
)
def test_what_is_missed_while_a_run_is_ended_is_not_its_reason(
    interrupted: bool, raised: type[Exception], words: str, scorer, tmp_path, monkeypatch
):
    """SIGTERM ends a whole session: the pool's other processes are gone when it cleans up."""

    class Ended:
        def run(self) -> None:
            if not interrupted:
                raise raised("x")
            try:
                raise KeyboardInterrupt
            finally:
                raise raised("x")

    write_rows(tmp_path / "rows.jsonl", 100)
    monkeypatch.setattr("larf_curate.runs.driver.chain", lambda _, stages, __: [Ended() for _ in stages])
    with pytest.raises(KeyboardInterrupt if interrupted else LarfError, match=None if interrupted else words):
        run(recipe(tmp_path, scorer))


@pytest.fixture
def other_run(undisturbed: Path) -> Iterator[int]:
    """The number of another process that is at work in the directory of that run."""
    (is_locked, locks), (may_end, ends) = os.pipe(), os.pipe()
    process = os.fork()
    if not process:
        try:
            with locked(undisturbed / "out"):
                os.write(locks, b".")
                os.close(ends)
                os.read(may_end, 1)
        finally:
            os._exit(0)
    os.close(locks)
    assert os.read(is_locked, 1) == b"."
    yield process
    os.close(ends)
    os.waitpid(process, 0)
    os.close(is_locked)
    os.close(may_end)


@forks
@may_fork
def test_two_runs_at_once(other_run, undisturbed):
    said = told(larf("run", undisturbed / "out.yaml"))
    assert f"another run is at work in {undisturbed / 'out'} (process {other_run} on" in said


def test_two_runs_at_once_in_one_process(undisturbed):
    with (
        locked(undisturbed / "out"),
        pytest.raises(OutputError, match="in this process"),
        locked(undisturbed / "out"),
    ):
        pass


class KilledError(Exception):
    """Stands for a kill."""


def finished_work(home: Path, mark: str) -> Path:
    work = home / OWN / "work"
    for outcome in OUTCOMES:
        (work / outcome).mkdir(parents=True)
        (work / outcome / "data.parquet").write_text(mark)
    (work / "recipe.yaml").write_text(mark)
    (work / SUMMARY).write_text(mark)
    return work


@pytest.mark.parametrize("moment", range(12))
def test_results_are_put_in_place_whole_wherever_that_is_cut_off(moment, tmp_path, monkeypatch):
    move_results_into_place(tmp_path, finished_work(tmp_path, "old"))
    work = finished_work(tmp_path, "new")
    calls = 0
    replace = Path.replace

    def until(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls > moment:
            raise KilledError
        return replace(self, target)

    def marks() -> Iterator[str]:
        yield from (path.read_text() for outcome in OUTCOMES for path in (tmp_path / outcome).glob("*"))
        yield (tmp_path / "recipe.yaml").read_text()

    monkeypatch.setattr(Path, "replace", until)
    try:
        move_results_into_place(tmp_path, work)
    except KilledError:
        assert not (tmp_path / SUMMARY).exists(), "what is half there is not called whole"
    monkeypatch.setattr(Path, "replace", replace)
    move_results_into_place(tmp_path, work)
    assert (list(marks()), (tmp_path / SUMMARY).read_text()) == (["new"] * 4, "new")
    move_results_into_place(tmp_path, work)
    assert not work.exists()


def test_an_old_result_does_not_stay_behind_after_a_kill_while_it_was_removed(tmp_path):
    (tmp_path / OWN / "work" / "old" / "kept").mkdir(parents=True)
    move_results_into_place(tmp_path, tmp_path / OWN / "work")
    assert not (tmp_path / OWN / "work").exists()


# What is wrong ------------------------------------------------------------------------------------------------------


def test_a_page_that_is_corrupt(scorer, tmp_path):
    """Told with its file before anything is scored, and the repaired file finishes the run."""
    (tmp_path / "data").mkdir()
    for name in range(3):
        rows = pa.Table.from_pylist([row(100 * name + i) for i in range(100)])
        pq.write_table(rows, tmp_path / "data" / f"{name}.parquet", compression="zstd")
    broken = tmp_path / "data" / "2.parquet"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:200] + bytes(400) + whole[600:])
    path = recipe(tmp_path, scorer, "data/*.parquet")
    with pytest.raises(DataError, match=r"2\.parquet cannot be read"):
        run(path)
    assert not states(tmp_path)
    broken.write_bytes(whole)
    run(path)
    assert sum(map(len, results(tmp_path).values())) == 300


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.write_bytes(b""), "1.parquet is empty"),
        (lambda path: path.write_bytes(b"PAR1 but no more"), "1.parquet cannot be read"),
        (lambda path: pq.write_table(pa.table({"prompt": ["x"]}), path), "1.parquet.*have no column in common"),
    ],
    ids=["no bytes", "no Parquet", "other columns"],
)
def test_a_file_among_others_that_cannot_be_used(spoil, words, scorer, tmp_path):
    (tmp_path / "data").mkdir()
    for name in range(3):
        pq.write_table(pa.Table.from_pylist([row(i) for i in range(9)]), tmp_path / "data" / f"{name}.parquet")
    spoil(tmp_path / "data" / "1.parquet")
    with pytest.raises(DataError, match=words):
        run(recipe(tmp_path, scorer, "data/*.parquet"))


def test_a_file_without_rows_among_others_is_none(scorer, tmp_path):
    (tmp_path / "data").mkdir()
    rows = pa.Table.from_pylist([row(i) for i in range(70)])
    for name, part in enumerate((rows.slice(0, 35), rows.slice(0, 0), rows.slice(35))):
        pq.write_table(part, tmp_path / "data" / f"{name}.parquet")
    run(recipe(tmp_path, scorer, "data/*.parquet"))
    assert sum(map(len, results(tmp_path).values())) == 70


def test_a_scored_shard_that_was_cut_short_afterwards(scorer, tmp_path):
    write_rows(tmp_path / "rows.jsonl", 150)
    run(recipe(tmp_path, scorer))
    shard = sorted(map(Path, states(tmp_path)))[2]
    whole, others = shard.read_bytes(), states(tmp_path)
    shard.write_bytes(whole[:-50])
    run(recipe(tmp_path, scorer, threshold={"drop_top": 7}))
    assert len(results(tmp_path)["removed"]) == 7
    assert shard.read_bytes() == whole
    assert [path for path, changed in states(tmp_path).items() if changed != others[path]] == [str(shard)]


SMALL = 11_000
"""Bytes: scored shards have less, and the rows that are kept have more."""


def limit_files() -> None:
    """No file of this process grows beyond `SMALL` from now on: the system refuses the write.

    Bytecode is not written any more: Python would keep the part of it that fits, and fail on it from then on.
    """
    sys.dont_write_bytecode = True
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    """The same for a while."""
    before, written = resource.getrlimit(resource.RLIMIT_FSIZE), sys.dont_write_bytecode
    limit_files()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        sys.dont_write_bytecode = written


@forks
@may_fork
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.process)])
def test_files_that_cannot_grow(workers, undisturbed, scorer, tmp_path):
    """As on a full disk. What was whole before stays; with room again the run goes on."""
    (tmp_path / "rows.jsonl").symlink_to(undisturbed / "rows.jsonl")
    if workers == 1:
        with small_files(), pytest.raises(OutputError, match="File too large"):
            run(recipe(tmp_path, scorer, executor={"tasks": 2, "workers": 1}))
    else:
        path = recipe(tmp_path, scorer, executor={"tasks": 2, "workers": 2, "start_method": "fork"})
        status = wait_for_exit(start_larf("run", path, out=tmp_path / "said.txt", first=limit_files))
        assert "File too large" in told(Finished(status, "", (tmp_path / "said.txt").read_text()))
    assert states(tmp_path), "scored shards were whole"
    assert not (tmp_path / "out" / SUMMARY).exists()
    run(recipe(tmp_path, scorer, executor={"tasks": 2, "workers": 1}))
    assert_same_results(tmp_path, undisturbed)


def test_what_was_fitted_is_said_once(tiny_model, references_file, tmp_path, capfd):
    write_rows(tmp_path / "rows.jsonl", 8)
    fitted = {"model": str(tiny_model), "layer": 1, "references": str(references_file)}
    run(recipe(tmp_path, fitted, threshold={"drop_top": 1}))
    assert capfd.readouterr().err.count("separation of unseen pairs") == 1
    run(recipe(tmp_path, fitted, threshold={"drop_top": 1}))
    assert "holds this result already: nothing is computed again" in capfd.readouterr().err


def test_a_model_that_is_gone(tiny_scorer, tiny_model, tmp_path):
    tiny_scorer.save_pretrained(tmp_path / "scorer")
    write_rows(tmp_path / "rows.jsonl", 100)
    path = recipe(tmp_path, {"from": str(tmp_path / "scorer"), "model": "./gone"})
    with pytest.raises(LarfError, match=r"gone does not exist"):
        run(path)
    with pytest.raises(ScorerError, match="there is no scorer at"):
        run(recipe(tmp_path, "./nowhere"))


@pytest.fixture
def job(tmp_path) -> Job:
    plain = dict.fromkeys(("home", "work", "scorer", "scored", "format"), "")
    return Job(
        logs=str(tmp_path),
        fit=None,
        pending=[],
        options={},
        threads=0,
        threshold=Threshold.drop_top(1),
        directory=str(Path.cwd()),
        driver=Driver(os.getpid(), socket.gethostname()),
        run=PlannedRun(
            SourceRecord("rows", 0, 0, ""), ScorerRecord("", ""), "", "auto", ExecutorRecord("local", 1), "", ""
        ),
        **plain,
    )


@pytest.mark.parametrize(
    ("raised", "kind", "words"),
    [
        (DataError("row 3 is wrong"), DataError, "row 3 is wrong"),
        (OSError(28, "No space left on device", "x.parquet"), OutputError, "x.parquet: No space left on device"),
        (KeyError("a\nb"), LarfError, r"KeyError: 'a\nb'"),
        (SystemExit(3), LarfError, "SystemExit: 3"),
    ],
)
def test_what_a_task_raises_reaches_the_driver(raised, kind, words, job):
    with pytest.raises(kind), task_records(job, "t"):
        raise raised
    said = first_failure(Path(job.logs))
    assert type(said) is kind
    assert str(said) == words
    assert killed_task(Path(job.logs)) is None
    with task_records(job, "t"):
        pass
    assert first_failure(Path(job.logs)) is None, "a task that is run again has not failed"


def test_an_interrupt_that_a_worker_gets_alone_is_a_failure_of_its_task(job):
    with pytest.raises(KeyboardInterrupt), task_records(job, "t"):
        raise KeyboardInterrupt  # in the run's own process it interrupts the run
    assert first_failure(Path(job.logs)) is None
    with pytest.raises(LarfError, match="a worker was interrupted"), task_records(replace(job, driver=None), "t"):
        raise KeyboardInterrupt
    assert "was interrupted" in str(first_failure(Path(job.logs)))


def test_the_first_failure_is_told(job):
    for task in ("b", "a"):
        with pytest.raises(LarfError), task_records(job, task):
            raise DataError(task)
        time.sleep(0.02)
    (Path(job.logs) / "tasks" / "c.failed").write_text("{")
    assert str(first_failure(Path(job.logs))) == "b"
