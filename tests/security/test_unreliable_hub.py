"""A Hub, or a network before it, that fails at any request: the repository is as before or complete, and one knows."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from support import loopback_hub
from support.commands import Finished, larf
from support.loopback_hub import Hub
from support.made_runs import run_maker, sample_rows

from larf_curate.deciding.results import Results
from larf_curate.hub import HubClient
from larf_curate.publishing import push_run
from larf_curate.publishing.publication import Publication, publish_files

pytestmark = pytest.mark.process

REPO = "acme/clean"
PASSING = (412, 429, 503, "redirect", "cut", "truncated", "late")
"""After one of these a push tries again. Other statuses from 500 on are treated as 503 is."""
REFUSALS = (401, 403, 404, 409, 422)
"""413 differs from 422 in its words alone, which tests/publishing/test_push_run.py has."""


class Pushes:
    """The command `larf-curate push` on one run, into a repository that is made as it was before each."""

    def __init__(self, run: Path, hub: Hub, before: dict[str, bytes] | None, options: tuple[str, ...] = ()) -> None:
        self.run, self.hub, self.before, self.options = run, hub, before, options
        self.complete: dict[str, bytes] = {}
        for _ in range(2):  # the first one asks for what the Hub's client then remembers
            assert self.push().returncode == 0
        assert self.files() != before
        self.complete = self.files() or {}
        self.requests = self.asked

    def push(self, how: int | str = 503, *, first: int = 0, last: int = 0) -> Finished:
        """Push, while the requests from the `first` to the `last` go wrong."""
        hub = self.hub
        hub.repos.clear(), hub.lfs.clear()
        hub.fail_at = set()
        if self.before is not None:
            hub.repos[REPO] = loopback_hub.Repo(REPO, "dataset", private=True)
            hub.repos[REPO].files = dict(self.before)
        hub.requests.clear()
        hub.fail_how, hub.fail_at = how, set(range(first, last + 1)) - {0}
        done = larf("push", self.run, "--repo", REPO, *self.options)
        self.asked = len(hub.requests)
        hub.fail_at = set()
        assert "Traceback" not in done.stderr
        assert "a defect" not in done.stderr, done.stderr
        assert "hf_good" not in done.stdout + done.stderr
        return done

    def files(self) -> dict[str, bytes] | None:
        """What is in the repository, or in its pull request; None where there is none."""
        repo = self.hub.repos.get(REPO)
        if repo is None:
            return None
        branches = [branch for branch in repo.branches if branch != "main"]
        assert len(branches) < 2, "one pull request, or one branch"
        return dict(repo.branches[branches[0]] if branches else repo.files)

    def assert_said(self, done: Finished, case: object) -> None:
        """The exit status says whether the repository is complete, and nothing is in between."""
        files = self.files()
        if done.returncode == 0:
            assert files == self.complete, case
        else:
            assert done.returncode == 1, (case, done.stderr)
            assert "larf-curate: " in done.stderr.strip().splitlines()[-1], (case, done.stderr)
            assert files == self.before, (case, done.stderr)


CARD = b"---\nconfigs:\n- config_name: default\n  data_files: old.parquet\n---\n\n# Mine\n"
EXISTING = {".gitattributes": b"", "README.md": CARD, "notes.txt": b"mine", "larf/stale.txt": b"old"}
STATES = {"a new repository": None, "one with files": EXISTING}
OPTIONS = {"a pull request": ("--create-pr",), "a branch": ("--revision", "clean")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_maker(tmp_path_factory.mktemp("run"))(*sample_rows())


@pytest.fixture(scope="module")
def publication(run: Path) -> Publication:
    """What is pushed, without pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("larf_curate.publishing.publication.draw_plots", lambda _: [])
        return publish_files(Results.open(run), REPO)


@pytest.fixture
def pushes(run: Path, publication: Publication, hub: Hub, monkeypatch: pytest.MonkeyPatch):
    """Pushes of a run whose report is made once, and which wait for nothing."""
    monkeypatch.setattr(push_run, "publish_files", lambda *_, **__: publication)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(push_run, "HubClient", lambda: HubClient(waits=(1.0, 1.0)))  # three tries are as good as six

    def pushes(before: dict[str, bytes] | None, *options: str) -> Pushes:
        return Pushes(run, hub, before, options)

    return pushes


@pytest.mark.parametrize(
    ("state", "ways"),
    [("a new repository", (404, "redirect", "truncated", "late")), ("one with files", (*PASSING, *REFUSALS))],
    ids=STATES,
)
def test_any_request_fails_once(state: str, ways: tuple[int | str, ...], pushes) -> None:
    attempt = pushes(STATES[state])
    assert attempt.requests > 6
    for how in ways:
        for number in range(1, attempt.requests + 1):
            done = attempt.push(how, first=number, last=number)
            attempt.assert_said(done, (how, number))
            if how in ("cut", "late", 429, 503):
                assert done.returncode == 0, (how, number, done.stderr)


@pytest.mark.parametrize(
    ("state", "ways"),
    [("a new repository", ("redirect", "cut", "late")), ("one with files", ("late",))],
    ids=STATES,
)
def test_every_request_from_one_on_fails(state: str, ways: tuple[int | str, ...], pushes) -> None:
    attempt = pushes(STATES[state])
    for how in ways:
        for number in range(1, attempt.requests + 1):
            done = attempt.push(how, first=number, last=10_000)
            assert done.returncode == 1, (how, number, done.stderr)
            files = attempt.files()
            if how in ("late", "truncated"):  # nothing was heard of what was done
                assert files in (
                    attempt.before,
                    attempt.complete,
                    {".gitattributes": files and files[".gitattributes"]},
                )
            elif state == "a new repository" and files is not None:  # nothing answers, not even to take it back
                assert set(files) == {".gitattributes"}, (how, number)
                assert f"{REPO} was made for this push and is still there, without files" in done.stderr
            else:
                assert files == attempt.before, (how, number)


@pytest.mark.parametrize("target", OPTIONS)
def test_any_request_for_a_pull_request_or_a_branch_fails_once(target: str, pushes) -> None:
    attempt = pushes(EXISTING, *OPTIONS[target])
    for number in range(1, attempt.requests + 1):
        done = attempt.push("late", first=number, last=number)
        assert attempt.hub.repos[REPO].files == EXISTING
        attempt.assert_said(done, number)
        assert done.returncode == 0, (number, done.stderr)


def test_a_repository_that_was_there_is_not_taken_back(pushes) -> None:
    """The Hub denies that an empty repository is there, and then takes nothing."""
    attempt = pushes({".gitattributes": b""})
    hub = attempt.hub
    hub.fail_code = "RepoNotFound"
    assert attempt.push(404, first=1, last=1).returncode == 0
    hub.fail_next, hub.fail_next_how = {"POST /api/datasets/acme/clean/commit": 1}, 403
    done = attempt.push(404, first=1, last=1)
    assert done.returncode == 1
    assert "write access" in done.stderr
    assert attempt.files() == {".gitattributes": b""}
    assert ("POST", "/api/repos/create") in hub.requests
    assert ("DELETE", "/api/repos/delete") not in hub.requests
