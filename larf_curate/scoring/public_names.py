"""Names that may be published: of files and Hub repositories, without the directories of the machine they are on."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from ..models.locating import commit_of
from .spec import ScorerSpec

_ON_HUB = re.compile(r"[\w.-]+/[\w.-]+(/[\w.-]+\.gguf)?")
_FILE = re.compile(r".*\.(jsonl?|csv|tsv|parquet|arrow|txt|ya?ml|jinja|gz|zst|bz2|xz|zip)", re.IGNORECASE)


def public_name(name: str) -> str:
    r"""The last part of a path or an address, without what follows a question mark, which may be a signature.

    >>> public_name("~/private/rows.jsonl"), public_name("data/a.csv + data/b.csv"), public_name(r"C:\me\rows.csv")
    ('rows.jsonl', 'a.csv + b.csv', 'rows.csv')
    >>> public_name("https://me:key@host/dir/rows.parquet?signature=abc#x"), public_name("rows.jsonl")
    ('rows.parquet', 'rows.jsonl')
    """
    parts = (re.split(r"[?#]", part)[0].rstrip("/\\") for part in name.split(" + "))
    return " + ".join(re.split(r"[/\\]", part)[-1] or "unnamed" for part in parts)


def public_id(name: str, *, pinned: bool = False) -> str:
    """A name as it is if it is one on the Hub, else the last part of it.

    Args:
        name: the name of a model, a scorer or a dataset.
        pinned: whether a commit of the Hub is known for it. Without one, what is there on this machine, or is called
            like a file, is a path.

    >>> public_id("acme/model"), public_id("/data/acme/model"), public_id("data/rows.jsonl")
    ('acme/model', 'model', 'rows.jsonl')
    """
    if _ON_HUB.fullmatch(name) and (pinned or not (_FILE.fullmatch(name) or Path(name).exists())):
        return name
    return public_name(name)


def public_spec(spec: ScorerSpec) -> ScorerSpec:
    """What a scorer says of itself, fit to be published.

    A model in a directory keeps the directory's own name alone: whoever loads the scorer says where the model is.
    """
    references, search, margin, other = spec.references, spec.search, spec.margin, spec.other

    def shown(model: str, commit: str | None = spec.commit) -> str:
        return public_name(model) if commit is None else public_id(model, pinned=True)

    return replace(
        spec,
        model=shown(spec.model),
        references=references and replace(references, name=public_name(references.name)),
        search=search and replace(search, model=shown(search.model)),
        margin=margin and replace(margin, prompts=public_name(margin.prompts)),
        other=other and replace(other, model=shown(other.model, commit_of(other.version))),
    )
