"""One commit on the Hub: data, card, plots, report and recipe arrive together, or nothing does."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import LarfError, PublishError, one_line
from ..hub import hub_errors
from ..progress import say
from .card import HOME, render_card, split_card
from .publication import Publication, publish_files
from .results import Results

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

README = "README.md"
_WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds between tries
_T = TypeVar("_T")


@dataclass(frozen=True)
class Pushed:
    """What a push did, or with `dry_run` would do.

    Attributes:
        repo, url: where; the commit's address, or the repository's where nothing had changed.
        changed: bytes of each file that was sent, by its path; None for one that was deleted.
        unchanged: files that were there already.
        card: the README's text.
        created: whether the repository is new.
    """

    repo: str
    url: str
    changed: dict[str, int | None]
    unchanged: list[str]
    card: str
    created: bool


def push_run(
    directory: str | Path,
    repo: str,
    *,
    private: bool = True,
    removed: bool = False,
    examples: int = 0,
    revision: str | None = None,
    create_pr: bool = False,
    dry_run: bool = False,
) -> Pushed:
    """Publish a run's results as a dataset, in one commit; nothing is scored.

    The kept rows are the default config. What the repository held before stays, but for the directory `larf/` and this
    card's own part. A push of the same results changes nothing, and one that was cut off is finished by the next.

    Args:
        directory: of the run.
        repo: namespace/name; made if it is not there.
        private: whether a repository that is made is private; one that is there stays what it is.
        removed: publish removed rows (and those without a score) as configs of their own.
        examples: how many removed rows the card shows, cut short; 0 for none.
        revision: a branch, made if it is not there; the main one if not given.
        create_pr: open a pull request; the same one is brought up to date by another push.
        dry_run: only say what would be sent.

    Raises:
        PublishError: the Hub refuses, or cannot be reached. DataError: there is no finished run.
    """
    from huggingface_hub import HfApi, get_token

    check_repo(repo)
    token = get_token()
    if not dry_run:
        require_token()
    publication = publish_files(Results.open(directory), repo, removed=removed, examples=examples)
    _refuse_secret(publication, token)
    api = HfApi()
    publication = _with_source_card(api, publication)
    push = _Push(api, publication, private, revision, create_pr)
    try:
        return _patiently(push.plan if dry_run else push.send, repo)
    except PublishError:
        if dry_run and token is None:  # without one there is nothing to compare with: everything is new
            return push.plan_new()
        raise


def check_repo(repo: str) -> None:
    """Refuse what is no dataset's name on the Hub.

    Raises:
        PublishError: it is none.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise PublishError(f"a repository is named namespace/name, not {repo!r}")


def require_token() -> None:
    """Find out before the long work, not after it, that nobody is logged in.

    Raises:
        PublishError: nobody is.
    """
    from huggingface_hub import get_token

    if get_token() is None:
        raise PublishError("there is no token for the Hub: log in with `hf auth login`, or set HF_TOKEN")


def _refuse_secret(publication: Publication, token: str | None) -> None:
    for path, content in publication.files.items():
        if token and isinstance(content, bytes) and token.encode() in content:
            raise PublishError(f"{path} would publish your Hub token: take it out of the recipe or the names of files")


def _with_source_card(api: HfApi, publication: Publication) -> Publication:
    """With the metadata of the card of the dataset that was filtered: its licence and language are carried over."""
    source = publication.card.source
    if source is None:
        return publication
    try:
        path = _patiently(lambda: api.hf_hub_download(source, README, repo_type="dataset"), source)
        metadata, _ = split_card(Path(path).read_text(encoding="utf-8"))
    except LarfError as error:
        say(f"the card of {source} cannot be read, so no licence is carried over ({error})")
        return publication
    return replace(publication, card=replace(publication.card, source_metadata=metadata))


