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
