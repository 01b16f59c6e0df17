"""Pushes to a Hub on loopback, told one after the other. Run as a program of its own by test_hub.py: the real client
reads where its Hub is when it is imported. `python pushes.py STORY RUN HOME`
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.loopback_hub import Hub, serve

RUN = HOME = Path()  # set below: pytest imports every module here to look for doctests
REPO = "acme/clean"
OWN = """---
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


def whole(files: dict[str, bytes]) -> bool:
    """Data, card, plots, report and recipe, and of one push."""
    parts = ("README.md", "larf/report.json", "larf/plots/scores.png", "larf/kept/train-00000-of-00001.parquet")
    return all(part in files for part in parts) and b"larf-curate:begin" in files["README.md"]


def quick() -> None:
    """No waiting between tries, neither ours nor the client's; one run is read once, however often it is pushed."""
    from larf_curate.publishing import hub

    made: dict[str, object] = {}
    original = hub.publish_files

    def once(results, repo, **options):
        key = f"{repo} {options}"
        if key not in made:
            made[key] = original(results, repo, **options)
        return made[key]

    hub.publish_files = once
    time.sleep = lambda seconds: None


def push(**options):
    from larf_curate.publishing.hub import push_run

    return push_run(RUN, options.pop("repo", REPO), **options)


def refused(says: str, **options) -> None:
    from larf_curate.errors import PublishError

    with pytest.raises(PublishError) as error:
        push(**options)
    assert says in str(error.value), error.value
    assert "\n" not in str(error.value)
    assert "hf_" not in str(error.value)


def plain(hub: Hub) -> None:
    from datasets import load_dataset
    from huggingface_hub import DatasetCard

    done = push(removed=True)
    repo = hub.repos[REPO]
    assert repo.private
    assert done.created
    assert whole(repo.files)
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
    without = push()  # what was published and is not asked for any more goes
    assert without.changed["larf/removed/train-00000-of-00001.parquet"] is None
    assert not [path for path in repo.files if "removed" in path]
    assert b"config_name: removed" not in repo.files["README.md"]
    push(removed=True)
    assert repo.files == files
    token = b"hf_good"
    assert not [path for path, content in repo.files.items() if token in content]


def own_card(hub: Hub) -> None:
    from datasets import load_dataset
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(REPO, repo_type="dataset", private=False)
    api.upload_file(path_or_fileobj=OWN.encode(), path_in_repo="README.md", repo_id=REPO, repo_type="dataset")
    old = HOME.with_suffix(".parquet")
    pq.write_table(pa.table({"a": [1], "b": [2]}), old)
    api.upload_file(path_or_fileobj=str(old), path_in_repo="old.parquet", repo_id=REPO, repo_type="dataset")
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
    written = text.replace("Words of my own.", "Other words.") + "\nAnd a last one.\n"
    api.upload_file(path_or_fileobj=written.encode(), path_in_repo="README.md", repo_id=REPO, repo_type="dataset")
    assert push().changed == {}
    push(removed=True)
    text = repo.files["README.md"].decode()
    assert "Other words." in text
    assert text.endswith("And a last one.\n")
    assert text.count("larf-curate:begin") == 1
    api.upload_file(path_or_fileobj=b"---\na: [\n---\nx", path_in_repo="README.md", repo_id=REPO, repo_type="dataset")
    refused("metadata of the repository's README.md cannot be read")
    assert repo.files["README.md"] == b"---\na: [\n---\nx"


def other_format(hub: Hub) -> None:
    """`datasets` reads all configs of a repository in one format: beside a CSV file, ours are loaded by their path."""
    from datasets import load_dataset
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(REPO, repo_type="dataset")
    text = OWN.replace("old.parquet", "old.csv").encode()
    api.upload_file(path_or_fileobj=text, path_in_repo="README.md", repo_id=REPO, repo_type="dataset")
    api.upload_file(path_or_fileobj=b"a,b\n1,2\n", path_in_repo="old.csv", repo_id=REPO, repo_type="dataset")
    push()
    assert load_dataset(REPO, split="train").column_names == ["a", "b"]
    files = f"hf://datasets/{REPO}/larf/kept/*.parquet"
    assert (
        f'load_dataset("parquet", data_files="{files}", split="train")' in hub.repos[REPO].files["README.md"].decode()
    )
    assert len(load_dataset("parquet", data_files=files, split="train")) == 176