class _Push:
    """One push, from looking what is there to the commit. Each try looks anew, so it never matters how far one came."""

    def __init__(
        self, api: HfApi, publication: Publication, private: bool, revision: str | None, create_pr: bool
    ) -> None:
        self.api = api
        self.publication = publication
        self.private = private
        self.revision = revision
        self.create_pr = create_pr
        self.repo = publication.card.repo
        self.url = f"{api.endpoint}/datasets/{self.repo}"
        self.title = "Rows filtered by larf-curate, with their score card"
        self.created = False
        self.digests: dict[str, tuple[str, str, int]] = {}

    def plan_new(self) -> Pushed:
        """What a push to an empty repository would do."""
        return self._pushed(self._contents(None), {}, created=True)

    def plan(self) -> Pushed:
        """What `send` would do."""
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        try:
            _, there, contents = self._look(self._target())
        except (RepositoryNotFoundError, RevisionNotFoundError):
            return self.plan_new()
        return self._pushed(contents, there, created=False)

    def send(self) -> Pushed:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            self.api.repo_info(self.repo, repo_type="dataset")
        except RepositoryNotFoundError:
            self.api.create_repo(self.repo, repo_type="dataset", private=self.private, exist_ok=True)
            self.created = True
        if self.revision is not None:
            self.api.create_branch(self.repo, repo_type="dataset", branch=self.revision, exist_ok=True)
        target = self._target()
        head, there, contents = self._look(target)
        done = self._pushed(contents, there, created=self.created)
        if not done.changed:
            return done
        operations: list[Any] = []
        for path, size in done.changed.items():
            if size is None:
                operations.append(CommitOperationDelete(path))
            else:
                content = contents[path]
                operations.append(CommitOperationAdd(path, content if isinstance(content, bytes) else str(content)))
        commit = self.api.create_commit(
            self.repo,
            operations,
            commit_message=self.title,
            repo_type="dataset",
            revision=target,
            parent_commit=head,
            create_pr=self.create_pr and target == self.revision,
        )
        return replace(done, url=str(commit.pr_url or commit.commit_url))

    def _target(self) -> str | None:
        """The branch, or the pull request that an earlier push has opened."""
        if not self.create_pr:
            return self.revision
        pulls = self.api.get_repo_discussions(
            self.repo, repo_type="dataset", discussion_type="pull_request", discussion_status="open"
        )
        found = [pull for pull in pulls if pull.title == self.title]
        return found[-1].git_reference if found else self.revision

    def _look(self, revision: str | None) -> tuple[str, dict[str, RepoFile], dict[str, bytes | Path]]:
        """The head, the files there, and what there should be."""
        from huggingface_hub.hf_api import RepoFile

        head = str(self.api.repo_info(self.repo, repo_type="dataset", revision=revision).sha)
        tree = self.api.list_repo_tree(self.repo, recursive=True, revision=head, repo_type="dataset")
        there = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
        card = None
        if README in there:
            path = self.api.hf_hub_download(self.repo, README, repo_type="dataset", revision=head)
            card = Path(path).read_text(encoding="utf-8", errors="surrogateescape")
        return head, there, self._contents(card)

    def _contents(self, card: str | None) -> dict[str, bytes | Path]:
        text = render_card(self.publication.card, card)
        return {README: text.encode(errors="surrogateescape"), **self.publication.files}

    def _pushed(self, contents: Mapping[str, bytes | Path], there: Mapping[str, RepoFile], *, created: bool) -> Pushed:
        changed: dict[str, int | None] = {}
        unchanged = []
        for path, content in contents.items():
            sha256, blob, size = self._digest(path, content)
            entry = there.get(path)
            same = entry is not None and (entry.lfs.sha256 == sha256 if entry.lfs else entry.blob_id == blob)
            if same:
                unchanged.append(path)
            else:
                changed[path] = size
        stale = [path for path in there if path.startswith(f"{HOME}/") and path not in contents]
        card = contents[README]
        assert isinstance(card, bytes)
        return Pushed(
            self.repo, self.url, {**changed, **dict.fromkeys(stale)}, unchanged, card.decode(errors="replace"), created
        )

    def _digest(self, path: str, content: bytes | Path) -> tuple[str, str, int]:
        """sha256, git's own digest of a blob, and the size; a file is read once, however many tries there are."""
        if isinstance(content, bytes):
            return _digests([content], len(content))
        if path not in self.digests:
            size = content.stat().st_size
            with content.open("rb") as file:
                self.digests[path] = _digests(iter(lambda: file.read(1 << 20), b""), size)
        return self.digests[path]


def _digests(pieces: Any, size: int) -> tuple[str, str, int]:
    sha256, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    for piece in pieces:
        sha256.update(piece)
        blob.update(piece)
    return sha256.hexdigest(), blob.hexdigest(), size


def _patiently(act: Callable[[], _T], repo: str) -> _T:
    """Try again where the Hub is busy or the line breaks; tell anything else in one line.

    Raises:
        PublishError: it does not work.
    """
    from huggingface_hub.errors import HfHubHTTPError

    for wait in (*_WAITS, None):
        try:
            return act()
        except Exception as raised:
            # The client wraps what goes wrong with one file of several in a RuntimeError.
            error = raised.__cause__ if isinstance(raised, RuntimeError) else raised
            if not isinstance(error, hub_errors()):
                raise
            status = getattr(error.response, "status_code", None) if isinstance(error, HfHubHTTPError) else None
            passing = status == 429 or (status or 0) >= 500 or (status is None and _is_line(error))
            if wait is None or not passing:
                raise PublishError(_told(error, status, repo)) from error
            say(f"the Hub is busy or out of reach ({status or type(error).__name__}): trying again in {wait:g} s")
            time.sleep(wait)
    raise AssertionError


def _is_line(error: Exception) -> bool:
    """Whether the connection failed, not what was asked for."""
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    return isinstance(error, httpx.TransportError | ConnectionError | TimeoutError)


def _told(error: Exception, status: int | None, repo: str) -> str:
    words = {
        401: f"the Hub does not accept the token for {repo} (401): log in with `hf auth login`, or set HF_TOKEN",
        403: f"the token may not write to {repo} (403): it needs write access there, or another --repo",
        404: f"{repo} is not there, or not for this token (404): check its name, the revision and the token's rights",
        409: f"{repo} was changed by someone else during the push (409): nothing was written; push again",
        412: f"{repo} was changed by someone else during the push (412): nothing was written; push again",
    }
    if status in words:
        return words[status]
    if status is not None and (status == 429 or status >= 500):
        return f"the Hub answers {status} after {len(_WAITS) + 1} tries: push again later, it goes on from there"
    return f"{repo} cannot be published: {one_line(error)}"
