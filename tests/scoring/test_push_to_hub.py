"""A scorer pushed to the Hub: past what fails on the way, and over a card that is there."""

from __future__ import annotations

import time

import pytest
from huggingface_hub import HfApi
from support.loopback_hub import Hub

from larf_curate import LARFScorer
from larf_curate.errors import PublishError

REPO = "acme/larf-tiny"
FILES = {".gitattributes", "README.md", "larf_scorer.json", "larf_scorer.safetensors"}


def test_a_busy_hub_is_waited_for(tiny_scorer: LARFScorer, hub: Hub, monkeypatch, capsys):
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    hub.fail_next = {"POST /api/repos/create": 2}
    url = tiny_scorer.push_to_hub("larf-tiny")  # a name of the user's own
    assert url.startswith(f"{hub.endpoint}/")
    assert set(hub.repos[REPO].files) == FILES
    assert len(hub.repos[REPO].commits) == 1
    assert waited == [1.0, 2.0]
    assert "the Hub is busy or out of reach (503): trying again in 1 s" in capsys.readouterr().err


def test_a_refusal_is_one_clear_line(tiny_scorer: LARFScorer, hub: Hub, monkeypatch):
    hub.fail_how, hub.fail_at = 403, {1}
    with pytest.raises(PublishError, match=r"acme/larf-tiny \(403\): pushing needs a token with write access"):
        tiny_scorer.push_to_hub(REPO)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PublishError, match="no token for the Hub: log in"):
        tiny_scorer.push_to_hub(REPO)
    assert hub.repos == {}


def test_a_card_of_the_users_own_stays(tiny_scorer: LARFScorer, hub: Hub):
    HfApi().create_repo(REPO, private=True)
    HfApi().upload_file(path_or_fileobj=b"# Mine\n", path_in_repo="README.md", repo_id=REPO)
    tiny_scorer.push_to_hub(REPO, private=False)
    repo = hub.repos[REPO]
    assert repo.private  # a repository that is there stays what it is
    assert repo.files["README.md"] == b"# Mine\n"
    assert set(repo.files) == FILES
    tiny_scorer.push_to_hub(REPO, revision="trial")
    assert set(repo.branches["trial"]) == FILES
