"""CSV fields are the strings that they are."""

from __future__ import annotations

import csv
import gzip

import pytest
from support.source_rows import (
    read,
)

from larf_curate.errors import DataError
from larf_curate.sources.files import open_source


@pytest.mark.parametrize(("ending", "delimiter"), [(".csv", ","), (".tsv", "\t"), (".csv.gz", ",")])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv_fields_are_the_strings_they_are(ending, delimiter, bom, end, tmp_path):
    rows = [
        ["q", "a"],
        ["007", "NA"],
        ["2024-01-02", "1e5"],
        ["", "null"],
        ["comma, tab\t", 'quote " line\nbreak\u2028é'],
        [" true ", "\x00"],
    ]
    text = bom + end.join(delimiter.join(f'"{field.replace(chr(34), chr(34) * 2)}"' for field in row) for row in rows)
    path = tmp_path / f"rows{ending}"
    path.write_bytes(gzip.compress(text.encode()) if ending.endswith(".gz") else text.encode())
    source = open_source(str(path))
    assert read(source) == [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    assert source.rows == 5


def test_csv_shards_with_other_columns_are_refused(tmp_path):
    for i, name in enumerate("ab"):
        (tmp_path / f"{i}.csv").write_text(f"{name}\n1\n")
    with pytest.raises(DataError, match=r"1\.csv has other columns than"):
        open_source(str(tmp_path))


def test_csv_round_trip_against_the_standard_library(tmp_path):
    """Written by Python's own writer with every oddity, so that quoting is not judged by the code that reads it."""
    rows = [{"a": a, "b": b} for a in ("", "x,y", '"', "l1\nl2", "tab\t") for b in ("007", "NA", " é ")]
    with (tmp_path / "in.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["a", "b"])
        writer.writeheader()
        writer.writerows(rows)
    assert read(open_source(str(tmp_path / "in.csv"))) == rows
