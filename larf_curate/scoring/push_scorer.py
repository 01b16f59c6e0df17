"""A fitted scorer and its card become a commit on the Hub."""

from __future__ import annotations

from collections.abc import Collection

from ..hub import HubClient
from ..pushing import README, Destination, Files, push_files
from .artifact import Tensors, artifact_files
from .model_card import MARK, render_model_card
from .public_names import public_spec
from .spec import ScorerSpec


def push_scorer(spec: ScorerSpec, tensors: Tensors, repo_id: str, private: bool | None, revision: str | None) -> str:
    """See `LARFScorer.push_to_hub`; returns the commit's address."""
    client = HubClient()
    destination = Destination(client.with_namespace(repo_id), "model", private, revision)
    public = public_spec(spec)
    files = artifact_files(public, tensors)

    def render(card: str | None, _: Collection[str]) -> Files:
        ours = card is None or MARK in card
        return {**files, README: render_model_card(public, destination.repo).encode()} if ours else files

    return push_files(client, destination, render, title="Fitted LARF scorer").url


class PushedToHub:
    """What a scorer does with the Hub."""

    spec: ScorerSpec
    _tensors: Tensors

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, revision: str | None = None) -> str:
        """Upload the scorer with its card in one commit, and return the commit's address.

        If the Hub is busy or the connection breaks, it is tried again. If nothing has changed, nothing is sent, and the
        address is that of the repository. A card that is there and was not written by this method stays as it is.
        Of a model in a directory only its last name is sent: who loads the scorer says where it is, with `model=`.

        Args:
            repo_id: namespace/name, or a name of your own; the repository is made if it is not there.
            private: whether a repository that is made now is private; None leaves it to the namespace's own setting.
            revision: a branch, made if it is not there.

        Raises:
            PublishError: the Hub refuses, or cannot be reached.
        """
        return push_scorer(self.spec, self._tensors, repo_id, private, revision)
