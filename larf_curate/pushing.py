"""Files pushed to a repository on the Hub in one commit: all of them arrive, or none does."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .errors import PublishError
from .hub import HubClient, hub_errors
from .progress import say, uploads_as_wanted

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.hf_api import RepoFile

README = "README.md"
_LONGEST_CARD = 4 << 20  # bytes
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")

Files = Mapping[str, bytes | Path]
"""The files of a repository by their path there: the content, or the path of a file on this machine that holds it."""


@dataclass(frozen=True)
class Destination:
    """Where files are pushed to.

    Attributes:
        repo: namespace/name; the repository is made if it is not there.
        kind: the kind of the repository.
        private: whether a repository that is made now is private; None leaves it to the namespace's own setting. One
            that is there stays what it is.
        revision: a branch, made if it is not there; None for the main one.
        create_pr: open a pull request; another push brings the same one up to date.

    Raises:
        PublishError: `repo` is not named namespace/name.

    >>> Destination("clean")
    Traceback (most recent call last):
    larf_curate.errors.PublishError: a repository is named namespace/name, not 'clean'
    """

    repo: str
    kind: Literal["dataset", "model"] = "dataset"
    private: bool | None = True
    revision: str | None = None
    create_pr: bool = False

    def __post_init__(self) -> None:
        if not _REPOSITORY.fullmatch(self.repo):
            raise PublishError(f"a repository is named namespace/name, not {self.repo!r}")


@dataclass(frozen=True)
class Pushed:
    """What a push did, or would do.

    Attributes:
        repo: namespace/name.
        url: the address of the commit or pull request, or of the repository if nothing had changed.
        changed: bytes of each file that was sent, by its path; None for a file that was deleted.
        unchanged: paths of the files that were there already.
        card: the README's text.
        created: whether the repository is new.
    """

    repo: str
    url: str
    changed: Mapping[str, int | None]
    unchanged: tuple[str, ...]
    card: str
    created: bool


def push_files(
    client: HubClient,
    destination: Destination,
    render: Callable[[str | None, Collection[str]], Files],
    *,
    title: str,
    folder: str | None = None,
    dry_run: bool = False,
) -> Pushed:
    """Bring a repository to hold some files, in one commit: either all of them arrive, or none does.

    Only files that differ are sent, and nothing at all where none does; a push that was cut off is finished by the
    next. If someone else commits meanwhile, it looks at what is there again. A repository that was made for a push that
    then fails is taken back, as long as nothing is in it.

    Args:
        client: how the Hub is called.
        destination: see `Destination`.
        render: returns the files, given the text of the README that is there (None if there is none) and the paths of
            all files that are there.
        title: the title of the commit, and of the pull request, which a later push finds by this title.
        folder: a directory in the repository that belongs to the caller: files in it that `render` does not return are
            deleted. All other files stay.
        dry_run: send nothing, and only say what would be sent. Without a token, everything counts as new.

    Raises:
        PublishError: the Hub refuses or stays out of reach, or a file holds the user's token.
    """
    from huggingface_hub import get_token

    token = get_token()
    if not dry_run:
        client.require_token()
    push = _Push(client.api, destination, render, title, folder, token)
    push.plan_new()  # refuses a file that holds the token, before a repository is made
    try:
        with uploads_as_wanted():
            return client.call(push.plan if dry_run else push.send, destination.repo, again_on=(412,))
    except PublishError as error:
        push.take_back()
        if dry_run and token is None:  # a private repository cannot be looked into: compare with nothing
            say(f"{error}; {destination.repo} was not looked into, and all files count as new")
            return push.plan_new()
        raise


class _Push:
    """One push, from looking at what is there to the commit. Each try looks again, as if it were the first."""

    def __init__(
        self,
        api: HfApi,
        destination: Destination,
        render: Callable[[str | None, Collection[str]], Files],
        title: str,
        folder: str | None,
        token: str | None,
    ) -> None:
        self.api = api
        self.destination = destination
        self.repo, self.kind = destination.repo, destination.kind
        self.render = render
        self.title = title
        self.folder = folder
        self.token = token
        self.url = f"{api.endpoint}/{'datasets/' if self.kind == 'dataset' else ''}{self.repo}"
        self.created = False  # by an earlier try, perhaps
        self.perhaps_created = False  # it was asked for, and no answer came
        self.digests: dict[str, _Digests] = {}

    def plan_new(self) -> Pushed:
        """What a push to an empty repository would do."""
        return self._compare(self._files(None, ()), {}, created=True)

    def plan(self) -> Pushed:
        """What `send` would do."""
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        try:
            _, there, files = self._look(self._target())
        except (RepositoryNotFoundError, RevisionNotFoundError):
            return self.plan_new()
        return self._compare(files, there, created=False)

    def send(self) -> Pushed:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete
        from huggingface_hub.errors import RepositoryNotFoundError

        wanted = self.destination
        try:
            self.api.repo_info(self.repo, repo_type=self.kind)
        except RepositoryNotFoundError:
            self._create()
        if wanted.revision is not None:
            self.api.create_branch(self.repo, repo_type=self.kind, branch=wanted.revision, exist_ok=True)
        target = self._target()
        head, there, files = self._look(target)
        pushed = self._compare(files, there, created=self.created)
        if not pushed.changed:
            return pushed
        operations: list[CommitOperationAdd | CommitOperationDelete] = []
        for path, size in pushed.changed.items():
            if size is None:
                operations.append(CommitOperationDelete(path))
            else:
                content = files[path]
                operations.append(CommitOperationAdd(path, content if isinstance(content, bytes) else str(content)))
        commit = self.api.create_commit(
            self.repo,
            operations,
            commit_message=self.title,
            repo_type=self.kind,
            revision=target,
            parent_commit=head,
            create_pr=wanted.create_pr and target == wanted.revision,
        )
        return replace(pushed, url=str(commit.pr_url or commit.commit_url))

    def _create(self) -> None:
        """Make the repository. If it exists, somebody else has made it, or an earlier try whose answer was lost."""
        from huggingface_hub.errors import HfHubHTTPError

        self.perhaps_created = True
        try:
            self.api.create_repo(self.repo, repo_type=self.kind, private=self.destination.private)
        except HfHubHTTPError as error:
            self.perhaps_created = error.response.status_code >= 500
            if error.response.status_code != 409:
                raise
        else:
            self.created, self.perhaps_created = True, False

    def take_back(self) -> None:
        """Delete the repository that an earlier try has made, if it is still empty: nobody asked for an empty one."""
        if self.created:
            with contextlib.suppress(*hub_errors()):
                tree = self.api.list_repo_tree(self.repo, recursive=True, repo_type=self.kind)
                if {entry.path for entry in tree} <= {".gitattributes"}:
                    self.api.delete_repo(self.repo, repo_type=self.kind)
                return
            say(f"{self.repo} was made for this push and is still there, without files: delete it, or push again")
        elif self.perhaps_created:
            say(f"{self.repo} may have been made for this push, without files: look there, or push again")

    def _target(self) -> str | None:
        """The branch, or the pull request that an earlier push has opened."""
        if not self.destination.create_pr:
            return self.destination.revision
        pulls = self.api.get_repo_discussions(
            self.repo, repo_type=self.kind, discussion_type="pull_request", discussion_status="open"
        )
        ours = [pull for pull in pulls if pull.title == self.title]
        return ours[-1].git_reference if ours else self.destination.revision

    def _look(self, revision: str | None) -> tuple[str, dict[str, RepoFile], Files]:
        """The commit that is there, its files by path, and the files that there should be."""
        from huggingface_hub.hf_api import RepoFile

        head = str(self.api.repo_info(self.repo, repo_type=self.kind, revision=revision).sha)
        tree = self.api.list_repo_tree(self.repo, recursive=True, revision=head, repo_type=self.kind)
        there = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
        card = None
        if README in there:
            if there[README].size > _LONGEST_CARD:
                raise PublishError(f"{README} of {self.repo} is longer than {_LONGEST_CARD:,} bytes: shorten it")
            path = self.api.hf_hub_download(self.repo, README, repo_type=self.kind, revision=head)
            content = Path(path).read_bytes()
            if b"\0" in content:  # UTF-16, most likely: what is added in UTF-8 could not be read in it
                raise PublishError(f"{README} of {self.repo} is no UTF-8 text: write it anew in UTF-8")
            card = content.decode("utf-8", errors="surrogateescape")
        return head, there, self._files(card, there)

    def _files(self, card: str | None, paths: Collection[str]) -> Files:
        files = self.render(card, paths)
        for path, content in files.items():
            if self.token and isinstance(content, bytes) and self.token.encode() in content:
                raise PublishError(f"{path} would publish your Hub token: take the token out of what it is made of")
        return files

    def _compare(self, files: Files, there: Mapping[str, RepoFile], *, created: bool) -> Pushed:
        changed: dict[str, int | None] = {}
        unchanged = []
        for path, content in files.items():
            digests = self._digests(path, content)
            entry = there.get(path)
            if entry is None:
                same = False
            else:
                same = entry.lfs.sha256 == digests.sha256 if entry.lfs else entry.blob_id == digests.git_blob
            if same:
                unchanged.append(path)
            else:
                changed[path] = digests.size
        if self.folder is not None:
            changed |= dict.fromkeys(path for path in there if path.startswith(f"{self.folder}/") and path not in files)
        card = files.get(README, b"")
        text = (card if isinstance(card, bytes) else card.read_bytes()).decode(errors="replace")
        return Pushed(self.repo, self.url, changed, tuple(unchanged), text, created)

    def _digests(self, path: str, content: bytes | Path) -> _Digests:
        """Digests of a file's content; a file on this machine is read once, however many tries there are."""
        if isinstance(content, bytes):
            return _digests([content], len(content))
        if path not in self.digests:
            size = content.stat().st_size
            with content.open("rb") as file:
                self.digests[path] = _digests(iter(lambda: file.read(1 << 20), b""), size)
        return self.digests[path]


@dataclass(frozen=True)
class _Digests:
    """How the Hub names a file's content: by sha256 in large file storage, and by git's own digest otherwise."""

    sha256: str
    git_blob: str
    size: int


def _digests(pieces: Iterable[bytes], size: int) -> _Digests:
    sha256, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    for piece in pieces:
        sha256.update(piece)
        blob.update(piece)
    return _Digests(sha256.hexdigest(), blob.hexdigest(), size)