def broken(hub: Hub) -> None:
    """Every single request fails once, or from then on all of them do: nothing, or everything, is there."""
    quick()
    for _ in range(2):  # the first one asks for what the client then remembers
        hub.repos.clear(), hub.lfs.clear(), hub.requests.clear()
        push(repo="acme/first")
    count = len(hub.requests)
    assert count > 6
    for how in (503, 429, "cut", "late"):
        for number in range(1, count + 1):
            hub.repos.clear(), hub.lfs.clear(), hub.requests.clear()
            hub.fail_how, hub.fail_at = how, {number}
            push(repo="acme/first")
            assert whole(hub.repos["acme/first"].files), (how, number)
            assert len(hub.repos["acme/first"].commits) == 1, (how, number)
    hub.fail_how = 503
    for number in range(1, count + 1):
        hub.repos.clear(), hub.lfs.clear(), hub.requests.clear()
        hub.fail_at = set(range(number, 1000))
        refused("503", repo="acme/first")
        hub.fail_at = set()
        there = hub.repos.get("acme/first")
        assert there is None or set(there.files) == {".gitattributes"}, number
        push(repo="acme/first")
        assert whole(hub.repos["acme/first"].files), number


def races(hub: Hub) -> None:
    """Somebody else commits between the look and the commit."""
    from huggingface_hub import HfApi

    quick()
    push()
    original = HfApi.create_commit

    def late(self, *arguments, **options):
        HfApi.create_commit = original
        self.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=REPO, repo_type="dataset")
        return original(self, *arguments, **options)

    HfApi.create_commit = late
    before = dict(hub.repos[REPO].files)
    refused("was changed by someone else", removed=True)
    assert hub.repos[REPO].files == {**before, "x.txt": b"x"}
    push(removed=True)
    assert "x.txt" in hub.repos[REPO].files


def tokens(hub: Hub) -> None:
    quick()
    os.environ["HF_TOKEN"] = "hf_wrong"
    refused("does not accept the token")
    del os.environ["HF_TOKEN"]
    refused("no token")
    done = push(dry_run=True)  # needs none
    assert done.created
    assert hub.repos == {}
    os.environ["HF_TOKEN"] = "hf_good"
    for status, says in ((403, "may not write"), (409, "changed by someone else")):
        for number in (1, 2):
            hub.requests.clear()
            hub.fail_how, hub.fail_at = status, {number}
            if status == 403 or number == 1:
                refused(says)
    hub.fail_at = set()
    refused("namespace/name", repo="clean")
    refused("namespace/name", repo="a/b/c")
    assert all(set(repo.files) == {".gitattributes"} for repo in hub.repos.values())


def dry(hub: Hub) -> None:
    push()
    before, requests = dict(hub.repos[REPO].files), len(hub.requests)
    done = push(removed=True, dry_run=True)
    assert set(done.changed) > {"README.md", "larf/removed/train-00000-of-00001.parquet"}
    assert done.changed["README.md"] == len(done.card.encode())
    assert hub.repos[REPO].files == before
    assert {method for method, path in hub.requests[requests:]} <= {"GET", "HEAD"}
    push(repo="acme/other", dry_run=True)
    assert "acme/other" not in hub.repos


def pull_request(hub: Hub) -> None:
    push()
    before = dict(hub.repos[REPO].files)
    for _ in range(2):
        done = push(removed=True, create_pr=True)
        assert len(hub.repos[REPO].pulls) == 1
    assert done.changed == {}
    assert hub.repos[REPO].files == before
    assert "larf/removed/train-00000-of-00001.parquet" in hub.repos[REPO].branches["refs/pr/1"]
    push(revision="trial", removed=True)
    assert hub.repos[REPO].files == before
    assert "larf/removed/train-00000-of-00001.parquet" in hub.repos[REPO].branches["trial"]


STORIES = {story.__name__: story for story in (plain, own_card, other_format, broken, races, tokens, dry, pull_request)}

if __name__ == "__main__":
    RUN, HOME = Path(sys.argv[2]), Path(sys.argv[3])
    with serve() as hub, contextlib.suppress(SystemExit):
        os.environ.update(HF_ENDPOINT=hub.endpoint, HF_HOME=str(HOME), HF_TOKEN="hf_good", HF_HUB_DISABLE_XET="1")
        STORIES[sys.argv[1]](hub)
        print("as told")
