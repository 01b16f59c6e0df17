"""Runs that are killed at any moment: the next one ends with the same results, and nothing of the user's is touched.

The suite kills two of them once; with `LARF_CURATE_KILLS=10` a run on each of the four executors is killed so often, by
one signal after another.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.forked_runs import EXECUTORS, start, wait_for_jobs
from support.hub import empty
from support.loopback_hub import Hub

from larf_curate import LARFScorer, Recipe
from larf_curate.deciding.layout import OUTCOMES, SUMMARY

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
    pytest.mark.usefixtures("blank_pictures"),  # in the forks too
]
KILLS = int(os.environ.get("LARF_CURATE_KILLS", "0"))
KILLED = tuple(EXECUTORS) if KILLS else ("workers", "slurm")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
REPO = "acme/clean"
NAMES = ("notes.txt", "rows.jsonl", "out/notes.txt", "out/plots/mine.png", "out/scored/notes.txt", "scorer/mine.txt")


def rows(first: int, last: int) -> str:
    rows = [
        {"prompt": f"Say {i}.", "completion": "Good day to you. " * (i % 11 * (i % 40 > 0))} for i in range(first, last)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_recipe(home: Path, drop_top: int, **sections: object) -> Path:
    said = {
        "source": {"path": str(home / "rows.jsonl"), "shard_rows": 16},
        "scorer": {"from": str(home / "scorer")},
        "threshold": {"drop_top": drop_top},
        "output": str(home / "out"),
        **sections,
    }
    (home / "recipe.yaml").write_text(json.dumps(said))
    return home / "recipe.yaml"


@dataclass(frozen=True)
class Place:
    """A directory in which runs are killed, and what an undisturbed run leaves there and on the Hub."""

    home: Path
    kind: str
    hub: Hub
    seconds: float = 0
    results: tuple[object, ...] = ()
    earlier: tuple[object, ...] = ()

    def begin(self, first: Path) -> None:
        """As it was before: an earlier result, a longer source by now, and files of somebody else in between."""
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.copytree(first, self.home)
        (self.home / "rows.jsonl").write_text(rows(0, 100))
        for name in NAMES:
            if name != "rows.jsonl":
                (self.home / name).parent.mkdir(exist_ok=True)
                (self.home / name).write_text(f"mine: {name}")
        write_recipe(self.home, 20, executor=EXECUTORS[self.kind], publish={"repo": REPO, "removed": True})
        shutil.rmtree(self.home / "jobs", ignore_errors=True)
        empty(self.hub)

    def start(self) -> int:
        return start(self.home / "recipe.yaml", self.kind, self.home / "jobs", self.home / "said.txt")

    @property
    def said(self) -> str:
        return (self.home / "said.txt").read_text(errors="replace")

    def mine(self) -> dict[str, bytes]:
        return {name: (self.home / name).read_bytes() for name in NAMES}

    def found(self) -> tuple[object, ...] | None:
        """The result that is there, byte for byte but for its times; None while there is none."""
        out = self.home / "out"
        try:
            summary = json.loads((out / SUMMARY).read_text())
        except OSError:
            return None
        counts = {
            outcome: sum(pq.read_metadata(path).num_rows for path in (out / outcome).rglob("*.parquet"))
            for outcome in OUTCOMES
        }
        assert counts == {outcome: summary[outcome] for outcome in OUTCOMES}
        for name in ("started", "finished"):
            del summary["run"][name]
        files = {str(p.relative_to(out)): p.read_bytes() for o in OUTCOMES for p in (out / o).rglob("*.parquet")}
        return files, summary

    def published(self) -> dict[str, bytes] | None:
        """The rows on the Hub, and the names of all that is there; None where nothing is."""
        repo = self.hub.repos.get(REPO)
        if repo is None or set(repo.files) == {".gitattributes"}:
            return None
        return {name: content if name.endswith(".parquet") else b"" for name, content in repo.files.items()}


def ended(process: int) -> int:
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status)


@pytest.fixture(scope="module")
def first(tiny_scorer: LARFScorer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scorer, rows, and the result of a run over them, all in one directory that `place` copies."""
    home = tmp_path_factory.mktemp("first") / "home"
    tiny_scorer.save_pretrained(home / "scorer")
    (home / "rows.jsonl").write_text(rows(0, 40))
    write_recipe(home, 10)
    Recipe.load(home / "recipe.yaml").run()
    return home


@pytest.fixture(params=KILLED)
def place(request: pytest.FixtureRequest, first: Path, hub: Hub, tmp_path: Path) -> Place:
    undisturbed = Place(tmp_path / "home", request.param, hub)
    undisturbed.begin(first)
    earlier = undisturbed.found()
    assert earlier is not None
    begun = time.monotonic()
    assert ended(undisturbed.start()) == 0, undisturbed.said
    seconds = time.monotonic() - begun
    results = (undisturbed.found(), undisturbed.published())
    assert all(results)
    assert results[0] != earlier
    return Place(tmp_path / "home", request.param, hub, seconds, results, earlier)


def test_a_killed_run_ends_with_the_same_results_the_next_time(place: Place, first: Path) -> None:
    choose = random.Random(f"{place.kind} {KILLS}")
    seen = {"killed": 0, "ended before": 0, "an earlier result": 0, "the new result": 0, "none": 0, "published": 0}
    chosen = [SIGNALS[number % len(SIGNALS)] for number in range(KILLS)] or [choose.choice(SIGNALS)]
    for sent in chosen:
        place.begin(first)
        mine = place.mine()
        process = place.start()
        moment = choose.uniform(0, place.seconds)
        time.sleep(moment)
        if sent == signal.SIGKILL:
            os.kill(process, sent)
        else:  # Ctrl-C reaches the whole group; so does the end of a session
            os.killpg(process, sent)
        status = ended(process)
        case = f"{place.kind}, {sent.name} after {moment:.2f} of {place.seconds:.2f} s: {status}\n{place.said}"
        assert status in ((-signal.SIGKILL, 0) if sent == signal.SIGKILL else (130, -sent, 0)), case
        assert "Traceback" not in place.said, case
        assert place.mine() == mine, case
        there = place.found()
        assert there in (None, place.earlier, place.results[0]), case
        assert place.published() in (None, place.results[1]), case
        seen["killed" if status else "ended before"] += 1
        seen["none" if there is None else "an earlier result" if there == place.earlier else "the new result"] += 1
        seen["published"] += place.published() is not None
        if place.kind == "slurm":
            wait_for_jobs(place.home / "jobs")
        deadline = time.monotonic() + 60
        while (status := ended(place.start())) != 0:  # whoever was sent out may still be at work
            assert status == 1, case + place.said
            assert time.monotonic() < deadline, case + place.said
            time.sleep(0.2)
        assert place.found() == place.results[0], case
        assert place.published() == place.results[1], case
        assert place.mine() == mine, case
        assert not (place.home / "out" / ".larf" / "work").exists(), case
        assert not list((place.home / "out" / "scored").rglob(".*")), case
    print(f"\n{place.kind}: {len(chosen)} kills within {place.seconds:.2f} s: {seen}")
