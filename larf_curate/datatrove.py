"""Steps for a datatrove pipeline: score and filter documents, and read and write rows without altering them.

from larf_curate.datatrove import LARFFilter, RowReader, RowWriter

pipeline = [RowReader("rows/*.jsonl"), LARFFilter("my-scorer", max_score=0.001), RowWriter("out/kept", schema)]
"""

from __future__ import annotations

from .deciding.splitting import scored_schema
from .engines.datatrove_annotator import LARFAnnotator
from .engines.datatrove_files import RowReader, RowWriter
from .engines.datatrove_filter import LARFFilter
from .engines.datatrove_rows import carry_row

__all__ = ["LARFAnnotator", "LARFFilter", "RowReader", "RowWriter", "carry_row", "scored_schema"]
