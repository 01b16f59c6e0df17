"""Pushing a run: whole or not at all, once or twice, over what is there, and past whatever fails on the way."""

from __future__ import annotations

import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard, HfApi
from support.loopback_hub import Hub

from larf_curate.deciding.results import Results
from larf_curate.errors import PublishError
from larf_curate.hub import HubClient
from larf_curate.publishing.publication import publish_files
from larf_curate.publishing.push_run import push_publication, push_run
from larf_curate.pushing import Destination, Pushed

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("blank_pictures")]
REPO = "acme/clean"
REMOVED = "larf/removed/train-00000-of-00001.parquet"
OWN_CARD = """---
license: cc-by-4.0
tags: [mine]
pretty_name: "Mine: own"
configs:
- config_name: default
  data_files: old.parquet
---

# My dataset

Words of my own.
"""


@pytest.fixture
def push(plain_run, hub):
    """Push the run to `REPO`, or as the destination's options say."""

    def push(repo: str = REPO, *, removed: bool = False, dry_run: bool = False, **destination) -> Pushed:
        return push_run(plain_run, Destination(repo, **destination), removed=removed, dry_run=dry_run)

    return push


@pytest.fixture
def publication(plain_run):
    """The run, read once for many pushes."""
    return publish_files(Results.open(plain_run), REPO)


def is_whole(files: dict[str, bytes]) -> bool:
    """Whether data, card, plots and report are there, and the card is ours."""
    parts = ("README.md", "larf/report.json", "larf/plots/scores.png", "larf/kept/train-00000-of-00001.parquet")
    return all(part in files for part in parts) and b"larf-curate:begin" in files["README.md"]


def upload(path: str, content: bytes) -> None:
    HfApi().upload_file(path_or_fileobj=content, path_in_repo=path, repo_id=REPO, repo_type="dataset")


def test_a_first_push_and_others(push, hub: Hub):
    from datasets import load_dataset

    pushed = push(removed=True)
    repo = hub.repos[REPO]
    assert repo.private
    assert pushed.created
    assert is_whole(repo.files)
    assert len(repo.commits) == 1
    kept = load_dataset(REPO, split="train")
    removed = load_dataset(REPO, "removed", split="train")
    unscorable = load_dataset(REPO, "unscorable", split="train")
    assert (len(kept), len(removed), len(unscorable)) == (176, 19, 5)
    assert min(removed["larf_score"]) > max(kept["larf_score"])
    assert set(kept["question"]) | set(removed["question"]) | set(unscorable["question"]) == {
        f"question {number}?" for number in range(200)
    }
    card = DatasetCard.load(REPO)
    assert card.data.size_categories == ["n<1K"]
    assert "license" not in card.data.to_dict()
    assert 'load_dataset("acme/clean", split="train")' in card.text
    files, commits = dict(repo.files), len(repo.commits)
    again = push(removed=True)
    assert (again.changed, len(repo.commits)) == ({}, commits)
    assert set(again.unchanged) == set(pushed.changed)
    without = push()  # what was published and is not asked for any more goes
    assert without.changed[REMOVED] is None
    assert not [path for path in repo.files if "removed" in path]
    assert b"config_name: removed" not in repo.files["README.md"]
    push(removed=True)
    assert repo.files == files


def test_a_card_that_is_there_keeps_its_words_and_its_default_config(push, hub: Hub, tmp_path):
    from datasets import load_dataset

    HfApi().create_repo(REPO, repo_type="dataset", private=False)
    upload("README.md", OWN_CARD.encode())
    old = tmp_path / "old.parquet"
    pq.write_table(pa.table({"a": [1], "b": [2]}), old)
    upload("old.parquet", old.read_bytes())
    push()
    repo = hub.repos[REPO]
    text = repo.files["README.md"].decode()
    assert not repo.private  # what is there stays what it is
    assert "Words of my own." in text
    assert text.count("# My dataset") == 1
    assert "license: cc-by-4.0" in text
    assert "pretty_name: 'Mine: own'" in text
    assert load_dataset(REPO, split="train").column_names == ["a", "b"]
    assert len(load_dataset(REPO, "larf_kept", split="train")) == 176
    upload("README.md", (text.replace("Words of my own.", "Other words.") + "\nAnd a last one.\n").encode())
    assert push().changed == {}
    push(removed=True)
    text = repo.files["README.md"].decode()
    assert "Other words." in text
    assert text.endswith("And a last one.\n")
    assert text.count("larf-curate:begin") == 1
    upload("README.md", b"---\na: [\n---\nx")
    with pytest.raises(PublishError, match=r"metadata of the repository's README\.md cannot be read"):
        push()
    assert repo.files["README.md"] == b"---\na: [\n---\nx"


