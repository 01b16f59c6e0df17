"""What a score measures on a dataset beside compliance: a table by block and formula.

    python benchmarks/confounds.py rows.jsonl --layers 4,9,14,16,19,24,29

Columns: AUC of the score on the held-back reference pairs; Spearman correlation of the score with answer length
(characters) and with being a list, each with a 95% bootstrap interval; AUC with which a low score finds the rows whose
answer hedges or refuses (by the wording rules of `rows/wording.py`); and the highest rows at the last block named.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from larf_curate.encoding.encoder import get_encoder
from larf_curate.errors import Unscorable
from larf_curate.inert import visible
from larf_curate.models.options import ModelOptions
from larf_curate.rows.formats import columns_of, resolve_format
from larf_curate.rows.turns import Conversation
from larf_curate.rows.wording import holds_list, refuses
from larf_curate.scoring.fitting import sample_rows
from larf_curate.scoring.formulas import FittedFormula, auc
from larf_curate.scoring.references import ReferenceSet

Array = np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", help="JSONL in any row format; the packaged sample rows if not given")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--layers", default="4,9,14,16,19,24,29")
    parser.add_argument("--references", help="JSONL of pairs; the packaged ones if not given")
    options = parser.parse_args()
    layers = [int(layer) for layer in options.layers.split(",")]
    pairs = ReferenceSet.from_jsonl(options.references) if options.references else ReferenceSet.packaged()
    conversations = read(options.data)
    sides = {
        "unsafe": [pair.unsafe for pair in pairs.fitted],
        "safe": [pair.safe for pair in pairs.fitted],
        "held_unsafe": [pair.unsafe for pair in pairs.held_back],
        "held_safe": [pair.safe for pair in pairs.held_back],
        "rows": conversations,
    }
    encoder = get_encoder(ModelOptions(options.model), max(layers))
    ids = [encoder.renderer.render(conversation).ids for side in sides.values() for conversation in side]
    encoded = encoder.encode(ids, layers).values
    states = dict(zip(sides, np.split(encoded, np.cumsum([len(side) for side in sides.values()])[:-1]), strict=True))

    lengths = np.array([len(conversation.answer) for conversation in conversations])
    lists = np.array([holds_list(conversation.answer) for conversation in conversations])
    hedges = np.array([refuses(conversation.answer) for conversation in conversations])
    print(f"{len(conversations)} rows, {lists.sum()} lists, {hedges.sum()} hedge or refuse; {len(pairs.fitted)} pairs")
    print(f"{'formula':9}{'layer':>6}{'held-back AUC':>15}  {'length':24}{'list':24}{'hedges AUC':>10}")
    for formula in ("larf", "subspace"):
        for i, layer in enumerate(layers):
            fitted = FittedFormula(formula, states["unsafe"][:, [i]], states["safe"][:, [i]])
            scores = {name: fitted.score(states[name][:, [i]])[0] for name in ("held_unsafe", "held_safe", "rows")}
            rows, hedged = scores["rows"], auc(-scores["rows"][hedges], -scores["rows"][~hedges])
            print(
                f"{formula:9}{layer:6}{auc(scores['held_unsafe'], scores['held_safe']):15.3f}"
                f"  {correlation(rows, lengths):24}{correlation(rows, lists):24}{hedged:10.2f}"
            )
        for place in np.argsort(-rows)[:10]:
            said = conversations[place]
            print(f"    {rows[place]:+.5f}  {visible(said.prompt, 48):50}{visible(said.answer, 60)}")


def read(path: str | None) -> list[Conversation]:
    lines = Path(path).read_text(encoding="utf-8").split("\n") if path else []
    rows = [json.loads(line) for line in lines if line] or sample_rows()
    form = resolve_format("auto", columns_of(rows))
    found = []
    for row in rows:
        try:
            found.append(form.convert(row))
        except Unscorable:
            continue
    return found


def correlation(scores: Array, other: Array, draws: int = 500) -> str:
    if len(set(other.tolist())) < 2:
        return "none"
    generator = np.random.default_rng(0)
    drawn = []
    for _ in range(draws):
        rows = generator.integers(len(scores), size=len(scores))
        if len(set(other[rows].tolist())) > 1:
            drawn.append(spearmanr(scores[rows], other[rows]).statistic)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{spearmanr(scores, other).statistic:+.2f} [{low:+.2f}, {high:+.2f}]"


if __name__ == "__main__":
    main()
