"""What every picture has in common: legible at the width of a card and of a phone, on light pages and on dark ones."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind people tell apart; the shapes differ too.
KEPT, REMOVED, LINE = "#0072B2", "#D55E00", "#333333"
_SOFTWARE = "larf-curate"  # in the file of every picture
UNSAFE, SAFE = "#AA3377", "#009E73"
_STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same glyphs, and bytes, everywhere
    "font.size": 14,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "figure.facecolor": "white",  # not transparent: dark pages would swallow the labels
    "text.parse_math": False,  # a dollar in a name is a dollar
}


@dataclass(frozen=True)
class Plot:
    """A picture: the name of its file, what it shows in words, and the PNG file's content."""

    name: str
    caption: str
    png: bytes


@contextmanager
def picture(height: float = 4.2) -> Iterator[tuple[Figure, Axes]]:
    """Yield a figure and its axes; see `pictures`."""
    with pictures(1, height) as (figure, panels):
        yield figure, panels[0]


@contextmanager
def pictures(count: int, height: float = 4.2) -> Iterator[tuple[Figure, list[Axes]]]:
    """Yield a figure and its panels, one above the other, away from pyplot (which would keep it) and the user's style.

    Args:
        count: how many panels.
        height: the height of each panel, in inches.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        figure = Figure(figsize=(6.4, height * count), dpi=150, layout="constrained")
        panels = list(figure.subplots(count, squeeze=False)[:, 0])
        for axes in panels:
            # matplotlib makes room for ticks of three characters; those of scores have seven ("-0.0025").
            axes.locator_params(axis="x", nbins=5)
        yield figure, panels


def is_our_picture(path: Path) -> bool:
    """Whether a file is a picture that `png_of` has made."""
    try:
        with path.open("rb") as file:
            return f"Software\0{_SOFTWARE}".encode() in file.read(256)
    except OSError:
        return False


def png_of(figure: Figure) -> bytes:
    """The picture as a PNG file; equal pictures give equal bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    out = io.BytesIO()
    warnings.filterwarnings("ignore", "Glyph")  # a name in a script that the font lacks shows as boxes
    canvas: Any = FigureCanvasAgg(figure)
    canvas.print_png(out, metadata={"Software": _SOFTWARE})  # print_figure would lay it out once more
    return out.getvalue()
