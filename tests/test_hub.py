"""Calls to the Hub: what is tried again, for how long, and what is said when it fails."""

from __future__ import annotations

import time

import pytest
from huggingface_hub.errors import OfflineModeIsEnabled

from larf_curate.errors import PublishError
from larf_curate.hub import HubClient

REPO = "acme/data"


@pytest.fixture
def waited(monkeypatch):
    """The seconds of every wait, which nobody waits."""
    seconds: list[float] = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


def look(client: HubClient) -> str:
    return client.call(lambda: client.api.repo_info(REPO, repo_type="dataset").id, REPO)


@pytest.mark.parametrize("failure", [429, 500, 503, "cut"])
def test_what_passes_is_tried_again_after_the_waits(failure, hub, waited, capsys):
    HubClient().api.create_repo(REPO, repo_type="dataset")
    hub.requests.clear()
    hub.fail_how, hub.fail_at = failure, {1, 2}
    assert look(HubClient(waits=(3.0, 5.0, 7.0))) == REPO
    assert waited == [3.0, 5.0]
    assert len(hub.requests) == 3
    said = capsys.readouterr().err.splitlines()
    assert [line.endswith(f"trying again in {wait} s") for line, wait in zip(said, (3, 5), strict=True)] == [True] * 2


@pytest.mark.parametrize(("asked", "expected"), [(30, 30.0), (1, 3.0), (100_000, 300.0), ("soon", 3.0)])
def test_it_waits_as_long_as_the_hub_asks(asked, expected, hub, waited):
    HubClient().api.create_repo(REPO, repo_type="dataset")
    hub.fail_how, hub.fail_at, hub.retry_after = 429, {len(hub.requests) + 1}, asked
    assert look(HubClient(waits=(3.0,))) == REPO
    assert waited == [expected]


def test_a_hub_that_stays_busy_is_given_up(hub, waited):
    hub.fail_at = set(range(1, 100))
    with pytest.raises(PublishError, match="answers 503 after 3 tries"):
        look(HubClient(waits=(1.0, 2.0)))
    assert waited == [1.0, 2.0]
    waited.clear()
    with pytest.raises(PublishError, match="answers 503 after 1 tries"):
        look(HubClient(waits=()))
    assert waited == []


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "does not accept the token for acme/data (401): log in"),
        (403, "write access"),
        (404, "acme/data is not there, or not for this token (404)"),
        (409, "changed by someone else during the push (409): nothing was written"),
        (412, "changed by someone else during the push (412): nothing was written"),
        (413, "takes no files of this size for acme/data (413): nothing was written"),
        (422, "does not accept what was sent for acme/data (422)"),
        (418, "the Hub cannot be used for acme/data"),
    ],
)
def test_a_refusal_is_explained_at_once(status, words, hub, waited):
    hub.fail_how, hub.fail_at = status, {1}
    with pytest.raises(PublishError) as error:
        look(HubClient())
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert (len(hub.requests), waited) == (1, [])


@pytest.mark.parametrize(
    ("status", "words", "tries"),
    [
        (404, "set HF_HUB_DISABLE_XET=1", 1),
        (403, "a token with write access", 1),
        (503, "the Hub answers 503 after 6 tries", 6),
    ],
)
def test_what_the_file_storage_refuses_is_not_asked_again(status, words, tries, waited):
    asked = []

    def stored() -> None:  # as hf_xet raises it: the status is in the text alone
        asked.append(status)
        raise ConnectionError(
            f"Network error: Request error: HTTP status client error ({status} Reason), domain: "
            f"https://hub/api/datasets/{REPO}/xet-write-token/main"
        )

    with pytest.raises(PublishError) as error:
        HubClient().call(stored, REPO)
    assert words in str(error.value)
    assert (len(asked), len(waited)) == (tries, tries - 1)


def test_a_user_who_works_offline_is_told_so_at_once(waited):
    def refused() -> None:
        raise OfflineModeIsEnabled("Cannot reach the Hub: offline mode is enabled.")

    with pytest.raises(PublishError, match="HF_HUB_OFFLINE is set, so the Hub is not asked about acme/data"):
        HubClient().call(refused, REPO)
    assert waited == []


def test_errors_of_another_kind_pass_through(waited):
    def broken() -> None:
        raise KeyError("a mistake of ours")

    with pytest.raises(KeyError):
        HubClient().call(broken, REPO)
    assert waited == []


def test_no_token(hub, monkeypatch):
    HubClient().require_token()
    assert HubClient().with_namespace("data") == "acme/data"
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PublishError, match="no token"):
        HubClient().require_token()
    assert HubClient().with_namespace("other/data") == "other/data"
