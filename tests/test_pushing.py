"""Files pushed in one commit, whatever they are files of."""

from __future__ import annotations

import sys
from collections.abc import Collection

import pytest
from huggingface_hub import HfApi
from huggingface_hub.utils.tqdm import are_progress_bars_disabled

from larf_curate.errors import PublishError
from larf_curate.hub import HubClient
from larf_curate.pushing import Destination, push_files

REPO = "acme/files"


def test_files_of_a_folder_go_and_others_stay(hub, tmp_path):
    local = tmp_path / "big.parquet"
    local.write_bytes(b"rows")
    first = {"README.md": b"# one", "ours/a.txt": b"a", "ours/big.parquet": local}
    pushed = push_files(HubClient(), Destination(REPO), lambda *_: first, title="Files", folder="ours")
    assert pushed.changed == {"README.md": 5, "ours/a.txt": 1, "ours/big.parquet": 4}
    files = hub.repos[REPO].files
    assert {path: files[path] for path in first} == {**first, "ours/big.parquet": b"rows"}
    HfApi().upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=REPO, repo_type="dataset")
    second = {"README.md": b"# two", "ours/big.parquet": local}
    pushed = push_files(HubClient(), Destination(REPO), lambda *_: second, title="Files", folder="ours")
    assert pushed.changed == {"README.md": 5, "ours/a.txt": None}
    assert pushed.unchanged == ("ours/big.parquet",)
    assert set(hub.repos[REPO].files) == {".gitattributes", "README.md", "ours/big.parquet", "x.txt"}
    pushed = push_files(HubClient(), Destination(REPO), lambda *_: {"b.txt": b"b"}, title="Files")  # owns no folder
    assert pushed.changed == {"b.txt": 1}


@pytest.mark.parametrize("terminal", [False, True])
def test_the_hub_s_bars_are_for_terminals(hub, monkeypatch, terminal):
    seen = []
    commit = HfApi.create_commit

    def watched(*arguments, **options):
        seen.append(are_progress_bars_disabled())
        return commit(*arguments, **options)

    monkeypatch.setattr(HfApi, "create_commit", watched)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    push_files(HubClient(), Destination(REPO), lambda *_: {"README.md": b"# one"}, title="Files")
    assert seen == [not terminal]
    assert not are_progress_bars_disabled()  # it is the user's setting, and the user's code goes on


def test_a_dry_run_that_saw_nothing_says_so(hub, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    hub.fail_how, hub.fail_at = 418, set(range(1, 9))
    planned = push_files(HubClient(), Destination(REPO), lambda *_: {"a.txt": b"a"}, title="Files", dry_run=True)
    assert planned.changed == {"a.txt": 1}
    assert "acme/files was not looked into, and all files count as new" in capsys.readouterr().err


def test_someone_else_commits_between_the_look_and_the_commit(hub):
    push_files(HubClient(), Destination(REPO), lambda *_: {"README.md": b"# one"}, title="Files")

    def render(card: str | None, _: Collection[str]) -> dict[str, bytes]:
        if card is not None:
            HfApi().upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=REPO, repo_type="dataset")
        return {"README.md": b"# two"}

    with pytest.raises(PublishError, match=r"changed by someone else .*nothing was written; push again"):
        push_files(HubClient(waits=(0.0,)), Destination(REPO), render, title="Files")
    assert hub.repos[REPO].files["README.md"] == b"# one"
    push_files(HubClient(), Destination(REPO), lambda *_: {"README.md": b"# two"}, title="Files")
    assert hub.repos[REPO].files["README.md"] == b"# two"
    assert hub.repos[REPO].files["x.txt"] == b"x"