@pytest.mark.parametrize("card", [None, b"---\nlicense: mit\n---\n# My dataset\n"])
def test_files_without_a_config_stay_what_a_repository_loads(card, push, hub: Hub, tmp_path):
    from datasets import load_dataset

    HfApi().create_repo(REPO, repo_type="dataset")
    for name, rows in (("train-a", [1]), ("train-b", [2]), ("test", [3])):
        pq.write_table(pa.table({"a": rows}), tmp_path / "old.parquet")
        upload(f"{name}.parquet", (tmp_path / "old.parquet").read_bytes())
    if card is not None:
        upload("README.md", card)
    before = load_dataset(REPO)
    push(removed=True)
    after = load_dataset(REPO)
    assert {name: split.to_dict() for name, split in after.items()} == {
        name: split.to_dict() for name, split in before.items()
    }
    assert len(load_dataset(REPO, "larf_kept", split="train")) == 176
    assert 'load_dataset("acme/clean", "larf_kept", split="train")' in hub.repos[REPO].files["README.md"].decode()
    assert push(removed=True).changed == {}


def test_files_added_to_a_dataset_of_ours_do_not_become_what_it_loads(push, hub: Hub):
    from datasets import load_dataset

    push()
    upload("notes.csv", b"a,b\n1,2\n")
    assert push().changed == {}
    assert len(load_dataset(REPO, split="train")) == 176


@pytest.mark.parametrize("declared", [True, False])
def test_beside_files_of_another_format_ours_are_loaded_by_path(declared, push, hub: Hub):
    """`datasets` reads all configs of a repository in one format."""
    from datasets import load_dataset

    HfApi().create_repo(REPO, repo_type="dataset")
    if declared:
        upload("README.md", OWN_CARD.replace("old.parquet", "old.csv").encode())
    upload("old.csv", b"a,b\n1,2\n")
    push()
    assert load_dataset(REPO, split="train").column_names == ["a", "b"]
    files = f"hf://datasets/{REPO}/larf/kept/*.parquet"
    card = hub.repos[REPO].files["README.md"].decode()
    assert f'load_dataset("parquet", data_files="{files}", split="train")' in card
    assert len(load_dataset("parquet", data_files=files, split="train")) == 176


