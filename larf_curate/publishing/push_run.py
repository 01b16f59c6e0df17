"""Push the results of a run to the Hub as a dataset: data, card, plots, report and recipe in one commit."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from ..deciding.results import Results
from ..errors import LarfError
from ..hub import HubClient
from ..progress import say
from ..pushing import README, Destination, Files, Pushed, push_files
from .card import HOME, Metadata, render_card, split_card
from .publication import Publication, publish_files

_TITLE = "Rows filtered by larf-curate, with their score card"


def push_run(
    directory: str | Path,
    destination: Destination,
    *,
    removed: bool = False,
    examples: int = 0,
    dry_run: bool = False,
    client: HubClient | None = None,
) -> Pushed:
    """Publish the results of a run as a dataset, in one commit; nothing is scored.

    The kept rows are the default config, unless the repository had data before. What it held before stays, except for
    the directory `larf/` and this card's own part. Another push of the same results changes nothing, and one that was
    cut off is finished by the next.

    Args:
        directory: the directory of the run.
        destination: the dataset on the Hub.
        removed: publish removed rows (and those without a score) as configs of their own.
        examples: how many removed rows the card shows, cut short; 0 for none.
        dry_run: only say what would be sent.
        client: how the Hub is called.

    Raises:
        PublishError: the Hub refuses, or cannot be reached. DataError: there is no finished run.
    """
    client = client or HubClient()
    if not dry_run:
        client.require_token()  # before the plots are drawn
    publication = publish_files(Results.open(directory), destination.repo, removed=removed, examples=examples)
    return push_publication(publication, destination, client, dry_run=dry_run)


def push_publication(
    publication: Publication, destination: Destination, client: HubClient, *, dry_run: bool = False
) -> Pushed:
    """Push what `publish_files` has prepared; see `push_run`.

    Raises:
        PublishError: the Hub refuses, or cannot be reached.
    """
    request = replace(publication.card, source_metadata=_source_metadata(client, publication.card.source))

    def render(existing: str | None, paths: Collection[str]) -> Files:
        # A card in another encoding than UTF-8 comes back byte for byte.
        return {README: render_card(request, existing, paths).encode(errors="surrogateescape"), **publication.files}

    return push_files(client, destination, render, title=_TITLE, folder=HOME, dry_run=dry_run)


def _source_metadata(client: HubClient, source: str | None) -> Metadata:
    """The metadata of the card of the dataset that was filtered: its licence and language are carried over."""
    if source is None:
        return {}
    try:
        path = client.call(lambda: client.api.hf_hub_download(source, README, repo_type="dataset"), source)
        metadata, _ = split_card(Path(path).read_text(encoding="utf-8"))
    except LarfError as error:
        say(f"the card of {source} cannot be read, so no licence is carried over ({error})")
        return {}
    return metadata
