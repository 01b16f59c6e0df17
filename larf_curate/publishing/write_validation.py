"""Write a validation beside the results of the run that it validates."""

from __future__ import annotations

from pathlib import Path

from ..atomic import require_writable, write_bytes, write_text
from ..validation.results import VALIDATION, Validation, is_validation
from ..written import claim, claim_file
from .drawing import is_our_picture
from .validation_plots import NAMES, draw_validation
from .write_report import PLOTS


def require_places(run: Path, out: Path | None) -> None:
    """Find out before hours of training that the result cannot be written where `write_validation` writes it.

    Raises:
        OutputError: as for `write_validation`.
    """
    claim(run, {VALIDATION})
    require_writable(run / VALIDATION)
    if out is not None:
        require_writable(out)
        claim_file(out, is_validation)
        for name in NAMES:
            claim_file(_beside(out, name), is_our_picture)


def write_validation(validation: Validation, run: str | Path | None, out: Path | None = None) -> tuple[Path, ...]:
    """Write the figures as JSON and the pictures.

    Args:
        validation: the validation to write.
        run: directory of a run, which gets `validation.json` and its pictures in `plots/`; None for none.
        out: a file for the figures, with the pictures beside it.

    Returns:
        The files.

    Raises:
        OutputError: they cannot be written, or a file that was not written here has one of their names.
    """
    plots = draw_validation(validation)
    written: list[Path] = []
    if run is not None:
        home = Path(run)
        claim(home, {VALIDATION, *(f"{PLOTS}/{plot.name}" for plot in plots)})
        for plot in plots:
            write_bytes(home / PLOTS / plot.name, plot.png)
        write_text(home / VALIDATION, validation.to_json())
        written += [home / VALIDATION, *(home / PLOTS / plot.name for plot in plots)]
    if out is not None:
        for plot in plots:
            picture = _beside(out, plot.name)
            claim_file(picture, is_our_picture)
            write_bytes(picture, plot.png)
            written.append(picture)
        claim_file(out, is_validation)
        write_text(out, validation.to_json())
        written.insert(0, out)
    return tuple(written)


def _beside(out: Path, plot: str) -> Path:
    """The picture of a plot beside a file of figures."""
    return out.with_name(f"{out.stem}-{plot.removeprefix('validation-')}")