def test_each_request_fails_once_or_for_good(publication, hub: Hub, monkeypatch):
    """Everything is there in one commit after a failure that goes away; nothing is, after one that stays."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the Hub's client waits between tries of its own
    client = HubClient(waits=(0.0,) * 2)

    def push_anew() -> None:
        hub.repos.clear(), hub.lfs.clear(), hub.requests.clear()
        push_publication(publication, Destination(REPO), client)

    for _ in range(2):  # the first one asks for what the Hub's client then remembers
        push_anew()
    count = len(hub.requests)
    assert count > 6
    for failure in (503, "cut", "late"):
        for number in range(1, count + 1):
            hub.fail_how, hub.fail_at = failure, {number}
            push_anew()
            assert is_whole(hub.repos[REPO].files), (failure, number)
            assert len(hub.repos[REPO].commits) == 1, (failure, number)
    hub.fail_how = 503
    for number in range(1, count + 1):
        hub.fail_at = set(range(number, 1000))
        with pytest.raises(PublishError, match="503 after 3 tries"):
            push_anew()
        hub.fail_at = set()
        there = hub.repos.get(REPO)
        assert there is None or set(there.files) == {".gitattributes"}, number
        push_publication(publication, Destination(REPO), client)
        assert is_whole(hub.repos[REPO].files), number


@pytest.mark.parametrize(
    ("status", "words"), [(401, "does not accept the token"), (403, "write access"), (409, "changed by someone else")]
)
def test_a_refusal_is_one_line_without_the_token(status, words, push, hub: Hub):
    hub.fail_how, hub.fail_at = status, {1}
    with pytest.raises(PublishError) as error:
        push()
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert "hf_" not in str(error.value)
    assert hub.repos == {}


def test_tokens(push, plain_run, hub: Hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(PublishError, match="does not accept the token"):
        push()
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PublishError, match="no token"):
        push()
    assert push(dry_run=True).created  # needs none
    assert hub.repos == {}
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    (plain_run / "recipe.yaml").write_text("source: {path: rows.jsonl, revision: hf_good}\nscorer: {}\nthreshold: {}\n")
    with pytest.raises(PublishError, match="would publish your Hub token") as error:
        push()
    assert "hf_good" not in str(error.value)
    assert hub.repos == {}


@pytest.mark.parametrize("repo", ["clean", "a/b/c", "", "acme/with space"])
def test_names_that_no_repository_has(repo):
    with pytest.raises(PublishError, match="namespace/name"):
        Destination(repo)


def test_a_dry_run_only_looks(push, hub: Hub):
    push()
    before, requests = dict(hub.repos[REPO].files), len(hub.requests)
    planned = push(removed=True, dry_run=True)
    assert set(planned.changed) > {"README.md", REMOVED}
    assert planned.changed["README.md"] == len(planned.card.encode())
    assert hub.repos[REPO].files == before
    assert {method for method, path in hub.requests[requests:]} <= {"GET", "HEAD"}
    assert push("acme/other", dry_run=True).created
    assert "acme/other" not in hub.repos


def test_pull_requests_and_branches(push, hub: Hub):
    push()
    before = dict(hub.repos[REPO].files)
    for _ in range(2):
        pushed = push(removed=True, create_pr=True)
        assert len(hub.repos[REPO].pulls) == 1
    assert pushed.changed == {}
    assert hub.repos[REPO].files == before
    assert REMOVED in hub.repos[REPO].branches["refs/pr/1"]
    push(revision="trial", removed=True)
    assert hub.repos[REPO].files == before
    assert REMOVED in hub.repos[REPO].branches["trial"]


# A push that comes to nothing, or late --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "words"), [(413, "files of this size"), (422, "does not accept"), (403, "write access")]
)
def test_a_repository_that_was_made_in_vain_is_taken_back(status, words, publication, hub: Hub):
    hub.fail_next, hub.fail_next_how = {"/commit/": 1}, status
    with pytest.raises(PublishError, match=words):
        push_publication(publication, Destination(REPO), HubClient(waits=()))
    assert REPO not in hub.repos


def test_a_repository_that_was_there_stays(publication, hub: Hub):
    HfApi().create_repo(REPO, repo_type="dataset")
    hub.fail_next, hub.fail_next_how = {"/commit/": 1}, 413
    with pytest.raises(PublishError, match="files of this size"):
        push_publication(publication, Destination(REPO), HubClient(waits=()))
    assert REPO in hub.repos


def test_a_push_that_somebody_else_came_before_looks_again(publication, hub: Hub, capsys):
    HfApi().create_repo(REPO, repo_type="dataset")
    upload("README.md", OWN_CARD.encode())
    hub.fail_next, hub.fail_next_how = {"/commit/": 2}, 412
    push_publication(publication, Destination(REPO), HubClient(waits=(0.0, 0.0)))
    assert is_whole(hub.repos[REPO].files)
    assert "Words of my own." in hub.repos[REPO].files["README.md"].decode()
    assert capsys.readouterr().err.count("was changed meanwhile (412)") == 2
    upload("larf/stale.txt", b"x")
    hub.fail_next = {"/commit/": 9}
    with pytest.raises(PublishError, match="changed by someone else"):
        push_publication(publication, Destination(REPO), HubClient(waits=(0.0, 0.0)))
