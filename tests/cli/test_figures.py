"""Files of figures and the pictures beside them: only what is of the same kind is replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from larf_curate.cli.usage import require_figures
from larf_curate.errors import OutputError
from larf_curate.publishing.drawing import picture as picture_of
from larf_curate.publishing.drawing import png_of

MINE = "years of work"


def test_figures_and_their_pictures_replace_only_earlier_ones(tmp_path: Path) -> None:
    out, picture = tmp_path / "found.json", tmp_path / "found.png"
    require_figures(out, "audit_version")
    out.write_text('{"audit_version": 1}')
    with picture_of(3.0) as (figure, _):
        picture.write_bytes(png_of(figure))
    require_figures(out, "audit_version")
    for mine, content in ((out, '{"my_version": 1}'), (out, MINE), (picture, MINE)):
        kept = mine.read_bytes()
        mine.write_text(content)
        with pytest.raises(OutputError, match=f"{mine.name} is there, was not written by larf-curate"):
            require_figures(out, "audit_version")
        assert mine.read_text() == content
        mine.write_bytes(kept)
