"""What every picture has in common."""

from __future__ import annotations

from itertools import pairwise

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from larf_curate.publishing.drawing import picture


@pytest.mark.parametrize(
    ("lowest", "highest"), [(-0.0123, 0.004), (-3.2, 1.1), (-0.000071, 0.000012), (0.0101, 0.0107)]
)
def test_numbers_under_a_picture_do_not_touch_each_other(lowest, highest):
    with picture() as (figure, axes):
        axes.plot([lowest, highest], [0, 1])
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        labels = [tick for tick in axes.get_xticklabels() if tick.get_text()]
        places = sorted(tuple(label.get_window_extent(canvas.get_renderer()).intervalx) for label in labels)
        inside = [place for place in places if place[1] > 0 and place[0] < figure.bbox.width]
    assert len(inside) >= 3
    for before, after in pairwise(inside):
        assert after[0] - before[1] > 10  # pixels; a digit has 19
