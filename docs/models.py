"""Measure every architecture of `tests/support/architectures.py`, and write the table into docs/models.md.

    python docs/models.py            a minute; exits with 1 if a state, a score or a loss is off by more than it may be

Run it with a new release of transformers, and read what has changed.
"""

from __future__ import annotations

import re
import sys
import tempfile
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

import torch  # noqa: E402
import transformers  # noqa: E402
from support.architectures import ARCHITECTURES, Measured, measure  # noqa: E402
from support.models import make_tokenizer  # noqa: E402

_TABLE = re.compile(r"(<!-- measured by docs/models\.py -->\n).*?(<!-- end of the table -->)", re.DOTALL)


def main() -> None:
    """Measure, print, write."""
    warnings.filterwarnings("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    lines = [
        f"Measured with transformers {transformers.__version__} and torch {torch.__version__.partition('+')[0]}.",
        "",
        "| architecture | class of transformers | how it runs | states | scores | losses |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    wrong = []
    with tempfile.TemporaryDirectory() as home:
        tokenizer = Path(home) / "tokenizer"
        make_tokenizer(tokenizer)
        for number, name in enumerate(ARCHITECTURES):
            measured = measure(name, Path(home) / str(number), tokenizer)
            lines.append(_row(name, measured))
            print(lines[-1], flush=True)
            if not (measured.states < 1e-4 and measured.scores < 1e-3 and measured.losses < 1e-4):
                wrong.append(name)
    page = HERE / "models.md"
    text = page.read_text(encoding="utf-8")
    table = "\n".join(lines)
    page.write_text(_TABLE.sub(lambda match: f"{match[1]}{table}\n{match[2]}", text), encoding="utf-8")
    if wrong:
        raise SystemExit(f"off by more than they may be: {', '.join(wrong)}")


def _row(name: str, measured: Measured) -> str:
    figures = (measured.states, measured.scores, measured.losses)
    return f"| {name} | `{measured.model}` | {measured.way} | {' | '.join(f'{figure:.0e}' for figure in figures)} |"


if __name__ == "__main__":
    main()
