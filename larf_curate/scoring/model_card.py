"""The README of a fitted scorer on the Hub: what it was fitted on, how well it separates, how to use it."""

from __future__ import annotations

import re

from ..inert import markdown
from .formula_names import MEANINGS
from .spec import ScorerSpec

MARK = "<!-- larf-curate: rewritten at every push; take this line out to keep your own card -->"


_CONTENTS = {"influence": "a direction in the model's weights", "loss_gap": "the names of two models"}
"""What a scorer holds; reference states if its formula is not here."""


def render_model_card(spec: ScorerSpec, repo: str) -> str:
    """The card's text. Names, findings and all else that comes from outside is inert in it."""
    on_hub = spec.commit is not None and re.fullmatch(r"[\w.-]+/[\w.-]+", spec.model)
    base = f"base_model: {spec.model}\n" if on_hub else ""
    model = spec.model if on_hub else re.split(r"[/\\]", spec.model)[-1]  # a directory's name is private
    top = f", top {spec.top_k}" if spec.top_k else ""
    cut = f"at most {spec.max_tokens:,} tokens of a row, {spec.what_longer_rows_are}"
    layers = ", ".join(map(str, spec.layers))
    content = _CONTENTS.get(spec.formula, "reference states")
    rows = {
        "model": f"{markdown(model)}, {markdown(spec.version)}",
        **({"layer": f"{layers} of 0..{spec.blocks - 1} (output of that block, counted from 0)"} if layers else {}),
        **({"layer search": markdown(spec.search.verdict(), 1000)} if spec.search else {}),
        "formula": f"{markdown(spec.formula)}, version {spec.formula_version}{top}",
        "precision": f"{markdown(spec.dtype)}; {cut}",
        **{name: markdown(value) for name, value in (*spec.reference_facts(), *spec.loss_facts())},
        **{f"linter {number}": markdown(finding) for number, finding in enumerate(spec.findings, 1)},
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"""---
library_name: larf-curate
tags:
- larf
- larf-curate
- safety
- data-curation
{base}---

{MARK}

# {markdown(repo.rsplit("/", maxsplit=1)[-1])}

A scorer fitted by the Python package `larf-curate`: it finds the rows of a fine-tuning dataset that
would wear away an aligned model's refusals (LARF, [arXiv 2507.18631](https://arxiv.org/abs/2507.18631)). It holds
{content} and settings, not the model: that is loaded from where its name says.

| | |
| --- | --- |
{table}

```python
from larf_curate import LARFScorer

scorer = LARFScorer.from_pretrained("{repo}")
ds = ds.map(scorer, batched=True)  # adds larf_score: higher: {MEANINGS.get(spec.formula, MEANINGS["larf"])}
```

A score belongs to this model and to what the scorer was fitted on; another model ranks rows otherwise. It is no
content filter: a low score does not mean that a row is harmless. Look at the rows that a threshold removes.
"""
