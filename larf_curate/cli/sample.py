"""The command that shows the whole path on packaged rows and the embedded model."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from ..errors import ThresholdError
from ..models import demo as demo_model
from ..progress import tell
from .usage import Json, parse_blocks, tell_to_look, wrong_usage


def demo(
    out: Annotated[Path, typer.Option(help="Directory for the result.")] = Path("larf-demo"),
    layer: Annotated[str, typer.Option(help="Block to read.")] = str(demo_model.LAYER),
    drop_fraction: Annotated[float, typer.Option(help="Share of the rows to remove.")] = 0.1,
    json: Json = False,
) -> None:
    """The whole path on the embedded model and the packaged sample rows: fit, score, remove the highest tenth."""
    from ..console import show_summary
    from ..deciding.thresholds import Threshold
    from ..engines.local_files import score_file, split_file
    from ..scoring.artifact import require_writable
    from ..scoring.scorer import LARFScorer
    from ..sources.files import open_source
    from ..sources.writing import refuse_occupied

    with wrong_usage(ThresholdError):
        threshold = Threshold.drop_fraction(drop_fraction)
    refuse_occupied(out)
    require_writable(out)
    fitted = LARFScorer.fit("demo", parse_blocks(layer))
    with as_file(files("larf_curate") / "data" / "sample_rows.jsonl") as rows, TemporaryDirectory() as scratch:
        scored = Path(scratch) / "scored.parquet"
        score_file(open_source(str(rows)), fitted, scored)
        summary = split_file(open_source(str(scored)), threshold, out)
    if json:
        print(summary.to_json())
        return
    show_summary(summary)
    tell(f"written to {out}: kept/ removed/ unscorable/ (Parquet)")
    tell_to_look(out)
    tell(f'to load what was kept: from datasets import load_dataset; load_dataset("{out}/kept", split="train")')
