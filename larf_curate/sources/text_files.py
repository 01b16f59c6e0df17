"""Names of files say what they hold; text files are opened here, compressed or not."""

from __future__ import annotations

import codecs
import io
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from ..errors import DataError

JSON = (".jsonl", ".ndjson", ".json", ".jsonlines")
CSV = (".csv", ".tsv")
ARROW = (".arrow", ".feather")
PARQUET = ".parquet"
COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz"}
READABLE = f"{', '.join((*JSON, *CSV))} (also {', '.join(COMPRESSED)}), {PARQUET}, {', '.join(ARROW)}"

_ADVICE = {
    ".txt": "a text file has no rows: write one JSON object a line (.jsonl)",
    ".xlsx": "save the sheet as .csv",
    ".xls": "save the sheet as .csv",
    ".ods": "save the sheet as .csv",
    ".zip": "unpack it",
    ".tar": "unpack it",
    ".tgz": "unpack it",
    ".7z": "unpack it",
    ".lz4": "unpack it",
    ".pkl": "a pickle runs code when it is read: write .parquet or .jsonl",
    ".pickle": "a pickle runs code when it is read: write .parquet or .jsonl",
    ".yaml": "write one JSON object a line (.jsonl)",
    ".yml": "write one JSON object a line (.jsonl)",
    ".xml": "write one JSON object a line (.jsonl)",
}


def kind_of(path: Path) -> str:
    """The ending that says what a file holds, without a compression's ending; empty if such files are not read.

    >>> kind_of(Path("rows.jsonl.zst")), kind_of(Path("rows.xlsx"))
    ('.jsonl', '')
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = bool(suffixes) and suffixes[-1] in COMPRESSED
    last = suffixes[-2] if packed and len(suffixes) > 1 else "".join(suffixes[-1:])
    return last if last in (*JSON, *CSV) or (not packed and last in (*ARROW, PARQUET)) else ""


def family_of(path: Path) -> str:
    """The family of a file: JSON in any spelling, CSV and TSV, Parquet, or Arrow; empty for any other.

    Files of one family can be one dataset.
    """
    kind = kind_of(path)
    return next((family[0] for family in (JSON, CSV, ARROW) if kind in family), kind)


def advice_for(path: Path) -> str:
    """What to do with a file that cannot be read, by its name."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    known = [_ADVICE[suffix] for suffix in reversed(suffixes) if suffix in _ADVICE]
    if suffixes and suffixes[-1] in COMPRESSED:
        known = known or ["unpack it"]
    return known[0] if known else f"known: {READABLE}, a saved dataset's directory, or a Hub id"


def open_text(path: Path) -> io.TextIOWrapper:
    """UTF-8, with or without a byte order mark; line ends inside fields stay as they are.

    Raises:
        DataError: it is UTF-16.
    """
    return io.TextIOWrapper(cast("io.BufferedReader", open_bytes(path)), encoding="utf-8-sig", newline="")


def open_bytes(path: Path) -> BinaryIO:
    """The unpacked bytes of a file; `skip_to` goes to a place in them.

    Raises:
        DataError: it is text in UTF-16.
    """
    compression = COMPRESSED.get(path.suffix.lower())
    if compression == "xz":
        import lzma

        file = cast("io.BufferedReader", lzma.open(path, "rb"))  # noqa: SIM115 - the caller closes it
    elif compression:
        file = io.BufferedReader(cast("io.RawIOBase", pa.input_stream(str(path), compression=compression)))
    else:
        file = path.open("rb")
    if file.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        file.close()
        raise DataError(f"{path} is UTF-16, not UTF-8: convert it (iconv -f UTF-16 -t UTF-8)")
    return cast("BinaryIO", file)


def skip_to(file: BinaryIO, place: int) -> None:
    """Go to this byte of a file just opened; compressed ones are read up to there."""
    if file.seekable():
        file.seek(place)
        return
    while place > 0 and (chunk := file.read(min(place, 1 << 20))):
        place -= len(chunk)
