"""Commands on what a run has left: report, push."""

from __future__ import annotations

from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from ..errors import PublishError
from ..progress import tell
from .usage import Json, RunDirectory, tell_to_look, wrong_usage


def report(
    run: RunDirectory,
    html: Annotated[Path | None, typer.Option(help="Write one page to look through, which needs no network.")] = None,
    json: Json = False,
) -> None:
    """Show what was removed and why, and what the score measures on these rows; writes report.json and plots/."""
    from ..console import show_report
    from ..publishing.page import write_page
    from ..publishing.write_report import write_report

    written = write_report(run)
    if html is not None:
        write_page(run, html, written)
    if json:
        print(written.to_json())
        return
    show_report(written)
    tell(f"written to {run}: report.json, plots/")
    if html is not None:
        tell(f"written: {html}; open it in a browser")
    else:
        tell_to_look(run)


def push(
    run: RunDirectory,
    repo: Annotated[str, typer.Option(help="Dataset on the Hub: namespace/name.")],
    private: Annotated[bool, typer.Option("--private/--public", help="Who may see a repository made now.")] = True,
    removed: Annotated[bool, typer.Option("--removed", help="Publish removed rows too, as a config.")] = False,
    examples: Annotated[int, typer.Option(min=0, max=100, help="Removed rows that the card shows, cut short.")] = 0,
    revision: Annotated[str | None, typer.Option(help="Branch; made if it is not there.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show files, sizes and the card; send nothing.")] = False,
    json: Json = False,
) -> None:
    """Publish a run as a dataset on the Hub: data, score card, plots, report and recipe in one commit."""
    from ..console import show_push
    from ..publishing.push_run import push_run
    from ..pushing import Destination

    with wrong_usage(PublishError, "--repo"):
        destination = Destination(repo, private=private, revision=revision, create_pr=create_pr)
    pushed = push_run(run, destination, removed=removed, examples=examples, dry_run=dry_run)
    if json:
        print(dumps({**asdict(pushed), "sent": bool(pushed.changed) and not dry_run}, indent=2))
    else:
        show_push(pushed, dry_run=dry_run)
